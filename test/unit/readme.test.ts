import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { COMMANDS } from '../../src/cli/commands.ts';
import { readConfig } from '../../src/systems/config-file.ts';

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

describe('what people copy from the documents', () => {
  test('the smallest holdfast.yaml of the README is valid', async () => {
    const yaml = /```yaml\n([\s\S]*?)```/.exec(read('README.md'))![1]!;
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-readme-'));
    try {
      writeFileSync(join(folder, 'holdfast.yaml'), yaml);
      const { config, findings } = await readConfig(join(folder, 'holdfast.yaml'));
      expect(findings.filter(({ level }) => level === 'error')).toEqual([]);
      expect(config?.services['orders']?.objectives).toMatchObject({ rto: 900_000, rpo: 3_600_000 });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test('every command in README and docs exists, and every document it links to is there', () => {
    const names = new Set([...COMMANDS.map(({ name }) => name), 'COMMAND']);
    for (const path of ['README.md', 'docs/cli.md', 'docs/guide.md', 'docs/operations.md']) {
      const text = read(path);
      const used = [...text.matchAll(/(?:^|`|-- |\n)holdfast (?:-- )?([a-z][a-z-]*)/g)].map((match) => match[1]!);
      expect(used.filter((name) => !names.has(name))).toEqual([]);
      const links = [...text.matchAll(/\]\((?!https?:)([^)#]+)\)/g)].map((match) => match[1]!);
      for (const link of links) if (!link.endsWith('runbooks')) read(path.startsWith('docs/') ? `docs/${link}` : link);
    }
  });
});
