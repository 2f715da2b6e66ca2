import { describe, expect, it } from 'vitest';
import { SILENT_STREAM_MS, downChecks, judgePrimary, lossBound, type HostSaw, type PrimarySeen, type StandbySaw, type WorkerSaw } from '../../src/model/primary-down.ts';

const WORKER: WorkerSaw[] = [
  { how: 'writable' }, { how: 'our-fence' }, { how: 'recovery' }, { how: 'refuses', detail: 'too many clients' }, { how: 'not-ready', detail: 'starting up' }, { how: 'silent', attempts: 3, detail: 'refused' },
];
const HOST: HostSaw[] = (['none', 'unknown', 'stopped', 'accepts', 'rejects', 'silent', 'recovery', 'other-cluster'] as const).map((state) => ({ state }));
const standby = (over: Partial<StandbySaw>): StandbySaw => ({ node: 'b', asked: true, follows: null, receiver: null, silentMs: null, probe: null, ...over });
const STANDBY: StandbySaw[] = [
  standby({ asked: false }),
  standby({ follows: 'c', receiver: 'streaming', silentMs: 1 }),
  standby({ receiver: 'streaming', silentMs: 0 }),
  standby({ receiver: 'streaming', silentMs: null }),
  standby({ receiver: 'streaming', silentMs: SILENT_STREAM_MS - 1 }),
  standby({ receiver: 'streaming', silentMs: SILENT_STREAM_MS }),
  standby({ receiver: 'waiting' }),
  ...(['accepts', 'rejects', 'silent', null] as const).map((probe) => standby({ probe })),
];

/** Written down again here, by what each observation is worth, so that the code is not compared with itself. */
const WORTH = {
  worker: { writable: 'alive', 'our-fence': 'certain', recovery: 'fact', refuses: 'alive', 'not-ready': 'nothing', silent: 'fact' },
  host: { none: 'nothing', unknown: 'nothing', stopped: 'fact', accepts: 'alive', rejects: 'nothing', silent: 'fact', recovery: 'fact', 'other-cluster': 'nothing' },
  standby: ['nothing', 'nothing', 'alive', 'alive', 'alive', 'fact', 'nothing', 'alive', 'nothing', 'fact', 'fact'],
} as const;

/** Every combination with no, one and two standbys. */
function* all(): Generator<{ seen: PrimarySeen; worth: string[] }> {
  for (const worker of WORKER) {
    for (const host of HOST) {
      for (let first = -1; first < STANDBY.length; first += 1) {
        for (let second = -1; second < (first < 0 ? 0 : STANDBY.length); second += 1) {
          const picked = [first, second].filter((index) => index >= 0);
          const worthOf = (index: number): string => {
            // One that says itself that it recovers is expected to take connections.
            const worth = WORTH.standby[index]!;
            return worker.how === 'recovery' && worth === 'alive' && STANDBY[index]!.receiver === null ? 'nothing' : worth;
          };
          const hostWorth = worker.how === 'recovery' && host.state === 'accepts' ? 'nothing' : WORTH.host[host.state];
          yield {
            seen: { primary: 'a', worker, host, standbys: picked.map((index, position) => ({ ...STANDBY[index]!, node: position === 0 ? 'b' : 'd' })) },
            worth: [WORTH.worker[worker.how], hostWorth, ...picked.map(worthOf)],
          };
        }
      }
    }
  }
}

it('a forced failover is let through by two facts from different places and no sign of life, or by our own fence; every combination', () => {
  let combinations = 0;
  let allowed = 0;
  for (const { seen, worth } of all()) {
    combinations += 1;
    const verdict = judgePrimary(seen);
    const checks = downChecks(verdict);
    const certain = worth[0] === 'certain';
    const alive = !certain && worth.includes('alive');
    const facts = certain ? 1 : worth.filter((item) => item === 'fact').length;
    expect({
      seen,
      allowed: checks.every((check) => check.ok),
      alive: verdict.alive.length > 0,
      facts: verdict.facts.length,
      places: new Set(verdict.facts.map((fact) => fact.place)).size,
      // What an override of the rule would leave standing.
      withOverride: checks.every((check) => check.ok || check.rule === 'two-facts'),
      withoutNext: checks.filter((check) => !check.ok && check.next === undefined),
    }).toEqual({ seen, allowed: certain || (!alive && facts >= 2), alive, facts, places: facts, withOverride: certain || (!alive && facts >= 1), withoutNext: [] });
    if (checks.every((check) => check.ok)) allowed += 1;
  }
  expect(combinations).toBe(6 * 8 * (1 + 11 * 12));
  expect(allowed).toBeGreaterThan(100);
  expect(allowed).toBeLessThan(combinations / 2);
});

describe('what is one fact', () => {
  const silent: WorkerSaw = { how: 'silent', attempts: 20, detail: 'timeout' };
  const failing = (seen: Omit<PrimarySeen, 'primary'>): (string | undefined)[] => downChecks(judgePrimary({ primary: 'a', ...seen })).filter((check) => !check.ok).map((check) => check.rule ?? check.name);

  it('many attempts of the worker', () => {
    expect(failing({ worker: silent, standbys: [], host: { state: 'unknown' } })).toEqual(['two-facts']);
  });
  it('a lost stream and the silence towards the same standby’s host', () => {
    expect(failing({ worker: { how: 'not-ready', detail: 'x' }, standbys: [standby({ probe: 'silent' })], host: { state: 'none' } })).toEqual(['two-facts']);
  });
  it('a server that its host only says to run: the worker may be the one who is cut off', () => {
    expect(failing({ worker: silent, standbys: [], host: { state: 'accepts' } })).toEqual(['primary is down', 'two-facts']);
  });
  it('no fact at all is not a matter of policy', () => {
    expect(failing({ worker: { how: 'not-ready', detail: 'x' }, standbys: [], host: { state: 'none' } })).toEqual(['a sign that it is down', 'two-facts']);
  });
});

describe('what may be lost', () => {
  it.each([
    [{ silentMs: 10_000, announcedBytes: 0, replayAgeMs: 3_600_000 }, { mayLoseMs: 10_000, mayLoseBytes: 0 }],
    [{ silentMs: 10_000, announcedBytes: -8, replayAgeMs: null }, { mayLoseMs: 10_000, mayLoseBytes: 0 }],
    // It was behind already at the last message: that message bounds nothing.
    [{ silentMs: 10_000, announcedBytes: 4096, replayAgeMs: 90_000 }, { mayLoseMs: 90_000, mayLoseBytes: 4096 }],
    [{ silentMs: null, announcedBytes: null, replayAgeMs: 1200.4 }, { mayLoseMs: 1201, mayLoseBytes: null }],
    [{ silentMs: null, announcedBytes: null, replayAgeMs: -3 }, { mayLoseMs: 0, mayLoseBytes: null }],
    [{ silentMs: null, announcedBytes: null, replayAgeMs: null }, { mayLoseMs: null, mayLoseBytes: null }],
    [{ silentMs: 10, announcedBytes: 1, replayAgeMs: null }, { mayLoseMs: null, mayLoseBytes: 1 }],
  ])('%j: %j', (knows, bound) => {
    expect(lossBound(knows)).toEqual(bound);
  });
});
