import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

test('the measurement of a million documents, in short: every document proved, memory within a few batches', async () => {
  const script = fileURLToPath(new URL('../bench/mongodb-million.ts', import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, ['--disable-warning=ExperimentalWarning', script, '5000']);
  expect(stdout).toMatch(/^proof, every document read .* exact/m);
  for (const what of ['backup', 'restore', 'proof']) {
    const [, start, peak] = new RegExp(`^${what}[^\n]*?/s +(\\d+) MB +(\\d+) MB`, 'm').exec(stdout)!;
    expect(Number(peak) - Number(start)).toBeLessThan(150);
  }
});
