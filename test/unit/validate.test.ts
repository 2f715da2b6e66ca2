import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { holdfast } from '../cli/program.ts';

const ROOT = join(import.meta.dirname, '..', '..');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-validate-'));
  mkdirSync(join(folder, 'runbooks'));
  writeFileSync(join(folder, 'wrong.yaml'), 'version: 1\nstores:\n  main: {type: folder, path: x, pth: y}\ndatastores:\n  db: {engine: postgres, database: d, store: mian, admin: {username: u, password: hunter2}, nodes: {a: {host: h}}}\nservices: {}\n');
  writeFileSync(join(folder, 'warned.yaml'), 'version: 1\nstores: {}\ndatastores:\n  db: {engine: postgres, database: d, admin: {username: u, password: "env:X", sslmode: verify-full}, nodes: {a: {host: h}}}\nservices: {}\n');
  writeFileSync(join(folder, 'runbooks', 'move.yaml'), 'name: move\ntitle: t\nsummary: s\nsteps:\n  - {id: a, title: t, uses: operator.weit, narrative: n}\n');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('holdfast validate', () => {
  it('takes the example and the runbooks that come with it', async () => {
    const { code, out } = await holdfast(['validate', '--strict', '-c', 'holdfast.example.yaml'], { cwd: ROOT });
    expect(out).toMatch(/valid: no errors, no warnings\n$/);
    expect(code).toBe(0);
  });

  it('prints the findings of all files at once and ends with 2', async () => {
    const { code, out } = await holdfast(['validate', '-c', 'wrong.yaml'], { cwd: folder });
    expect(code).toBe(2);
    expect(out).toMatch(/^error .*runbooks\/move\.yaml:5 steps\[0\]\.uses: .*did you mean "operator\.wait"/m);
    expect(out).toMatch(/^error .*wrong\.yaml:3 stores\.main\.pth: .*did you mean "path"\?; found pth; allowed: type, path, /m);
    expect(out).toMatch(/^error .*wrong\.yaml:5 datastores\.db\.store: .*did you mean "main"/m);
    expect(out).toMatch(/not valid: 4 errors, 0 warnings\n$/);
    expect(out).not.toContain('hunter2');
  });

  it('gives one JSON document with --json, found by HOLDFAST_CONFIG and HOLDFAST_RUNBOOKS too', async () => {
    const { code, out } = await holdfast(['validate', '--json'], { cwd: ROOT, env: { HOLDFAST_CONFIG: join(folder, 'wrong.yaml'), HOLDFAST_RUNBOOKS: join(folder, 'runbooks') } });
    expect(code).toBe(2);
    const answer = JSON.parse(out) as { findings: unknown[] };
    expect(answer).toMatchObject({ valid: false, errors: 4, warnings: 0, runbooks: ['move'], runbookDirectory: join(folder, 'runbooks') });
    expect(answer.findings).toContainEqual(expect.objectContaining({ level: 'error', file: join(folder, 'wrong.yaml'), line: 5, path: 'datastores.db.admin.password', found: '(not shown: it may be a secret)' }));
  });

  it('takes warnings for errors with --strict only', async () => {
    const none = join(folder, 'none');
    expect(await holdfast(['validate', '-c', 'warned.yaml', '--runbooks', none], { cwd: folder })).toMatchObject({ code: 0, out: expect.stringMatching(/valid: 0 errors, 1 warning\n$/) });
    expect(await holdfast(['validate', '-c', 'warned.yaml', '--runbooks', none, '--strict'], { cwd: folder })).toMatchObject({ code: 2 });
  });

  it('names a file that is missing', async () => {
    expect(await holdfast(['validate'], { cwd: folder })).toMatchObject({ code: 2, err: expect.stringContaining(join(folder, 'holdfast.yaml')) });
  });
});
