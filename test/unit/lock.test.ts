import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  SETTLE_MS, acknowledge, acquire, asked, cooldownCheck, heedsCooldown, holds, lockChecks, lockedDatastores, looked, memoOf, nextLookAtMs, release, standing, startLock, takeAway, toLookAt, toStop,
  type Acquired, type Granted, type LockRequest, type LockState, type Refused, type Run,
} from '../../src/model/lock.ts';

const T = 1_790_000_000_000;

function run(name: string): Run {
  return { workflowId: name, runId: `${name}-run` };
}

function wish(name: string, more: Partial<LockRequest> = {}): LockRequest {
  return { ...run(name), mode: 'exclusive', what: `what ${name} is`, by: 'ann', heedsCooldown: false, ancestors: [], floor: null, overrides: [], ...more };
}

/** A lock that remembers its state between calls. */
function lockOf(datastore = 'shop') {
  let state = startLock(datastore);
  let nowMs = T;
  return {
    get state(): LockState { return state; },
    get now(): number { return nowMs; },
    wait(ms: number): void { nowMs += ms; },
    acquire(name: string, more: Partial<LockRequest> = {}): Acquired {
      const { state: next, answer } = acquire(state, wish(name, more), nowMs);
      state = next;
      return answer;
    },
    take(name: string, more: Partial<LockRequest> = {}): Granted {
      const answer = this.acquire(name, more);
      if (!answer.granted) throw new Error(answer.message);
      return answer;
    },
    refused(name: string, more: Partial<LockRequest> = {}): Refused {
      const answer = this.acquire(name, more);
      if (answer.granted) throw new Error(`${name} was granted`);
      return answer;
    },
    release(name: string, promoted: { service: string; cooldownMs: number } | null = null, epoch: number | null = null) {
      const { state: next, answer } = release(state, { ...run(name), promoted, epoch }, nowMs);
      state = next;
      return answer;
    },
    ends(...names: string[]): readonly string[] {
      const { state: next, orphans } = looked(state, toLookAt(state).map((one) => ({ ...one, running: !names.includes(one.workflowId), how: 'terminated', closedAtMs: nowMs })), nowMs);
      state = next;
      return orphans;
    },
    takeAway(from: string | null = null) {
      const { state: next, answer } = takeAway(state, { by: 'bob', reason: 'looked at it', from }, nowMs);
      state = next;
      return answer;
    },
    acknowledge() {
      const { state: next, answer } = acknowledge(state, { by: 'bob', reason: 'the disk died' }, nowMs);
      state = next;
      return answer;
    },
    stands: (name: string, epoch: number) => standing(state, run(name), epoch),
  };
}

describe('who holds it', () => {
  test('the second of two that change it is refused, and told who holds it, since when, and what to do', () => {
    const lock = lockOf();
    lock.take('failover/orders');
    lock.wait(90_000);
    expect(lock.refused('failover/billing')).toMatchObject({
      code: 'lock-refused',
      message: 'datastore shop: failover/orders (what failover/orders is, by ann) holds it since 2026-09-21T14:13:20.000Z, for 1m 30s',
      next: expect.stringMatching(/holdfast status failover\/orders --watch.*holdfast abort failover\/orders/),
      check: { ok: false },
    });
    lock.release('failover/orders');
    expect(lock.acquire('failover/billing').granted).toBe(true);
  });

  test('several share it; what changes it makes them give way at once, and they are worth nothing then', () => {
    const lock = lockOf();
    const backup = lock.take('backup/shop', { mode: 'shared' });
    lock.take('drill/shop', { mode: 'shared' });
    expect(lock.take('failover/orders').stopping).toEqual(['backup/shop (what backup/shop is)', 'drill/shop (what drill/shop is)']);
    expect(lock.stands('backup/shop', backup.epoch)).toMatchObject({ held: false, why: expect.stringContaining('taken away at 2026-09-21T14:13:20.000Z by failover/orders') });
    expect(toStop(lock.state).map((one) => one.workflowId)).toEqual(['backup/shop', 'drill/shop']);
    expect(toStop(asked(lock.state, run('backup/shop'))).map((one) => one.workflowId)).toEqual(['drill/shop']);
    expect(lock.release('backup/shop')).toMatchObject({ released: false, superseded: { by: 'failover/orders (what failover/orders is)' } });
    expect(lock.refused('backup/later', { mode: 'shared' }).next).toBe('it waits until failover/orders has ended');
  });

  test('one that asks again has what it was given; one that has released gets nothing any more', () => {
    const lock = lockOf();
    const first = lock.take('failover/orders');
    lock.wait(5000);
    expect(lock.take('failover/orders').epoch).toBe(first.epoch);
    lock.release('failover/orders');
    expect(lock.refused('failover/orders').message).toContain('has released it already');
    expect(lock.state.exclusive).toBeNull();
  });

  test('an acquire that arrives after its run gave up on it takes nothing', () => {
    const lock = lockOf();
    lock.release('failover/orders');
    expect(lock.refused('failover/orders').message).toContain('has released it already');
  });
});

describe('epochs', () => {
  test('grow with every holder, also when the clock goes back', () => {
    const lock = lockOf();
    const first = lock.take('a').epoch;
    expect(first).toBe(T);
    lock.release('a');
    lock.wait(-60_000);
    expect(lock.take('b').epoch).toBe(first + 1);
  });

  test('one run has one epoch over several datastores, and none of them gives it again', () => {
    const shop = lockOf('shop');
    const users = lockOf('users');
    const given = shop.take('failover/orders').epoch;
    users.take('x');
    users.release('x', null, given + 500);
    const other = users.take('failover/orders', { floor: given }).epoch;
    expect(other).toBe(given + 501);
    expect(shop.take('failover/orders', { floor: other }).epoch).toBe(other);
    expect(shop.stands('failover/orders', other).held).toBe(true);
    shop.release('failover/orders');
    shop.wait(-10_000);
    expect(shop.take('failover/later').epoch).toBe(other + 1);
  });

  test('a floor that is free is given as it is', () => {
    expect(lockOf().take('a', { floor: T + 7 }).epoch).toBe(T + 7);
  });
});

describe('a holder that ended without releasing', () => {
  test('frees nothing; the next is told that nobody has looked at what it left', () => {
    const lock = lockOf();
    const { epoch } = lock.take('failover/orders');
    expect(lock.ends('failover/orders')).toEqual([expect.stringContaining('failover/orders (what failover/orders is, by ann) still holds it: its workflow ended (terminated at')]);
    lock.wait(30 * 86_400_000);
    expect(lock.ends('failover/orders')).toEqual([]);
    expect(lock.refused('failover/billing')).toMatchObject({ code: 'lock-orphaned', next: expect.stringContaining('holdfast lock release shop --reason') });
    expect(lock.refused('backup/shop', { mode: 'shared' }).code).toBe('lock-orphaned');
    expect(lock.stands('failover/orders', epoch).held).toBe(false);
  });

  test('is freed by a person, once nothing of it can act any more, or by its name', () => {
    const lock = lockOf();
    const { epoch } = lock.take('failover/orders');
    expect(lock.takeAway()).toMatchObject({ ok: false, text: expect.stringContaining('failover/orders has not ended'), next: expect.stringContaining('--from failover/orders') });
    lock.ends('failover/orders');
    lock.wait(SETTLE_MS - 1);
    expect(lock.takeAway()).toMatchObject({ ok: false, text: expect.stringContaining('may still act for') });
    expect(lock.takeAway('failover/billing')).toMatchObject({ ok: false, text: expect.stringContaining('is held by failover/orders, not by failover/billing') });
    lock.wait(1);
    expect(lock.takeAway()).toMatchObject({ ok: true });
    expect(lock.takeAway()).toMatchObject({ ok: false });
    expect(lock.take('failover/billing').epoch).toBeGreaterThan(epoch);
    expect(lock.state.log.map(({ text }) => text).join('\n')).toContain('bob took it from failover/orders');
  });

  test('one that runs loses it to a person only, who names it', () => {
    const lock = lockOf();
    const { epoch } = lock.take('failover/orders');
    lock.wait(365 * 86_400_000);
    lock.ends();
    expect(lock.stands('failover/orders', epoch)).toEqual({ held: true });
    expect(lock.takeAway('failover/orders').ok).toBe(true);
    expect(lock.stands('failover/orders', epoch)).toMatchObject({ held: false, why: expect.stringContaining('by bob: looked at it; nobody holds it now'), other: null });
    lock.take('failover/billing');
    expect(lock.stands('failover/orders', epoch)).toMatchObject({ held: false, other: { workflowId: 'failover/billing' } });
  });

  test('of those that share it is forgotten: they change nothing', () => {
    const lock = lockOf();
    lock.take('backup/shop', { mode: 'shared' });
    expect(lock.ends('backup/shop')).toEqual([]);
    expect(holds(lock.state)).toEqual([]);
  });

  test('is looked for soon, and seldom later; not at all when nothing is held', () => {
    const lock = lockOf();
    expect(nextLookAtMs(lock.state)).toBeNull();
    lock.take('a');
    expect(nextLookAtMs(lock.state)).toBe(T + 10_000);
    lock.wait(3_600_000);
    lock.ends();
    expect(nextLookAtMs(lock.state)).toBe(lock.now + 300_000);
    lock.ends('a');
    expect(nextLookAtMs(lock.state)).toBeNull();
  });
});

describe('nested runs', () => {
  const child = { ancestors: [run('failover/orders')] };

  test('share the hold and the epoch of the run they are nested in; their end does not free it', () => {
    const lock = lockOf();
    const { epoch } = lock.take('failover/orders');
    expect(lock.take('child', child)).toMatchObject({ epoch, nested: true });
    expect(lock.take('grandchild', { ancestors: [run('child')] })).toMatchObject({ epoch, nested: true });
    expect(lock.stands('grandchild', epoch).held).toBe(true);
    lock.release('grandchild');
    lock.release('child');
    expect(lock.stands('failover/orders', epoch).held).toBe(true);
    expect(lock.stands('child', epoch).held).toBe(false);
    expect(lock.refused('failover/billing').code).toBe('lock-refused');
    lock.release('failover/orders');
    expect(lock.state.exclusive).toBeNull();
  });

  test('keep it when the outer run is through, until they are through as well', () => {
    const lock = lockOf();
    const { epoch } = lock.take('failover/orders');
    lock.take('child', child);
    expect(lock.release('failover/orders')).toMatchObject({ released: true, waitsFor: ['child'] });
    expect(lock.stands('failover/orders', epoch).held).toBe(false);
    expect(lock.stands('child', epoch).held).toBe(true);
    expect(lock.refused('failover/billing').message).toContain('with child nested in it');
    expect(lock.refused('late', child).granted).toBe(false);
    lock.release('child');
    expect(lock.state.exclusive).toBeNull();
  });

  test('that were terminated hold it like any other', () => {
    const lock = lockOf();
    lock.take('failover/orders');
    lock.take('child', child);
    expect(lock.ends('child')).toEqual([expect.stringContaining('nested in failover/orders')]);
    expect(lock.release('failover/orders').waitsFor).toEqual(['child']);
    lock.wait(86_400_000);
    expect(lock.refused('failover/billing').code).toBe('lock-orphaned');
    expect(lock.takeAway().ok).toBe(true);
  });

  test('that still run when the outer one was terminated go on, and must be named to lose it', () => {
    const lock = lockOf();
    const { epoch } = lock.take('failover/orders');
    lock.take('child', child);
    lock.ends('failover/orders');
    expect(lock.stands('child', epoch).held).toBe(true);
    lock.wait(SETTLE_MS);
    expect(lock.takeAway()).toMatchObject({ ok: false, text: expect.stringContaining('child has not ended') });
    expect(lock.takeAway('failover/orders').ok).toBe(true);
    expect(lock.stands('child', epoch).held).toBe(false);
  });

  test('do not change what the outer run only reads', () => {
    const lock = lockOf();
    lock.take('drill', { mode: 'shared' });
    expect(lock.refused('child', { ancestors: [run('drill')] }).message).toContain('only shares it');
    expect(lock.take('child', { mode: 'shared', ancestors: [run('drill')] }).nested).toBe(true);
  });

  test('a run that merely names another as its parent by workflow id is not nested in it', () => {
    const lock = lockOf();
    lock.take('failover/orders');
    expect(lock.acquire('child', { ancestors: [{ workflowId: 'failover/orders', runId: 'an older run' }] }).granted).toBe(false);
  });
});

describe('cooldown', () => {
  const promoted = { service: 'orders', cooldownMs: 3_600_000 };
  const failover = { heedsCooldown: true };

  function cooled(): ReturnType<typeof lockOf> {
    const lock = lockOf();
    lock.take('failover/orders', failover);
    lock.release('failover/orders', promoted);
    return lock;
  }

  test('refuses the next failover by its rule, not a failback or a rebuild', () => {
    const lock = cooled();
    expect(lock.refused('failover/again', failover)).toMatchObject({
      code: 'cooldown',
      check: { rule: 'cooldown', ok: false, found: expect.stringContaining('its cooldown lasts until 2026-09-21T15:13:20.000Z'), next: expect.stringContaining('holdfast acknowledge orders') },
    });
    expect(lock.acquire('failback').granted).toBe(true);
  });

  test('passes', () => {
    const lock = cooled();
    lock.wait(promoted.cooldownMs - 1);
    expect(lock.acquire('early', failover).granted).toBe(false);
    lock.wait(1);
    expect(lock.acquire('late', failover).granted).toBe(true);
  });

  test('is acknowledged once, by somebody, for a reason', () => {
    const lock = cooled();
    expect(lock.acknowledge().ok).toBe(true);
    expect(lock.acknowledge()).toMatchObject({ ok: false, text: expect.stringContaining('acknowledged already by bob') });
    expect(lock.take('failover/again', failover).checks).toContainEqual(expect.objectContaining({ rule: 'cooldown', ok: true, found: expect.stringContaining('acknowledged by bob: the disk died') }));
    lock.release('failover/again', promoted);
    expect(lock.acquire('third', failover).granted).toBe(false);
  });

  test('is broken on purpose by its name only, which is recorded', () => {
    const lock = cooled();
    expect(lock.acquire('a', { ...failover, overrides: [{ rule: 'max-lag', by: 'ann', reason: 'hurry' }] }).granted).toBe(false);
    expect(lock.take('b', { ...failover, overrides: [{ rule: 'cooldown', by: 'ann', reason: 'b failed as well' }] }).checks).toContainEqual(expect.objectContaining({ rule: 'cooldown', ok: true, overridden: 'ann: b failed as well' }));
    expect(lock.state.log.map(({ text }) => text).join('\n')).toContain('the rule cooldown was broken for b by ann: b failed as well');
  });

  test('begins although the lock was taken away meanwhile: the promotion happened', () => {
    const lock = lockOf();
    lock.take('failover/orders', failover);
    lock.takeAway('failover/orders');
    lock.release('failover/orders', promoted);
    expect(cooldownCheck(lock.state, lock.now).ok).toBe(false);
  });

  test('of no length is none, and a run that promoted nothing begins none', () => {
    const lock = lockOf();
    lock.take('a', failover);
    lock.release('a', { service: 'orders', cooldownMs: 0 });
    lock.take('b', failover);
    lock.release('b');
    expect(lock.state.cooldown).toBeNull();
    expect(lock.acknowledge()).toMatchObject({ ok: false });
  });

  test('counts for nested runs too, unless the run that they are nested in promoted itself: that one was meant to', () => {
    const lock = cooled();
    lock.take('rehearsal');
    const child = { ...failover, ancestors: [run('rehearsal')] };
    expect(lock.refused('there', child).code).toBe('cooldown');
    expect(lockChecks(lock.state, true, lock.now, [run('rehearsal')]).map((check) => check.ok)).toEqual([true, false]);
    lock.acknowledge();
    lock.wait(1000);
    expect(lock.take('there-again', child).nested).toBe(true);
    lock.release('there-again', promoted);
    expect(lock.take('and-back', child).nested).toBe(true);
    lock.release('and-back', promoted);
    lock.release('rehearsal');
    expect(lock.acquire('failover/later', failover).granted).toBe(false);
  });

  test('refuses before anything gives way', () => {
    const lock = cooled();
    const backup = lock.take('backup/shop', { mode: 'shared' });
    lock.acquire('failover/again', failover);
    expect(lock.stands('backup/shop', backup.epoch).held).toBe(true);
  });

  test('and the holder are what a dry run is shown', () => {
    const lock = cooled();
    expect(lockChecks(lock.state, true, lock.now).map((check) => check.ok)).toEqual([true, false]);
    expect(lockChecks(lock.state, false, lock.now).map((check) => check.ok)).toEqual([true]);
    lock.take('failback');
    expect(lockChecks(lock.state, false, lock.now)[0]).toMatchObject({ ok: false, found: expect.stringContaining('failback') });
    expect(lockChecks(lock.state, false, lock.now, [run('failback')])[0]).toMatchObject({ ok: true, found: 'held by failback, which it is nested in' });
  });
});

describe('what is locked', () => {
  const step = (uses: string, input: Record<string, string>) => ({ id: uses, title: uses, uses, with: input, included: false, applyMs: 1, attempts: 1 });
  const plan = { service: 'orders', mode: 'planned' as const, kind: 'failover' as const, parameters: { datastore: 'shop' }, datastores: ['shop', 'users'] };

  test('the datastores that steps change, by their names after parameters, in one order', () => {
    expect(lockedDatastores({ ...plan, steps: [step('postgres.promote', { datastore: '${parameters.datastore}' }), step('postgres.fence', { datastore: 'archive' }), step('postgres.health', { datastore: 'users' })] })).toEqual(['archive', 'shop']);
    expect(lockedDatastores({ ...plan, steps: [step('postgres.health', { datastore: 'shop' }), step('notify.send', { title: 'x' })] })).toEqual([]);
  });

  test('all of the service where a name comes up only later', () => {
    expect(lockedDatastores({ ...plan, steps: [step('postgres.fence', { datastore: '${steps.x.datastore}' })] })).toEqual(['shop', 'users']);
  });

  test('what may promote heeds the cooldown, but for a failback', () => {
    const steps = [step('postgres.promote', {})];
    expect(heedsCooldown({ ...plan, steps })).toBe(true);
    expect(heedsCooldown({ ...plan, kind: 'runbook', steps })).toBe(true);
    expect(heedsCooldown({ ...plan, kind: 'failback', steps })).toBe(false);
    expect(heedsCooldown({ ...plan, steps: [step('postgres.rebuildStandby', {})] })).toBe(false);
  });
});

/** Any order of requests, ends, looks, operators and clocks. Runs are numbered; a run may be nested in one of a lower number. */
describe('in any order of events', () => {
  const RUNS = 10;
  const NAMES = Array.from({ length: RUNS }, (_, at) => `r${at}`);
  const event = fc.oneof(
    fc.record({ do: fc.constant('acquire' as const), run: fc.nat(RUNS - 1), shared: fc.boolean(), floor: fc.boolean() }),
    fc.record({ do: fc.constant('release' as const), run: fc.nat(RUNS - 1), promoted: fc.boolean() }),
    fc.record({ do: fc.constant('close' as const), run: fc.nat(RUNS - 1) }),
    fc.record({ do: fc.constant('look' as const) }),
    fc.record({ do: fc.constant('takeAway' as const), named: fc.boolean() }),
    fc.record({ do: fc.constant('acknowledge' as const) }),
    fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: -1000, max: 100_000 }) }),
  );
  /** By number: in which it is nested. */
  const PARENT: Readonly<Record<number, number>> = { 3: 0, 4: 3, 5: 1, 7: 6, 8: 6 };

  test('it is held by one, epochs grow, and nothing but its holders and people free it', () => {
    let grants = 0;
    let orphans = 0;
    let waits = 0;
    let gaveWay = 0;
    fc.assert(
      fc.property(fc.array(event, { minLength: 20, maxLength: 60, size: 'max' }), (events) => {
        const claim = (holds: boolean, what: string): void => {
          if (!holds) throw new Error(what);
        };
        let state = startLock('shop');
        let nowMs = T;
        const closed = new Set<number>();
        const released = new Set<number>();
        /** Epoch by run, as each believes. */
        const believed = new Map<number, number>();
        let highest = 0;
        for (const one of events) {
          const before = state;
          const exclusive = state.exclusive;
          let mayFree = false;
          if (one.do === 'wait') nowMs += one.ms;
          else if (one.do === 'close') closed.add(one.run);
          else if (one.do === 'look') {
            const result = looked(state, toLookAt(state).map((each) => ({ ...each, running: !closed.has(NAMES.indexOf(each.workflowId)), how: 'terminated', closedAtMs: nowMs })), nowMs);
            state = result.state;
            orphans += result.orphans.length;
          } else if (one.do === 'takeAway') {
            const { state: next, answer } = takeAway(state, { by: 'bob', reason: 'x', from: one.named ? (exclusive?.workflowId ?? 'nobody') : null }, nowMs);
            state = next;
            mayFree = true;
            // Without its name: only what cannot act any more, as far as the lock knows.
            if (answer.ok && !one.named) for (const each of [exclusive!, ...exclusive!.nested]) claim(each.orphaned !== null || (each === exclusive && exclusive.releasing), 'freed without its name while it may act');
          } else if (one.do === 'acknowledge') state = acknowledge(state, { by: 'bob', reason: 'x' }, nowMs).state;
          else if (closed.has(one.run)) continue;
          else if (one.do === 'release') {
            const { state: next } = release(state, { ...run(NAMES[one.run]!), promoted: one.promoted ? { service: 's', cooldownMs: 50_000 } : null, epoch: believed.get(one.run) ?? null }, nowMs);
            state = next;
            released.add(one.run);
            mayFree = exclusive !== null && [exclusive, ...exclusive.nested].some((each) => each.workflowId === NAMES[one.run]);
          } else {
            const parent = PARENT[one.run];
            const { state: next, answer } = acquire(state, wish(NAMES[one.run]!, { mode: one.shared ? 'shared' : 'exclusive', ancestors: parent === undefined ? [] : [run(NAMES[parent]!)], floor: one.floor ? nowMs + 5 : null, heedsCooldown: one.floor }), nowMs);
            state = next;
            if (answer.granted) {
              claim(!released.has(one.run), 'granted after it released');
              const isNew = !believed.has(one.run) && !answer.nested;
              if (isNew) {
                claim(answer.epoch > highest, 'an epoch was given twice');
                grants += 1;
              }
              gaveWay += answer.stopping.length;
              believed.set(one.run, answer.epoch);
              claim(standing(state, run(NAMES[one.run]!), answer.epoch).held, 'granted and not held');
            }
          }
          highest = Math.max(highest, state.lastEpoch);
          claim(state.lastEpoch >= before.lastEpoch, 'the last epoch went back');

          // Held by one: never exclusively and shared, and all that may act under an exclusive hold are of one family.
          claim(state.exclusive === null || state.shared.length === 0, 'held exclusively and shared');
          if (state.exclusive !== null) {
            const family = new Set([state.exclusive.workflowId, ...state.exclusive.nested.map((each) => each.workflowId)]);
            for (const [number, epoch] of believed) claim(!standing(state, run(NAMES[number]!), epoch).held || family.has(NAMES[number]!), 'two may act');
          }
          // An exclusive hold goes by one of its own or by a person, and not while something nested in it acts.
          const gone = exclusive !== null && state.exclusive?.runId !== exclusive.runId;
          claim(!gone || mayFree, `freed by ${one.do}`);
          if (gone && one.do === 'release') {
            const acting = [exclusive, ...exclusive.nested].filter((each) => each.workflowId !== NAMES[one.run] && !('releasing' in each && each.releasing));
            claim(acting.length === 0, 'freed while something nested acts');
          }
          if (state.exclusive?.releasing === true && state.exclusive.nested.length > 0) waits += 1;
          // What has released never stands again.
          for (const number of released) claim(!standing(state, run(NAMES[number]!), believed.get(number) ?? 0).held, 'stands after it released');
          // It fits into a memo.
          claim(JSON.stringify(memoOf(state)).length < 16_000, 'too large for a memo');
        }
      }),
      { numRuns: 3000 },
    );
    // The walk came by what it is about.
    for (const count of [grants, orphans, waits, gaveWay]) expect(count).toBeGreaterThan(20);
  });
});
