import { Context as ActivityContext } from '@temporalio/activity';
import type { CheckResult } from '../src/model/api.ts';
import { DEFAULT_COOLDOWN_MS } from '../src/model/config-schema.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { lockChecks, startLock, type LockRequest, type Refused, type Released, type Run, type Seen } from '../src/model/lock.ts';
import { serviceOf, type Context } from '../src/systems/context.ts';
import { acquireLock, lookAtRuns, readLock, releaseLock, type LockPlace } from '../src/systems/lock.ts';
import { withActivityFailures } from './failure.ts';
import { withHeartbeat } from './heartbeat.ts';

export type LockWish = Omit<LockRequest, 'workflowId' | 'runId' | 'floor'> & {
  readonly datastores: readonly string[];
  /** Grows when the same run asks anew after a refusal. */
  readonly round: number;
};

export type LocksTaken =
  | {
      readonly granted: true;
      /** Of the run: the highest of those below. */
      readonly epoch: number;
      /** Epoch by datastore. */
      readonly locks: Readonly<Record<string, number>>;
      readonly checks: readonly CheckResult[];
    }
  | Refused;

export interface LockEnd {
  readonly datastores: readonly string[];
  readonly epoch: number | null;
  /** The run passed the point of no return: the cooldown of its service begins. */
  readonly promoted: { readonly service: string | null } | null;
}

export function createLockActivities(context: Context) {
  const place = (datastore: string): LockPlace => ({ client: ActivityContext.current().client, environment: context.config.environment, datastore });

  return withActivityFailures({
    /** All or none, one after another in the given order; under one epoch. */
    acquireLocks: (wish: LockWish): Promise<LocksTaken> => withHeartbeat(null, async () => {
      const { taskQueue } = ActivityContext.current().info;
      const { datastores, round, ...rest } = wish;
      const run = ownRun();
      const locks: Record<string, number> = {};
      const checks: CheckResult[] = [];
      let epoch: number | null = null;
      for (const datastore of datastores) {
        const answer = await acquireLock(place(datastore), taskQueue, { ...rest, ...run, floor: epoch }, String(round));
        if (!answer.granted) {
          for (const taken of Object.keys(locks)) await releaseLock(place(taken), { ...run, promoted: null, epoch });
          return answer;
        }
        locks[datastore] = answer.epoch;
        epoch = Math.max(epoch ?? 0, answer.epoch);
        checks.push(...answer.checks);
      }
      // What a fence will carry must not be given again by any of these locks.
      for (const [datastore, given] of Object.entries(locks)) {
        if (given >= epoch!) continue;
        const raised = await acquireLock(place(datastore), taskQueue, { ...rest, ...run, floor: epoch }, `${round}/raised`);
        if (!raised.granted) throw new HoldfastError('lock-refused', raised.message, { next: raised.next });
        locks[datastore] = raised.epoch;
      }
      return { granted: true, epoch: epoch!, locks, checks };
    }),

    async releaseLocks(end: LockEnd): Promise<Released[]> {
      const service = end.promoted?.service ?? null;
      // A service that left the configuration while the run went on keeps nothing locked.
      const known = service !== null && Object.hasOwn(context.config.services, service);
      const promoted = end.promoted === null ? null : { service, cooldownMs: known ? serviceOf(context.config, service).cooldown : DEFAULT_COOLDOWN_MS };
      // One that does not answer must not keep the others held.
      const asked = await Promise.allSettled(end.datastores.map(async (datastore) => {
        const answer = await releaseLock(place(datastore), { ...ownRun(), promoted, epoch: end.epoch });
        if (answer === null) context.log.warn({ datastore }, 'there is no lock to release: its workflow was ended by somebody');
        return answer;
      }));
      for (const one of asked) if (one.status === 'rejected') throw one.reason;
      return asked.flatMap((one) => (one.status === 'fulfilled' && one.value !== null ? [one.value] : []));
    },

    /** For a dry run: what would be met. Takes nothing. */
    async checkLocks(wish: Pick<LockWish, 'datastores' | 'heedsCooldown' | 'ancestors'>): Promise<CheckResult[]> {
      const checks = await Promise.all(
        wish.datastores.map(async (datastore): Promise<CheckResult[]> => {
          try {
            return lockChecks((await readLock(place(datastore))) ?? startLock(datastore), wish.heedsCooldown, Date.now(), wish.ancestors);
          } catch (error) {
            return [{ name: `lock of ${datastore}`, ok: false, expected: 'held by nobody', found: `could not be read: ${messageOf(error)}` }];
          }
        }),
      );
      return checks.flat();
    },

    lookAtRuns: (runs: readonly Run[]): Promise<Seen[]> => lookAtRuns(ActivityContext.current().client, runs),
  });
}

function ownRun(): Run {
  const { workflowExecution } = ActivityContext.current().info;
  if (workflowExecution === undefined) throw new HoldfastError('lock-refused', 'a lock is taken by a workflow; this activity was started by none');
  return { workflowId: workflowExecution.workflowId, runId: workflowExecution.runId };
}
