import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem, type as osType } from 'node:os';
import { fileURLToPath } from 'node:url';
import { findTool } from '../../src/local/tools.ts';

/** What one failover of the fault test came to. Times in milliseconds. */
export interface Round {
  readonly mode: 'planned' | 'forced';
  readonly number: number;
  readonly from: string;
  readonly to: string;
  /** `succeeded`, or how it ended. */
  readonly outcome: string;
  /** What the engine measured; null: it said that it did not. */
  readonly rtoMs: number | null;
  readonly refusedWindowMs: number | null;
  readonly promotionMs: number | null;
  readonly lost: number | null;
  /** By the writer's own record. */
  readonly writer: { readonly acknowledged: number; readonly refused: number; readonly unanswered: number; readonly lost: number; readonly longestGapMs: number | null } | null;
  /** Where the two do not agree, and what was not as it must be. */
  readonly disagreements: readonly string[];
  readonly wrong: readonly string[];
}

export interface Machine {
  readonly command: string;
  readonly commit: string;
  readonly cores: number;
  readonly loadAtStart: number;
  readonly lines: readonly string[];
}

export function machine(command: string): Machine {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const say = (program: string, args: readonly string[]): string => {
    try {
      return execFileSync(program, args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim().split('\n')[0]!;
    } catch {
      return 'unknown';
    }
  };
  // The report itself is always a change.
  const changed = say('git', ['status', '--porcelain', '--untracked-files=no', '--', '.', ':!docs/fault-report.md']);
  const version = (name: string): string => (JSON.parse(readFileSync(`${root}/node_modules/${name}/package.json`, 'utf8')) as { version: string }).version;
  const [core] = cpus();
  return {
    command,
    commit: `${say('git', ['rev-parse', 'HEAD'])}${changed === '' ? '' : ' with uncommitted changes'}`,
    cores: cpus().length,
    loadAtStart: loadavg()[0]!,
    lines: [
      `${cpus().length} cores (${core?.model.trim() ?? 'unknown'}), ${(totalmem() / 2 ** 30).toFixed(1)} GiB of memory, ${osType()} ${release()}`,
      say(findTool('postgres'), ['--version']),
      `Temporal: ${say(findTool('temporal'), ['--version'])}; SDK ${version('@temporalio/worker')}; Node ${process.version}`,
      'Databases, Temporal, emulated AWS, worker and writer all on this machine; fsync is off; candidate and primary on one disk.',
    ],
  };
}

export interface Figures {
  readonly count: number;
  readonly min: number;
  readonly median: number;
  readonly p95: number;
  readonly max: number;
}

/** null without a value. The percentile is the smallest value that at least that share is not above (nearest rank). */
export function figures(values: readonly number[]): Figures | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const rank = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!;
  return { count: sorted.length, min: sorted[0]!, median: rank(0.5), p95: rank(0.95), max: sorted.at(-1)! };
}

const BUCKETS = 8;
const BAR = 40;

/** Equal buckets from the smallest value to p95; what is above p95 has a line of its own. */
export function histogram(values: readonly number[], unit: string): string[] {
  const all = figures(values);
  if (all === null) return ['(no value)'];
  const width = Math.max(1, Math.ceil((all.p95 - all.min + 1) / BUCKETS));
  const counts = new Map<string, number>();
  for (let low = all.min; low <= all.p95; low += width) counts.set(`${low} - ${low + width - 1}`, 0);
  const labels = [...counts.keys()];
  const above = `above ${all.min + width * labels.length - 1}`;
  for (const value of values) {
    const label = labels[Math.floor((value - all.min) / width)] ?? above;
    counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  const most = Math.max(...counts.values());
  const pad = Math.max(...[...counts.keys()].map((label) => label.length));
  return [...counts].map(([label, count]) => `${label.padStart(pad)}${unit === '' ? '' : ` ${unit}`} | ${'#'.repeat(count === 0 ? 0 : Math.max(1, Math.round((count / most) * BAR)))}${count === 0 ? '' : ' '}${count}`);
}

/** docs/fault-report.md: figures of a real run and nothing else. */
export function faultReport(rounds: readonly Round[], planned: { readonly planned: number; readonly forced: number }, about: Machine, times: { readonly startedAt: string; readonly endedAt: string; readonly loadAtEnd: number }): string {
  const lines: string[] = [];
  const say = (...more: string[]): void => void lines.push(...more);
  const disagreements = rounds.flatMap((round) => round.disagreements.map((text) => `${round.mode} ${round.number}: ${text}`));
  const wrong = rounds.flatMap((round) => [...(round.outcome === 'succeeded' ? [] : [`${round.mode} ${round.number}: ${round.outcome}`]), ...round.wrong.map((text) => `${round.mode} ${round.number}: ${text}`)]);
  const ran = { planned: rounds.filter((round) => round.mode === 'planned').length, forced: rounds.filter((round) => round.mode === 'forced').length };
  const complete = ran.planned === planned.planned && ran.forced === planned.forced;
  say(
    '<!-- Written by the run itself (test/fault/failover.test.ts); do not edit. -->',
    '',
    '# Fault report',
    '',
    `${complete ? '' : '**Incomplete run.** '}${ran.planned} of ${planned.planned} planned and ${ran.forced} of ${planned.forced} forced failovers of a PostgreSQL pair under a live writer. ` +
      `Wrong ends: ${wrong.length}. Disagreements between the engine's figures and the writer's own record: ${disagreements.length}.`,
    '',
    'The writer inserts one row after another through the application\'s secret and remembers what was acknowledged, refused and left unanswered. It shares no code',
    'with the canary that the engine measures by, and runs in the process of the test, as the worker does. Planned rounds switch back and forth, each by the failback runbook (rebuild, catch up,',
    'switch over). In a forced round the primary and all its processes get SIGKILL under writes, the standby is promoted, and the old primary is started again to see',
    'that nobody can write to it.',
    '',
    '## Made by',
    '',
    '```sh',
    about.command,
    '```',
    '',
    `- ${times.startedAt} to ${times.endedAt}, commit ${about.commit}`,
    ...about.lines.map((line) => `- ${line}`),
    `- load average (1 min) at the start ${about.loadAtStart.toFixed(1)}, at the end ${times.loadAtEnd.toFixed(1)}${Math.max(about.loadAtStart, times.loadAtEnd) > about.cores ? `: **others were using the machine (${about.cores} cores), which inflates every time below**` : ''}`,
  );
  for (const mode of ['planned', 'forced'] as const) {
    const of = rounds.filter((round) => round.mode === mode);
    if (of.length === 0) continue;
    const values = (pick: (round: Round) => number | null | undefined): number[] => of.map(pick).filter((value): value is number => typeof value === 'number');
    const rows: [string, string, number[]][] =
      mode === 'planned'
        ? [
            ['writes refused, measured by the engine', 'ms', values((round) => round.refusedWindowMs)],
            ['longest gap between two acknowledgements, by the writer', 'ms', values((round) => round.writer?.longestGapMs)],
            ['promotion', 'ms', values((round) => round.promotionMs)],
            ['RTO: start to first good write', 'ms', values((round) => round.rtoMs)],
          ]
        : [
            ['RTO: last commit before the failure to first good write, measured by the engine', 'ms', values((round) => round.rtoMs)],
            ['longest gap between two acknowledgements, by the writer', 'ms', values((round) => round.writer?.longestGapMs)],
            ['promotion', 'ms', values((round) => round.promotionMs)],
            ['acknowledged writes lost in a round, by the writer', '', values((round) => round.writer?.lost)],
            ['transactions lost in a round, counted by the engine', '', values((round) => round.lost)],
          ];
    const sum = (pick: (round: Round) => number | undefined): number => of.reduce((total, round) => total + (pick(round) ?? 0), 0);
    const outcomes = new Map<string, number>();
    for (const round of of) outcomes.set(round.outcome === 'succeeded' ? 'succeeded' : 'did not succeed', (outcomes.get(round.outcome === 'succeeded' ? 'succeeded' : 'did not succeed') ?? 0) + 1);
    say(
      '',
      `## ${mode === 'planned' ? 'Planned' : 'Forced'}: ${of.length} runs, ${[...outcomes].map(([what, count]) => `${count} ${what}`).join(', ')}`,
      '',
      '| figure | measured in | min | median | p95 | max |',
      '| --- | --- | --- | --- | --- | --- |',
      ...rows.map(([what, unit, list]) => {
        const all = figures(list);
        return `| ${what} | ${list.length} of ${of.length} | ${all === null ? '- | - | - | -' : [all.min, all.median, all.p95, all.max].map((value) => `${value}${unit === '' ? '' : ` ${unit}`}`).join(' | ')} |`;
      }),
      '',
      '| writes, by the writer\'s own record | sum |',
      '| --- | --- |',
      `| acknowledged | ${sum((round) => round.writer?.acknowledged)} |`,
      `| refused, or nobody was there | ${sum((round) => round.writer?.refused)} |`,
      `| unanswered: the connection was lost first | ${sum((round) => round.writer?.unanswered)} |`,
      `| acknowledged and lost | ${sum((round) => round.writer?.lost)} |`,
      `| lost by the engine's count (${mode === 'planned' ? 'the canary\'s writes' : 'COMMIT records in the old primary\'s WAL after the fork'}) | ${sum((round) => round.lost ?? undefined)} |`,
    );
    for (const [what, unit, list] of rows.slice(0, mode === 'planned' ? 3 : 4)) {
      if (list.length > 1) say('', `${what}:`, '', '```', ...histogram(list, unit), '```');
    }
  }
  say('', '## Disagreements', '', ...(disagreements.length === 0 ? ['None.'] : disagreements.map((text) => `- ${text}`)), '', '## Wrong ends', '', ...(wrong.length === 0 ? ['None.'] : wrong.map((text) => `- ${text}`)), '');
  say(
    'A disagreement is: another count of lost writes (forced: the engine may count more by at most the writer\'s unanswered writes, which were committed and whose answer died',
    `with the server), or a time that differs by more than ${TOLERANCE_MS} ms and by more than half of the larger. Either fails the run, as does any end but: one node takes`,
    'writes, secret and DNS name it, the other refuses everybody also when it is started again.',
    '',
  );
  return lines.join('\n');
}

export const TOLERANCE_MS = 1000;

/** The engine's time against the writer's: null when they agree. */
export function timeDisagreement(what: string, engineMs: number | null, writerMs: number | null): string | null {
  if (engineMs === null || writerMs === null) return `${what}: the engine measured ${engineMs ?? 'nothing'}, the writer ${writerMs ?? 'nothing'}`;
  const apart = Math.abs(engineMs - writerMs);
  return apart > TOLERANCE_MS && apart > Math.max(engineMs, writerMs) / 2 ? `${what}: the engine measured ${engineMs} ms, the writer ${writerMs} ms` : null;
}
