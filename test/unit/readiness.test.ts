import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatReadiness, readinessExit, shownReadiness } from '../../src/cli/readiness-view.ts';
import { readinessEveryMs } from '../../src/engine/readiness.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import type { BackupSummary } from '../../src/model/manifest.ts';
import {
  GATE_DEFAULTS,
  READINESS_LEVELS,
  backupChecks,
  backupsNotSeen,
  forcedChecks,
  gate,
  judgeReadiness,
  notLookedAt,
  onlyNew,
  overdue,
  readinessNotice,
  rehearsalCheck,
  sinceWhen,
  unanswered,
  type EarlierReadiness,
  type ForcedOutlook,
  type ReadinessCheck,
  type ReadinessLevel,
} from '../../src/model/readiness.ts';
import type { ReadinessResult } from '../../workflows/readiness.ts';

const good: ReadinessCheck = { name: 'lag', ok: true, expected: '10 s', found: '0 ms' };
const hard: ReadinessCheck = { name: 'dns', ok: false, expected: 'a record', found: 'missing', next: 'create it' };
const lowers: ReadinessCheck = { name: 'drill', ok: false, rule: 'drill-freshness', expected: 'a drill', found: 'none' };
const unknown: ReadinessCheck = { name: 'store', ok: false, weight: 'unknown', expected: 'an answer', found: 'timeout' };

describe('a datastore that no look of the runbook has seen', () => {
  it('is not known to be recoverable, unless something worse is said already', () => {
    const [missing] = notLookedAt(['shop', 'auth'], ['shop'], [good, lowers]);
    expect(missing).toMatchObject({ name: 'auth: recovery', weight: 'unknown', ok: false });
    expect(judgeReadiness([good, missing!])).toMatchObject({ level: 'unknown', recoverable: null });
    expect(notLookedAt(['shop', 'auth'], ['shop'], [hard])).toEqual([]);
    expect(notLookedAt(['shop'], ['shop'], [good])).toEqual([]);
  });
});

describe('the level', () => {
  it.each([
    [[good], 'ready', true],
    [[good, lowers], 'degraded', true],
    [[good, { ...hard, weight: 'lowers' as const }], 'degraded', true],
    [[good, lowers, unknown], 'unknown', null],
    [[good, lowers, unknown, hard], 'not-ready', false],
    [[good, { ...lowers, weight: 'hard' as const }], 'not-ready', false],
    [[good, { ...hard, rule: 'max-lag' as const }], 'not-ready', false],
    [[], 'unknown', null],
  ] as const)('%#: %j', (checks, level, recoverable) => {
    expect(judgeReadiness(checks)).toMatchObject({ level, recoverable });
  });

  it('says the worst first, and one cause once', () => {
    expect(judgeReadiness([lowers, hard, { ...hard, name: 'dns again' }, good]).why).toEqual(['dns, dns again: expected a record, found missing (create it)', 'drill: expected a drill, found none']);
  });

  it('never gets better by another failing check, and has a reason unless ready', () => {
    const check = fc.record({ name: fc.string(), ok: fc.boolean(), expected: fc.string(), found: fc.string(), weight: fc.constantFrom('hard' as const, 'lowers' as const, 'unknown' as const, undefined) });
    fc.assert(
      fc.property(fc.array(check, { minLength: 1 }), check, (checks, more) => {
        const one = judgeReadiness(checks);
        const two = judgeReadiness([...checks, { ...more, ok: false }]);
        expect(READINESS_LEVELS.indexOf(two.level)).toBeGreaterThanOrEqual(READINESS_LEVELS.indexOf(one.level));
        expect(one.why.length === 0).toBe(one.level === 'ready');
        expect(one.recoverable).toBe(one.level === 'unknown' ? null : one.level !== 'not-ready');
      }),
    );
  });
});

describe('since when', () => {
  const at = (minute: number): string => new Date(Date.UTC(2026, 10, 21, 3, minute)).toISOString();

  it('keeps the first time through any number of runs, each of which sees only the one before', () => {
    let earlier: EarlierReadiness | null = null;
    const levels: ReadinessLevel[] = ['ready', 'ready', 'degraded', 'degraded', 'degraded', 'ready'];
    const seen = levels.map((level, minute) => {
      const since = sinceWhen(earlier, level, at(minute));
      earlier = { ...since, checkedAt: at(minute), recoverable: true };
      return since;
    });
    // Nothing older is known of the first two: it may have been ready for years.
    expect(seen[1]).toEqual({ level: 'ready', since: at(0), sinceKnown: false, before: null });
    expect(seen[4]).toEqual({ level: 'degraded', since: at(2), sinceKnown: true, before: { level: 'ready', lastSeenAt: at(1) } });
    expect(seen[5]).toEqual({ level: 'ready', since: at(5), sinceKnown: true, before: { level: 'degraded', lastSeenAt: at(4) } });
  });

  it('takes a result from before there were levels for what it says', () => {
    expect(sinceWhen({ checkedAt: at(1), recoverable: true }, 'ready', at(2))).toEqual({ level: 'ready', since: at(1), sinceKnown: false, before: null });
    expect(sinceWhen({ checkedAt: at(1), recoverable: false }, 'degraded', at(2))).toMatchObject({ since: at(2), sinceKnown: true, before: { level: 'not-ready', lastSeenAt: at(1) } });
  });

  it('tells of a change for the worse and for the better, and of nothing else', () => {
    const notice = (was: ReadinessLevel | null, now: ReadinessLevel): string | undefined => {
      const earlier = was === null ? null : { level: was, checkedAt: at(1), recoverable: true };
      return readinessNotice('orders', earlier, { level: now, recoverable: true, why: [] }, sinceWhen(earlier, now, at(2)))?.level;
    };
    expect([notice('ready', 'degraded'), notice('degraded', 'not-ready'), notice('ready', 'unknown'), notice(null, 'degraded')]).toEqual(['attention', 'attention', 'attention', 'attention']);
    expect([notice('degraded', 'ready'), notice('not-ready', 'degraded'), notice('unknown', 'ready')]).toEqual(['success', 'success', 'success']);
    expect([notice('ready', 'ready'), notice('not-ready', 'not-ready'), notice(null, 'ready')]).toEqual([undefined, undefined, undefined]);
  });

  it('is overdue after two intervals', () => {
    expect(overdue(0, 60_000, 120_000)).toBeNull();
    expect(overdue(0, 60_000, 120_001)).toMatch(/runs at least every 1m 00s: overdue/);
    expect(overdue(0, null, 3_600_001)).toMatch(/no schedule evaluates it/);
  });
});

describe('proofs', () => {
  const NOW = 100_000_000;
  const backup = (id: string, ageMs: number, proof: BackupSummary['proof'] = 'unproved', provedMs?: number): BackupSummary => ({
    id, datastore: 'shop', location: `${id}/`, snapshotAtMs: NOW - ageMs, committedAtMs: NOW - ageMs, storedBytes: 1, plainBytes: 1, reason: 'x', degraded: undefined, complete: true, proof,
    provedAtMs: provedMs === undefined ? undefined : NOW - provedMs, pinned: false, inUse: false, lockedUntilMs: undefined,
  });
  const asked = (...backups: BackupSummary[]): string[] => backupChecks('shop', backups, { backupAgeMs: 1000, drillMaxAgeMs: 5000 }, NOW).map((check) => `${check.ok ? 'ok' : (check.weight ?? 'lowers')}: ${check.found}`);

  it('wants a young backup that no drill found bad, and a fresh drill that ended well', () => {
    expect(asked()).toEqual(['hard: none', 'lowers: none was proved']);
    expect(asked(backup('x', 1000, 'verified', 5000))).toEqual(['ok: x, 1.00 s old, verified', 'ok: x 5.00 s ago']);
    expect(asked(backup('x', 1001, 'verified', 5001))).toEqual(['lowers: x, 1.00 s old, verified', 'lowers: x 5.00 s ago']);
    // A bad one is no backup, and the drill that found it is a failed one, whatever was proved before.
    expect(asked(backup('old', 1500, 'verified', 1200), backup('new', 500, 'bad', 100))).toEqual(['lowers: old, 1.50 s old, verified', 'lowers: new was found bad 100 ms ago']);
    expect(asked(backup('new', 500, 'bad', 100))).toEqual(['hard: 1, all found bad', 'lowers: new was found bad 100 ms ago']);
    // An older backup proved after the bad one speaks for the backups again.
    expect(asked(backup('old', 800, 'verified', 50), backup('new', 500, 'bad', 100))[1]).toBe('ok: old 50 ms ago');
  });

  it('what is dated in the future is not young', () => {
    const ahead: BackupSummary = { id: 'ahead', snapshotAtMs: NOW + 86_400_000, proof: 'verified', provedAtMs: NOW + 86_400_000 } as BackupSummary;
    const checks = backupChecks('shop', [ahead], { backupAgeMs: 1000, drillMaxAgeMs: 5000 }, NOW);
    expect(checks).toEqual([expect.objectContaining({ ok: false, found: expect.stringContaining('in the future') }), expect.objectContaining({ ok: false, found: expect.stringContaining('in the future') })]);
    const near = { ...ahead, snapshotAtMs: NOW + 1000, provedAtMs: NOW + 1000 };
    expect(backupChecks('shop', [near], { backupAgeMs: 1000, drillMaxAgeMs: 5000 }, NOW).every((check) => check.ok)).toBe(true);
  });

  it('every one carries its rule, so that a gate can stop and an override can name it', () => {
    for (const checks of [backupChecks('shop', [], { backupAgeMs: 1, drillMaxAgeMs: 1 }, NOW), backupsNotSeen('shop', 'no route\n  next: look at the network')]) {
      expect(checks.map((check) => check.rule)).toEqual(['backup-age', 'drill-freshness']);
    }
    expect(backupsNotSeen('shop', 'no route\n  next: look at the network')[0]).toMatchObject({ weight: 'unknown', found: 'no route', next: 'look at the network' });
    expect(unanswered('x', 'no')).toEqual({ name: 'x', weight: 'unknown', ok: false, expected: 'an answer', found: 'no' });
  });

  it('a runbook is rehearsed by a run of the same document on the same configuration, and by nothing else', () => {
    const run = (document: string | null, configuration = 'c'): { workflowId: string; finishedAt: string; mode: string; document: string | null; configuration: string } => ({ workflowId: 'failover/orders', finishedAt: '2026-11-01', mode: 'planned', document, configuration });
    const check = (...runs: ReturnType<typeof run>[]): ReadinessCheck => rehearsalCheck('database-failover', { document: 'd', configuration: 'c' }, runs, 'looked', 'rehearse it');
    expect(check(run('d'))).toMatchObject({ ok: true, rule: 'runbook-rehearsed' });
    // It was changed and changed back.
    expect(check(run('other'), run('d')).ok).toBe(true);
    expect(check()).toMatchObject({ ok: false, found: 'no run in full is known (looked)' });
    expect(check(run('other'))).toMatchObject({ ok: false, found: expect.stringMatching(/document was changed since/) });
    expect(check(run('d', 'other'))).toMatchObject({ ok: false, found: expect.stringMatching(/nodes, endpoint or parameters/) });
    expect(check(run(null))).toMatchObject({ ok: false, found: expect.stringMatching(/not recorded/) });
    expect(judgeReadiness([check()]).level).toBe('degraded');
  });
});

describe('a forced failover, while the primary is alive', () => {
  const outlook: ForcedOutlook = { datastore: 'shop', primary: 'a', candidate: 'b', streams: true, missingBytes: 0, host: 'running', fenceCommand: 'none', fenceVerify: 'none', takesWrites: true, observers: ['the worker', 'the stream of b'] };
  const failing = (more: Partial<ForcedOutlook>): string[] => forcedChecks({ ...outlook, ...more }).filter((check) => !check.ok).map((check) => check.name.replace('forced: shop: ', ''));

  it('holds with a host that answers, or a fence command whose effect can be seen', () => {
    expect(failing({})).toEqual([]);
    expect(failing({ host: 'none', fenceCommand: 'found', fenceVerify: 'not fenced' })).toEqual([]);
    for (const fence of [{ fenceCommand: 'none', fenceVerify: 'none' }, { fenceCommand: 'found', fenceVerify: 'none' }, { fenceCommand: 'found', fenceVerify: 'cannot be run' }, { fenceCommand: 'missing', fenceVerify: 'not fenced' }] as const) {
      for (const host of ['none', 'unknown'] as const) expect(failing({ host, ...fence })).toEqual(['a way to fence it when it is silent']);
    }
  });

  it('finds a verification that would prove a fence that is not there, and no standby, and one observer', () => {
    expect(failing({ fenceCommand: 'found', fenceVerify: 'fenced' })).toEqual(['fence.verify tells the truth']);
    expect(failing({ fenceCommand: 'found', fenceVerify: 'fenced', takesWrites: false })).toEqual([]);
    expect(failing({ candidate: null, streams: false, missingBytes: null })).toEqual(['candidate']);
    expect(failing({ streams: false, observers: ['the worker'] })).toEqual(['two facts that it is down could be had', 'candidate has what was written']);
  });

  it('what is the same in another mode is listed once; what differs stays', () => {
    const other = { ...good, name: 'failover, forced: lag' };
    expect(onlyNew([good], [other, { ...other, found: '3 s' }, { ...other, ok: false }, { ...other, name: 'failover, forced: jag' }])).toHaveLength(3);
  });
});

describe('the start gate', () => {
  const stale: ReadinessCheck = { ...lowers, name: 'start gate: drill' };
  const old: ReadinessCheck = { name: 'start gate: backup', ok: false, rule: 'backup-age', expected: '1 h', found: '3 h' };
  const rehearsed: ReadinessCheck = { name: 'start gate: rehearsed', ok: false, rule: 'runbook-rehearsed', expected: 'a run', found: 'none' };
  const by = (rule: 'backup-age' | 'drill-freshness' | 'max-lag') => ({ rule, by: 'ann', reason: 'now' });

  it('stops for the rules it is given, and never for a runbook that was not rehearsed', () => {
    expect(gate([good, stale, old], GATE_DEFAULTS.planned, []).refusal).toMatch(/drill.*backup.*--override drill-freshness="why" --override backup-age="why"/);
    expect(gate([stale, old, hard], GATE_DEFAULTS.forced, []).refusal).toBeNull();
    expect(gate([rehearsed], GATE_DEFAULTS.planned, []).refusal).toBeNull();
    // Without a rule it is no business of the gate: the guards stop for it.
    expect(gate([hard], GATE_DEFAULTS.planned, []).refusal).toBeNull();
  });

  it('an override breaks the rule it names and no other, and stands in the record', () => {
    expect(gate([stale, old], GATE_DEFAULTS.planned, [by('backup-age')]).refusal).toMatch(/by name: --override drill-freshness="why"$/);
    expect(gate([stale, old], GATE_DEFAULTS.planned, [by('max-lag')]).refusal).not.toBeNull();
    const both = gate([stale, old, hard], GATE_DEFAULTS.planned, [by('backup-age'), by('drill-freshness')]);
    expect(both.refusal).toBeNull();
    expect(both.checks).toEqual([{ ...stale, ok: true, overridden: 'ann: now' }, { ...old, ok: true, overridden: 'ann: now' }, hard]);
  });
});

describe('holdfast readiness', () => {
  const result: ReadinessResult = {
    service: 'orders', level: 'degraded', recoverable: true, why: ['drill: expected a drill, found none'], checks: [good, lowers], forced: [], notChecked: ['failover: verify-lag: only verifies what was done'],
    checkedAt: '2026-11-21T03:00:00.000Z', since: '2026-11-20T03:00:00.000Z', sinceKnown: true, before: { level: 'ready', lastSeenAt: '2026-11-20T02:45:00.000Z' },
  };
  const at = Date.parse(result.checkedAt);

  it('shows level, why, since when and what was not checked', () => {
    const text = formatReadiness([shownReadiness('orders', result, true, null, at)]);
    for (const part of [/orders +yes +degraded +now/, 'degraded since 2026-11-20T03:00:00.000Z; ready before, last seen so 2026-11-20T02:45:00.000Z', 'because: drill:', 'failover: verify-lag', /NO +drill/]) expect(text).toMatch(part);
  });

  it('an old result is not known, whatever it said, and says so', () => {
    const hour = 3_600_000;
    const recent = shownReadiness('orders', result, false, hour, at + 2 * hour);
    expect(recent).toMatchObject({ level: 'degraded', recoverable: true, old: null });
    const old = shownReadiness('orders', result, false, hour, at + 2 * hour + 1);
    expect(old).toMatchObject({ level: 'unknown', recoverable: null });
    expect(formatReadiness([old])).toMatch(/NOT KNOWN +unknown +2h 00m ago[\s\S]*OLD: it is 2h 00m old, and its schedule runs at least every 1h 00m: overdue/);
    expect(shownReadiness('orders', null, false, hour, at)).toMatchObject({ level: 'unknown', old: expect.stringMatching(/never evaluated/) });
  });

  it('exits with the worst: 0 ready, 6 degraded, 1 not ready or not known', () => {
    const of = (level: ReadinessLevel) => shownReadiness('x', { ...result, level }, true, null, at);
    expect([[of('ready')], [of('ready'), of('degraded')], [of('degraded'), of('unknown')], [of('not-ready'), of('ready')]].map(readinessExit)).toEqual([0, 6, 1, 1]);
  });

  it('knows how often the schedules of a service run', () => {
    const config = configSchema.parse({ version: 1, stores: {}, datastores: {}, services: {}, schedules: { a: { run: 'readiness', service: 'orders', every: '1h' }, b: { run: 'readiness', service: 'orders', cron: '*/15 * * * *' }, c: { run: 'readiness', service: 'orders', every: '1m', paused: true }, d: { run: 'readiness', service: 'auth', cron: '0 3 * * *' } } });
    expect([readinessEveryMs(config, 'orders'), readinessEveryMs(config, 'auth'), readinessEveryMs(config, 'none')]).toEqual([900_000, 86_400_000, null]);
  });
});
