import type { Command } from 'commander';
import { holds, orphanIn, type Hold, type LockState } from '../../model/lock.ts';
import { formatDuration } from '../../model/units.ts';
import { formatTable, type Io } from '../io.ts';

export function define(command: Command, io: Io): void {
  command
    .description('The lock of every datastore: who holds it, how, under which epoch and since when; what was told to stop for it; and the cooldown after a failover. No worker is needed.')
    .argument('[datastore]', 'this one only, with what happened to its lock last')
    .action(async (datastore: string | undefined) => {
      const { config } = await io.context();
      const { datastoreOf } = await import('../../systems/context.ts');
      const { readLock } = await import('../../systems/lock.ts');
      if (datastore !== undefined) datastoreOf(config, datastore);
      const client = await io.temporal();
      const names = datastore === undefined ? Object.keys(config.datastores).sort() : [datastore];
      const locks = await Promise.all(names.map(async (name) => ({ datastore: name, lock: await readLock({ client, environment: config.environment, datastore: name }) })));
      io.result(locks, () => formatLocks(locks, Date.now(), datastore !== undefined));
    });
}

export function formatLocks(locks: readonly { datastore: string; lock: LockState | null }[], nowMs: number, full: boolean): string {
  if (locks.length === 0) return 'there are no datastores';
  const rows = locks.flatMap(({ datastore, lock }): string[][] => {
    const held = lock === null ? [] : holds(lock);
    const cooldown = lock === null ? '-' : formatCooldown(lock, nowMs);
    if (lock === null || held.length === 0) return [[datastore, 'free', '-', '-', '-', cooldown]];
    return held.map((hold) => [datastore, formatHolder(hold), hold.mode, String(hold.epoch), `${new Date(hold.sinceMs).toISOString()} (${formatDuration(Math.max(0, nowMs - hold.sinceMs))})`, cooldown]);
  });
  const lines = [formatTable(['datastore', 'held by', 'mode', 'epoch', 'since', 'cooldown'], rows)];
  for (const { datastore, lock } of locks) {
    if (lock === null) continue;
    for (const hold of holds(lock)) {
      const lost = orphanIn(hold);
      if (lost !== null) lines.push('', `${datastore}: ${lost.workflowId} ended (${lost.orphaned.how}) without releasing it. Look at what it left (holdfast audit ${lost.workflowId}, and the servers), then: holdfast lock release ${datastore} --reason "..."`);
    }
    for (const one of lock.superseded) lines.push('', `${datastore}: taken from ${one.workflowId} (${one.what}, epoch ${one.epoch}) at ${new Date(one.atMs).toISOString()} by ${one.by}`);
    if (full && lock.log.length > 0) lines.push('', ...lock.log.map(({ atMs, text }) => `${new Date(atMs).toISOString()}  ${text}`));
  }
  return lines.join('\n');
}

function formatHolder(hold: Hold): string {
  const nested = hold.nested.length === 0 ? '' : `, nested: ${hold.nested.map((one) => one.workflowId).join(', ')}`;
  return `${hold.workflowId} (${hold.what}, by ${hold.by}${nested})${orphanIn(hold) === null ? '' : ' ORPHANED'}${hold.releasing ? ' released, waits for what is nested' : ''}`;
}

function formatCooldown({ cooldown }: LockState, nowMs: number): string {
  if (cooldown === null || nowMs >= cooldown.untilMs) return '-';
  const about = `${cooldown.workflowId}, until ${new Date(cooldown.untilMs).toISOString()}`;
  return cooldown.acknowledged === null ? about : `${about}; acknowledged by ${cooldown.acknowledged.by}`;
}
