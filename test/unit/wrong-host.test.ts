import { chmod, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { rebuildSteps } from '../../activities/postgres-rebuild.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import { withFence } from '../../src/model/fence-text.ts';
import type { Context } from '../../src/systems/context.ts';
import { runStep } from '../step-run.ts';

/** A host that answers while no server does: its tools are scripts, and nobody listens on port 1. */
async function hostThatSays(state: 'running' | 'stopped', control: string, rules: string, signal = false): Promise<Context> {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-'));
  const dataDirectory = join(folder, 'data');
  await mkdir(dataDirectory);
  await writeFile(join(dataDirectory, 'pg_hba.conf'), rules);
  if (signal) await writeFile(join(dataDirectory, 'standby.signal'), '');
  for (const [tool, text] of [['pg_ctl', `exit ${state === 'running' ? 0 : 3}`], ['pg_controldata', `echo 'Database system identifier: 7'; echo 'Database cluster state: ${control}'`]] as const) {
    await writeFile(join(folder, tool), `#!/bin/sh\n${text}\n`);
    await chmod(join(folder, tool), 0o755);
  }
  const config = configSchema.parse({
    version: 1, environment: 'test', services: {}, stores: {},
    datastores: { shop: { engine: 'postgres', database: 'shop', admin: { username: 'x', password: 'env:X' }, nodes: { a: { host: '127.0.0.1', port: 1, dataDirectory, binDirectory: folder }, b: { host: '127.0.0.1', port: 2 } } } },
  });
  return { config, secrets: { resolve: async () => 'secret' } } as unknown as Context;
}

const RULES = 'host all all all scram-sha-256\n';

describe('a node that does not answer is not rebuilt', () => {
  it.each([
    ['while its host says that it runs as a primary', 'running', 'in production', RULES, false, false],
    ['while it recovers from a crash, to be a primary', 'running', 'in crash recovery', RULES, false, false],
    ['unless it is a fresh copy', 'running', 'in production', RULES, true, true],
    ['unless it is fenced', 'running', 'in production', withFence(RULES, { admin: 'x', epoch: 1, execution: 'failover/orders' }), false, true],
    ['unless it is a standby', 'running', 'in archive recovery', RULES, false, true],
    ['unless it is stopped', 'stopped', 'in production', RULES, false, true],
  ] as const)('%s', async (_what, state, control, rules, signal, ok) => {
    const context = await hostThatSays(state, control, rules, signal);
    const { checks } = await runStep(rebuildSteps, context, 'postgres.rebuildStandby', 'guard', { datastore: 'shop', primary: 'b', node: 'a' });
    expect(checks!.find((item) => item.name === 'target is no live primary')).toMatchObject({ ok });
  });
});
