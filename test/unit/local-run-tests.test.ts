import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { countVitest, type VitestReport } from '../../src/local/run-tests.ts';
import { cacheFolder, findTool } from '../../src/local/tools.ts';
import versions from '../../src/local/tools.json' with { type: 'json' };

const folder = mkdtempSync(join(tmpdir(), 'holdfast-unit-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function report(over: Partial<VitestReport> = {}): VitestReport {
  return { numPassedTests: 3, numFailedTests: 0, numPendingTests: 0, numTodoTests: 0, testResults: [], ...over };
}

describe('the count of npm test', () => {
  it('is what vitest counted when all went well', () => {
    expect(countVitest(report(), 0, false)).toEqual({ passed: 3, failed: 0, notes: [] });
    expect(countVitest(report({ numFailedTests: 2 }), 1, false)).toMatchObject({ passed: 3, failed: 2 });
  });

  it.each([
    ['a crash without a report', undefined, null, 0, 1],
    ['no test at all', report({ numPassedTests: 0 }), 0, 0, 1],
    ['an error outside the tests', report(), 1, 3, 1],
    ['a file that did not load', report({ testResults: [{ name: 'a.test.ts', status: 'failed', message: 'no such module', assertionResults: [] }] }), 1, 3, 1],
    ['a skipped test', report({ numPendingTests: 1 }), 0, 3, 1],
  ] as const)('counts %s as failed', (_, found, code, passed, failed) => {
    const count = countVitest(found, code, false);
    expect(count).toMatchObject({ passed, failed });
    expect(count.notes).not.toEqual([]);
  });

  it('does not count what was not asked for', () => {
    expect(countVitest(report({ numPendingTests: 9 }), 0, true)).toMatchObject({ passed: 3, failed: 0 });
  });
});

describe('tools of the local stack', () => {
  function place(path: string): string {
    mkdirSync(join(path, '..'), { recursive: true });
    writeFileSync(path, '#!/bin/sh\n');
    chmodSync(path, 0o755);
    return path;
  }

  it('are taken from the named cache, else from PATH, else from the default cache', () => {
    const named = join(folder, 'named');
    const home = join(folder, 'xdg');
    const onPath = join(folder, 'path');
    const inDefault = place(join(home, 'holdfast', `temporal-${versions.temporal}`, 'temporal'));
    expect(findTool('temporal', { XDG_CACHE_HOME: home, PATH: onPath })).toBe(inDefault);
    const path = place(join(onPath, 'temporal'));
    expect(findTool('temporal', { XDG_CACHE_HOME: home, PATH: `/nowhere${delimiter}${onPath}` })).toBe(path);
    expect(findTool('temporal', { HOLDFAST_CACHE: named, PATH: onPath })).toBe(path);
    const cached = place(join(named, `temporal-${versions.temporal}`, 'temporal'));
    expect(findTool('temporal', { HOLDFAST_CACHE: named, PATH: onPath })).toBe(cached);
  });

  it('that are missing are named with what to do', () => {
    const search = (): string => findTool('versitygw', { HOLDFAST_CACHE: join(folder, 'empty'), PATH: '' });
    expect(search).toThrow('versitygw was found neither on PATH nor at');
    expect(search).toThrow(expect.objectContaining({ code: 'tool-missing', next: expect.stringContaining('npm run demo') }));
    expect(cacheFolder({ HOLDFAST_CACHE: '/c' })).toBe('/c');
  });
});

describe('the bootstrap', () => {
  const bootstrap = fileURLToPath(new URL('../../src/local/bootstrap.js', import.meta.url));

  function attempt(args: readonly string[], env: Record<string, string>): { status: number; stdout: string; stderr: string } {
    try {
      return { status: 0, stdout: execFileSync(process.execPath, [bootstrap, ...args], { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }), stderr: '' };
    } catch (error) {
      const { status, stdout, stderr } = error as { status: number; stdout: string; stderr: string };
      return { status, stdout, stderr };
    }
  }

  it('refuses an unknown command and names the known ones', () => {
    const answer = attempt(['dance'], { PATH: process.env['PATH'] ?? '' });
    expect(answer.status).toBe(1);
    expect(answer.stderr).toContain('demo | demo region | demo mongodb | demo dynamodb | test | test:fault | bench | holdfast');
  });

  it('says what to install when Go is missing, before it spends minutes, and counts the tests as failed', () => {
    const bin = join(folder, 'bin');
    mkdirSync(bin, { recursive: true });
    const answer = attempt(['test'], { PATH: bin, HOLDFAST_CACHE: join(folder, 'bare-cache') });
    expect(answer.status).toBe(1);
    expect(answer.stderr).toContain('Go is missing; it compiles versitygw, toxiproxy, kubernetes and ferretdb. Install Go 1.24 or newer');
    expect(answer.stdout.trimEnd().split('\n').at(-1)).toBe('0 passed, 1 failed');
  });
});
