import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CancelledFailure, type Client, type WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { RestoreDrillResult } from '../../src/model/api.ts';
import type { BackupSummary } from '../../src/model/manifest.ts';
import { drillsDirectory } from '../../src/systems/drill-target.ts';
import { verifyEvidenceFolder } from '../../src/systems/evidence-folder.ts';
import { connectTemporal, runningWorker, uniqueName } from '../support.ts';
import { drillFixture, expectNoTargets, holdfast, serversBelow, startWorkerProcess, type DrillFixture } from './drill-fixture.ts';

let fixture: DrillFixture;
let client: Client;

beforeAll(async () => {
  fixture = await drillFixture('midway');
  client = await connectTemporal(fixture.context);
});
afterAll(async () => {
  await client?.connection.close();
  await fixture?.end();
});
beforeEach(() => {
  fixture.notices.length = 0;
});

/** Restores of this database wait, on a drill target only, for as long as the flag file is there. */
async function holdRestores(): Promise<{ release(): void }> {
  const flag = join(fixture.source.dataDirectory, '..', uniqueName('hold'));
  writeFileSync(flag, '', { mode: 0o644 });
  await fixture.sql(`
    create or replace function public.wait_while_held(value int) returns int immutable language plpgsql as $f$
    begin
      while current_setting('listen_addresses') = '' and (pg_stat_file('${flag}', true)).size is not null loop perform pg_sleep(0.05); end loop;
      return value;
    end $f$;
    drop table if exists public.held; create table public.held (id int); insert into public.held values (1); create index held_index on public.held (public.wait_while_held(id));`);
  return { release: () => rmSync(flag, { force: true }) };
}

async function startHeld(): Promise<{ handle: WorkflowHandle<() => Promise<RestoreDrillResult>>; backup: BackupSummary }> {
  const backup = await fixture.backUp();
  const handle = await client.workflow.start('restoreDrill', { taskQueue: fixture.context.config.temporal.taskQueue, workflowId: uniqueName('drill/shop'), args: [{ datastore: 'shop', backup: backup.id }] });
  return { handle: handle as unknown as WorkflowHandle<() => Promise<RestoreDrillResult>>, backup };
}

/** Resolves once the restore into the target stands still at the held index. */
async function untilHeld(handle: WorkflowHandle<() => Promise<RestoreDrillResult>>, check = (): void => {}): Promise<void> {
  let ended: string | undefined;
  handle.result().then((result) => (ended = JSON.stringify(result)), (error: unknown) => (ended = String(error)));
  while (!serversBelow(drillsDirectory(fixture.context)).some((pid) => isIndexing(pid))) {
    check();
    if (ended !== undefined) throw new Error(`the drill ended before it was held: ${ended}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function isIndexing(pid: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('CREATE INDEX');
  } catch {
    return false;
  }
}

test('cancelled midway: the target goes, the backup is released and not judged, and the evidence says so', async () => {
  const worker = await runningWorker(fixture.context);
  const held = await holdRestores();
  try {
    const { handle, backup } = await startHeld();
    await untilHeld(handle);
    expect(await fixture.find(backup.id)).toMatchObject({ inUse: true });
    await handle.cancel();
    const failure = await handle.result().catch((error: unknown) => error);
    expect((failure as WorkflowFailedError).cause).toBeInstanceOf(CancelledFailure);
    expectNoTargets(fixture.context);
    expect(await fixture.find(backup.id)).toMatchObject({ inUse: false, proof: 'unproved' });
    expect(fixture.notices.join()).toContain('was cancelled');
  } finally {
    held.release();
    await worker.stop();
  }
});

test('aborted by an operator midway: the target goes, and result and evidence say by whom and why', async () => {
  const worker = await runningWorker(fixture.context);
  const held = await holdRestores();
  try {
    const { handle, backup } = await startHeld();
    await untilHeld(handle);
    expect(await holdfast(['abort', handle.workflowId, '--config', fixture.context.configPath, '--by', 'ben', '--reason', 'the host is needed'])).toMatchObject({ code: 0 });
    const result = await handle.result();
    expect(result).toMatchObject({ outcome: 'failed', message: 'the drill was aborted by ben: the host is needed', proof: null });
    expect((await verifyEvidenceFolder(result.evidence!)).report).toMatchObject({ header: { outcome: 'aborted' } });
    expectNoTargets(fixture.context);
    expect(await fixture.find(backup.id)).toMatchObject({ inUse: false, proof: 'unproved' });
  } finally {
    held.release();
    await worker.stop();
  }
});

test('the worker is killed midway: nothing keeps running, and the next worker starts over and verifies the backup', async () => {
  const held = await holdRestores();
  const victim = startWorkerProcess(fixture.context);
  try {
    const { handle, backup } = await startHeld();
    await untilHeld(handle, () => victim.check());
    await victim.kill('SIGKILL');
    // The target's server and every child died with it; its folder waits for whoever comes next.
    await expect.poll(() => serversBelow(drillsDirectory(fixture.context))).toEqual([]);
    expect(readdirSync(drillsDirectory(fixture.context))).toHaveLength(1);
    held.release();
    const worker = await runningWorker(fixture.context);
    try {
      const result = await handle.result();
      expect(result).toMatchObject({ outcome: 'verified', backup: backup.id });
      expect(readFileSync(join(result.evidence!, 'report.json'), 'utf8')).toContain('target-lost');
    } finally {
      await worker.stop();
    }
    expectNoTargets(fixture.context);
    expect(await fixture.find(backup.id)).toMatchObject({ inUse: false, proof: 'verified' });
  } finally {
    held.release();
    await victim.kill('SIGKILL');
  }
}, 180_000);
