// `npm test` after the bootstrap: checks of the sources, then vitest; the last line is `N passed, N failed`, with numbers that were counted.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { passSignalsOn } from './pass-on.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export interface Count {
  readonly passed: number;
  readonly failed: number;
  /** Why a number is not simply vitest's own. */
  readonly notes: readonly string[];
}

/** The part of vitest's JSON report that is counted. */
export interface VitestReport {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly testResults: readonly { readonly name: string; readonly status: string; readonly message?: string; readonly assertionResults: readonly { readonly status: string }[] }[];
}

/**
 * What a vitest run amounts to. A file that failed outside its tests, an unhandled error, a crash, and a run without a single test
 * each count as failed; so does a skipped test, unless only some were asked for.
 */
export function countVitest(report: VitestReport | undefined, exitCode: number | null, selected: boolean): Count {
  if (report === undefined) return { passed: 0, failed: 1, notes: [`vitest ended with ${exitCode === null ? 'a signal' : `exit code ${exitCode}`} and no report`] };
  const notes: string[] = [];
  const passed = report.numPassedTests;
  let failed = report.numFailedTests;
  const files = report.testResults.filter((file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'));
  for (const file of files) notes.push(`${file.name} failed outside its tests: ${file.message ?? ''}`);
  failed += files.length;
  const skipped = report.numPendingTests + report.numTodoTests;
  if (skipped > 0 && !selected) {
    notes.push(`${skipped} test(s) were skipped, which counts as failed`);
    failed += skipped;
  }
  if (passed + failed === 0) {
    notes.push('no test was found');
    failed += 1;
  }
  if (exitCode !== 0 && failed === 0) {
    notes.push(`every test passed, but vitest ended with ${exitCode === null ? 'a signal' : `exit code ${exitCode}`}: an error outside the tests`);
    failed += 1;
  }
  return { passed, failed, notes };
}

/** What `npm run test:fault` runs in its long form; `npm test` has the short one. */
const LONG_PATHS = ['test/fault', 'test/integration/failover.test.ts', 'test/unit/execution-model.test.ts'];

async function main([scope = 'all', ...args]: readonly string[]): Promise<number> {
  const work = passSignalsOn();
  function run(argv: readonly string[]): Promise<number | null> {
    const child = spawn(process.execPath, argv, { cwd: ROOT, stdio: 'inherit' });
    work.child = child;
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code) => resolve(code));
    });
  }

  let passed = 0;
  let failed = 0;
  if (scope === 'all' && args.length === 0) {
    for (const [what, argv] of [
      ['generated files are current', ['src/cli/generate.ts', '--check']],
      ['types', ['node_modules/typescript/bin/tsc', '--noEmit']],
      ['lint', ['node_modules/oxlint/bin/oxlint', '--deny-warnings']],
    ] as const) {
      if (work.interrupted) break;
      const started = Date.now();
      const ok = (await run(argv)) === 0;
      console.log(`${ok ? 'ok    ' : 'FAILED'} ${what} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
      if (ok) passed += 1;
      else failed += 1;
    }
  }
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-report-'));
  try {
    const reportFile = join(folder, 'report.json');
    // Hundreds of processes load the same modules; what one has compiled the next one takes from here.
    process.env['NODE_COMPILE_CACHE'] ??= join(folder, 'compiled');
    const paths = scope === 'fault' && args.length === 0 ? LONG_PATHS : args;
    // The same files, many more rounds, and one after the other: the figures are of a machine that does nothing else.
    if (scope === 'fault') process.env['HOLDFAST_TEST_ROUNDS'] ??= 'long';
    const code = work.interrupted ? null : await run(['node_modules/vitest/vitest.mjs', 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${reportFile}`, ...(scope === 'fault' ? ['--maxWorkers=1'] : []), ...paths]);
    const counted = countVitest(readReport(reportFile), code, paths.length > 0);
    for (const note of counted.notes) console.log(note);
    passed += counted.passed;
    failed += counted.failed;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  console.log(`${passed} passed, ${failed} failed`);
  return work.interrupted ? 130 : failed === 0 ? 0 : 1;
}

function readReport(path: string): VitestReport | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as VitestReport;
  } catch {
    return undefined;
  }
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));
