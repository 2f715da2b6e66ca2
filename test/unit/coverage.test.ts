import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '../..');

interface Row {
  readonly line: number;
  readonly requirement: string;
  readonly where: string;
}

/** Rows of docs/coverage.md: what is asked for, how it is done, where it is shown. */
function rows(): Row[] {
  return readFileSync(join(ROOT, 'docs/coverage.md'), 'utf8').split('\n# In detail')[0]!.split('\n').flatMap((line, index) => {
    const cells = line.split('|').slice(1, -1).map((cell) => cell.trim());
    if (cells.length !== 3 || cells[0] === 'asked for' || /^-+$/.test(cells[0]!)) return [];
    return [{ line: index + 1, requirement: cells[0]!, where: cells[2]! }];
  });
}

describe('docs/coverage.md', () => {
  it('has rows', () => {
    expect(rows().length).toBeGreaterThan(30);
  });

  it.each(rows())('line $line: $requirement: each test it names is there', ({ where }) => {
    const named = [...where.matchAll(/`([^`]+)`(?:: ([^`;]+))?/g)];
    expect(named.length).toBeGreaterThan(0);
    for (const [, path, words] of named) {
      if (!path!.startsWith('test/')) continue;
      expect({ path, there: existsSync(join(ROOT, path!)) }).toEqual({ path, there: true });
      // A test is named by words of its title.
      expect({ path, words, found: words !== undefined && readFileSync(join(ROOT, path!), 'utf8').includes(words.trim()) }).toEqual({ path, words, found: true });
    }
  });
});
