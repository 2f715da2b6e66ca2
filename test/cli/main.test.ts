import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { COMMANDS } from '../../src/cli/commands.ts';
import { suite, testConfig } from '../support.ts';
import { MAIN, holdfast, runHere, secretsOfTest, type ProgramExit, type ProgramOptions } from './program.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-cli-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function here(args: readonly string[], options: ProgramOptions = {}): Promise<ProgramExit> {
  return runHere(args, { cwd: folder, ...options });
}

describe('the program', () => {
  test('--help lists every command with its summary and the exit codes', async () => {
    const { code, out } = await holdfast(['--help'], { cwd: folder });
    expect(code).toBe(0);
    for (const { name, summary } of COMMANDS) expect(out.replaceAll(/\s+/g, ' ')).toContain(`${name} ${summary}`);
    const documented = readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8');
    expect(COMMANDS.filter(({ name }) => !documented.includes(`\`${name}`)).map(({ name }) => name)).toEqual([]);
    expect(out).toMatch(/Exit codes: 0 done, 1 ran and failed, 2 wrong use/);
  });

  test('every command loads and explains itself', async () => {
    const helps = [];
    for (const { name } of COMMANDS) helps.push({ name, ...(await here([name, '--help'])) });
    expect(helps.filter(({ code, out, name }) => code !== 0 || !out.startsWith(`Usage: holdfast ${name}`))).toEqual([]);
  });

  test('wrong use is exit code 2 and says what is allowed', async () => {
    expect(await holdfast(['statsu'], { cwd: folder })).toMatchObject({ code: 2, err: expect.stringMatching(/unknown command 'statsu'[\s\S]*Did you mean status\?/) });
    expect(await here(['failover', 'orders', '--mode', 'planned'])).toMatchObject({ code: 2, err: expect.stringContaining("required option '--reason <text>'") });
    expect(await here(['status', '--config'])).toMatchObject({ code: 2, err: expect.stringContaining('argument missing') });
    expect(await here(['approve', 'failover/x', '--reason', 'y', '--nix'])).toMatchObject({ code: 2, err: expect.stringContaining("unknown option '--nix'") });
  });

  test('a missing configuration is exit code 2 and names the file looked for', async () => {
    const missing = await here(['status']);
    expect(missing).toMatchObject({ code: 2, out: '' });
    expect(missing.err).toContain(join(folder, 'holdfast.yaml'));
    const asJson = await here(['status', '--json', '-c', 'other.yaml']);
    expect(asJson.code).toBe(2);
    expect(JSON.parse(asJson.out)).toMatchObject({ error: { code: expect.any(String), message: expect.stringContaining('other.yaml') } });
  });

  test('every error of a configuration is told at once, with line, path, found and allowed', async () => {
    const file = join(folder, 'wrong.yaml');
    writeFileSync(file, 'version: 1\nstores:\n  main:\n    type: s4\ndatastores: {}\nservices:\n  orders:\n    objectives: {rto: soon, rpo: 1m}\n    datastores: [nix]\n');
    const { code, err } = await here(['status', '--config', file]);
    expect(code).toBe(2);
    expect(err).toMatch(/wrong\.yaml:4 stores\.main\.type/);
    expect(err).toMatch(/wrong\.yaml:8 services\.orders\.objectives\.rto/);
    expect(err).toContain('holdfast validate');
  });

  test('Temporal out of reach is exit code 5; flag before environment before file', async () => {
    const context = await testConfig({ temporal: { address: '127.0.0.1:1' } });
    const env = secretsOfTest();
    const fromFile = await holdfast(['status', '-c', context.configPath], { env });
    expect(fromFile).toMatchObject({ code: 5, err: expect.stringMatching(/Temporal at 127\.0\.0\.1:1 cannot be reached[\s\S]*next: check that the server runs/) });
    const fromEnvironment = await here(['status', '-c', context.configPath], { env: { ...env, TEMPORAL_ADDRESS: '127.0.0.1:2' } });
    expect(fromEnvironment).toMatchObject({ code: 5, err: expect.stringContaining('127.0.0.1:2') });
    const fromFlag = await here(['status', '-c', context.configPath, '--address', suite().temporal.address, '--json'], { env: { ...env, TEMPORAL_ADDRESS: '127.0.0.1:2' } });
    expect(fromFlag.code).toBe(0);
    expect(Array.isArray(JSON.parse(fromFlag.out))).toBe(true);
    const noNamespace = await here(['status', '-c', context.configPath, '--address', suite().temporal.address, '--namespace', 'nix'], { env });
    expect(noNamespace).toMatchObject({ code: 5, err: expect.stringContaining('temporal operator namespace create') });
  });

  test('what does not exist is exit code 3', async () => {
    const context = await testConfig();
    const env = secretsOfTest();
    expect(await here(['status', 'failover/nix', '-c', context.configPath], { env })).toMatchObject({ code: 3, err: expect.stringContaining('there is no execution failover/nix') });
    expect(await here(['audit', 'backup/nix/1', '-c', context.configPath], { env })).toMatchObject({ code: 3 });
    expect(await here(['failover', 'nix', '--mode', 'planned', '--reason', 'test', '-c', context.configPath], { env })).toMatchObject({ code: 3, err: expect.stringContaining('there is no service named "nix"') });
    expect(await here(['abort', 'nix', '--reason', 'test', '-c', context.configPath], { env })).toMatchObject({ code: 3 });
  });

  test('a worker stops on SIGTERM with 0, and its log is one JSON document a line', async () => {
    const context = await testConfig();
    const child = spawn(process.execPath, [MAIN, 'worker', '-c', context.configPath, '--grace', '1'], { env: { PATH: process.env['PATH'], ...secretsOfTest() }, stdio: ['ignore', 'pipe', 'pipe'] });
    let log = '';
    const closed = new Promise<number | null>((resolve) => {
      child.once('close', (code) => resolve(code));
    });
    const started = new Promise<void>((resolve, reject) => {
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        log += text;
        if (log.includes('worker started')) resolve();
      });
      child.once('close', () => reject(new Error(`the worker ended: ${log}`)));
    });
    await started;
    child.kill('SIGTERM');
    expect(await closed).toBe(0);
    const lines = log.trim().split('\n').map((line) => JSON.parse(line) as { msg: string; taskQueue?: string });
    expect(lines.map(({ msg }) => msg)).toEqual(expect.arrayContaining(['worker started', 'worker stopped']));
    expect(lines.find(({ msg }) => msg === 'worker started')?.taskQueue).toBe(context.config.temporal.taskQueue);
  });
});
