import { describe, expect, it } from 'vitest';
import { rehearsalSchema, type RehearsalConfig } from '../../src/model/config-rehearsals.ts';
import { parseMoment } from '../../src/model/moment.ts';
import { judgeRehearsal, rehearsalCron, rehearsalReadiness, whyNotRehearsed, type RehearsalRun } from '../../src/model/rehearsal.ts';
import { nextWalFile, pgbackrestContent, walgContent } from '../../src/systems/wal-archive.ts';

const rehearsal = (more: Record<string, unknown> = {}): RehearsalConfig => rehearsalSchema.parse({ name: 'wal', every: 'monthly', runbook: 'wal-rehearsal', ...more });
const run = (finishedAt: string, more: Partial<RehearsalRun> = {}): RehearsalRun => ({ workflowId: `runbook/wal-rehearsal/${finishedAt}`, finishedAt, outcome: 'succeeded', objectivesMet: true, evidence: '/evidence/x', byPeople: [], ...more });
const at = (text: string): number => Date.parse(text);
const judge = (config: RehearsalConfig, runs: readonly RehearsalRun[], now: string) => judgeRehearsal('orders', config, runs, at(now));

describe('the calendar of rehearsals', () => {
  it('is a cron line of months', () => {
    expect(rehearsalCron(rehearsal())).toBe('0 3 1 * *');
    expect(rehearsalCron(rehearsal({ every: 'quarterly', month: 2, day: 15, time: '22:30' }))).toBe('30 22 15 2,5,8,11 *');
    expect(rehearsalCron(rehearsal({ every: 'quarterly', month: 12 }))).toBe('0 3 1 3,6,9,12 *');
    expect(rehearsalCron(rehearsal({ every: 'half-yearly', month: 9 }))).toBe('0 3 1 3,9 *');
  });

  it('is held until the next time, due until the grace has passed, then overdue', () => {
    const runs = [run('2026-10-01T03:05:00Z')];
    expect(judge(rehearsal(), runs, '2026-10-20T00:00:00Z')).toMatchObject({ state: 'held', dueAt: '2026-11-01T03:00:00.000Z', nextAt: '2026-11-01T03:00:00.000Z' });
    expect(judge(rehearsal(), runs, '2026-11-01T03:00:00Z').state).toBe('due');
    expect(judge(rehearsal(), runs, '2026-11-08T03:00:00Z').state).toBe('due');
    expect(judge(rehearsal(), runs, '2026-11-08T03:00:01Z')).toMatchObject({ state: 'overdue', dueAt: '2026-11-01T03:00:00.000Z', nextAt: '2026-12-01T03:00:00.000Z' });
    expect(judge(rehearsal({ every: 'half-yearly' }), runs, '2026-12-31T00:00:00Z').state).toBe('held');
    expect(judge(rehearsal({ every: 'half-yearly' }), runs, '2027-01-09T00:00:00Z').state).toBe('overdue');
  });

  it('reads day and time in its own zone, also where the clocks change', () => {
    const seoul = judge(rehearsal({ timezone: 'Asia/Seoul', time: '04:00' }), [run('2026-10-05T00:00:00Z')], '2026-10-20T00:00:00Z');
    expect(seoul.dueAt).toBe('2026-10-31T19:00:00.000Z');
    const berlin = rehearsal({ timezone: 'Europe/Berlin', time: '09:00' });
    expect(judge(berlin, [run('2026-10-05T00:00:00Z')], '2026-10-20T00:00:00Z').dueAt).toBe('2026-11-01T08:00:00.000Z');
    expect(judge(berlin, [run('2026-09-05T00:00:00Z')], '2026-09-20T00:00:00Z').dueAt).toBe('2026-10-01T07:00:00.000Z');
  });

  it('counts only what succeeded in full, with evidence, within its objectives', () => {
    expect(whyNotRehearsed(run('2026-10-01T00:00:00Z'))).toBeNull();
    for (const [more, why] of [[{ outcome: 'failed' }, 'failed'], [{ byPeople: ['restore'] }, 'restore was skipped'], [{ evidence: null }, 'no evidence'], [{ objectivesMet: false }, 'objective']] as const) {
      const state = judge(rehearsal(), [run('2026-09-01T03:05:00Z'), run('2026-10-01T03:05:00Z', more)], '2026-10-20T00:00:00Z');
      expect(state).toMatchObject({ state: 'overdue', last: { finishedAt: '2026-09-01T03:05:00Z' }, notCounted: { finishedAt: '2026-10-01T03:05:00Z' } });
      expect(state.notCounted!.why).toContain(why);
      expect(rehearsalReadiness(state, 'run it').found).toContain(why);
    }
    // A drill that nobody set objectives for is proved all the same.
    expect(whyNotRehearsed(run('2026-10-01T00:00:00Z', { outcome: 'verified', objectivesMet: null }))).toBeNull();
  });

  it('lowers readiness when it was never held or is overdue, and says what to type', () => {
    const never = judge(rehearsal(), [], '2026-10-20T00:00:00Z');
    expect(never).toMatchObject({ state: 'never', last: null, dueAt: null, nextAt: '2026-11-01T03:00:00.000Z' });
    expect(rehearsalReadiness(never, 'holdfast run wal-rehearsal')).toMatchObject({ ok: false, weight: 'lowers', next: 'holdfast run wal-rehearsal', found: expect.stringContaining('never succeeded') });
    expect(rehearsalReadiness(judge(rehearsal(), [run('2026-10-01T03:05:00Z')], '2026-11-02T00:00:00Z'), 'x')).toMatchObject({ ok: true });
  });

  it('takes either a runbook or a drill', () => {
    expect(rehearsalSchema.safeParse({ name: 'x', every: 'monthly' }).success).toBe(false);
    expect(rehearsalSchema.safeParse({ name: 'x', every: 'monthly', runbook: 'a', drill: 'b' }).success).toBe(false);
    expect(rehearsalSchema.safeParse({ name: 'x', every: 'monthly', drill: 'b', day: 31 }).success).toBe(false);
  });
});

describe('a moment', () => {
  it('has a time zone and keeps its microseconds', () => {
    expect(parseMoment('2026-11-21T09:30:00Z')).toEqual({ postgres: '2026-11-21 09:30:00+00:00', ms: at('2026-11-21T09:30:00Z') });
    expect(parseMoment('2026-11-21 18:30:00.250001+0900')).toEqual({ postgres: '2026-11-21 18:30:00.250001+09:00', ms: at('2026-11-21T09:30:00.251Z') });
    for (const text of ['', 'now', '2026-11-21', '2026-11-21T09:30:00', '2026-02-30T00:00:00Z', '2026-13-01T00:00:00Z', '2026-11-21T25:00:00Z', '2026-11-21T09:30:00+99:00', '2026-11-21T09:30Z', "2026-11-21T09:30:00Z'; drop"]) expect(parseMoment(text)).toHaveProperty('problem');
  });
});

describe('what the tools say of an archive', () => {
  const info = (more: object): string => JSON.stringify([{ name: 'main', status: { code: 0, message: 'ok' }, archive: [{ max: '000000010000000000000009', min: '000000010000000000000001' }], backup: [], db: [], ...more }]);
  const backup = (label: string, stop: number, error = false): object => ({ label, error, timestamp: { start: stop - 5, stop }, archive: { start: '000000010000000000000003' }, database: { id: 1 }, info: { size: 1000 } });

  it('pgBackRest: backups in order, damaged ones apart, identifiers to the last digit', () => {
    const text = info({ backup: [backup('B', 200), backup('A', 100), backup('C', 300, true)] }).replace('"db":[]', '"db":[{"id":1,"repo-key":1,"system-id":7710602064194183853,"version":"15"}]');
    expect(pgbackrestContent(text, 'main')).toEqual({
      backups: [{ label: 'A', finishedAtMs: 100_000, startWal: '000000010000000000000003', systemIdentifier: '7710602064194183853', bytes: 1000 }, expect.objectContaining({ label: 'B' })],
      damaged: ['C'],
      newestWal: '000000010000000000000009',
    });
  });

  it('pgBackRest: a stanza that is not there, and a repository that cannot be read, are errors and no empty archive', () => {
    expect(() => pgbackrestContent('[]', 'main')).toThrow(/no stanza "main"/);
    expect(() => pgbackrestContent(info({}), 'other')).toThrow(/it has main/);
    expect(() => pgbackrestContent(info({ status: { code: 99, message: 'other' }, repo: [{ status: { code: 99, message: '[CryptoError] unable to load' } }] }), 'main')).toThrow(/unable to load/);
    expect(() => pgbackrestContent('pgbackrest: command', 'main')).toThrow(/JSON/);
    expect(pgbackrestContent(info({ status: { code: 2, message: 'no valid backups' } }), 'main').backups).toEqual([]);
  });

  it('wal-g: by the shape its documentation shows', () => {
    const text = '[{"backup_name":"base_0002","time":"2026-11-21T10:00:10Z","wal_file_name":"000000010000000000000005","start_time":"2026-11-21T10:00:00Z","finish_time":"2026-11-21T10:00:10Z","system_identifier":7710602064194183853,"uncompressed_size":5000},{"backup_name":"base_0001","finish_time":"2026-11-20T10:00:10Z","wal_file_name":"000000010000000000000002","system_identifier":7710602064194183853}]';
    expect(walgContent(text).backups.map(({ label, systemIdentifier }) => `${label} ${systemIdentifier}`)).toEqual(['base_0001 7710602064194183853', 'base_0002 7710602064194183853']);
    expect(walgContent('').backups).toEqual([]);
  });

  it('the next WAL file of a timeline', () => {
    expect(nextWalFile('000000010000000000000003', 16 * 1024 * 1024)).toBe('000000010000000000000004');
    expect(nextWalFile('0000000200000001000000FF', 16 * 1024 * 1024)).toBe('000000020000000200000000');
    expect(nextWalFile('00000001000000010000003F', 64 * 1024 * 1024)).toBe('000000010000000200000000');
    expect(nextWalFile('00000002.history', 16 * 1024 * 1024)).toBeUndefined();
  });
});
