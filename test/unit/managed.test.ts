import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { auroraSteps } from '../../activities/aurora.ts';
import { byManagement } from '../../activities/managed.ts';
import { resolvePlan } from '../../activities/plan.ts';
import { rdsRebuildSteps } from '../../activities/rds-rebuild.ts';
import { rdsSteps } from '../../activities/rds.ts';
import type { StepDefinition } from '../../activities/step-definition.ts';
import { breakGlass } from '../../src/model/break-glass.ts';
import { managedByHand } from '../../src/model/by-hand/managed.ts';
import { CATALOGUE } from '../../src/model/catalogue.ts';
import { managedProblems } from '../../src/model/config-managed.ts';
import { configSchema, type Config } from '../../src/model/config-schema.ts';
import { describeLag, judgeRole, rdsSign, replacedName, tagValue, type RdsSaw } from '../../src/model/managed-roles.ts';
import { planView } from '../../src/model/plan-view.ts';
import type { Mode } from '../../src/model/runbook-schema.ts';
import { managedTexts } from '../../src/model/step-texts/managed.ts';
import type { Context } from '../../src/systems/context.ts';

const answers = (inRecovery: boolean) => ({ reachable: true, inRecovery, error: null });
const SILENT = { reachable: false, inRecovery: null, error: 'connect ECONNREFUSED\n  next: look' };
const rds = (status: string, source: string | null): RdsSaw => ({ answers: true, found: true, status, source });
const LOST: RdsSaw = { answers: false, error: 'timeout' };

describe('who takes writes', () => {
  it('is what the server says, and every contradiction of RDS is named', () => {
    expect(judgeRole('b', answers(true), rds('available', 'a'))).toEqual({ role: 'standby', basis: 'sql', disagreements: [] });
    expect(judgeRole('a', answers(false), rds('available', null))).toEqual({ role: 'primary', basis: 'sql', disagreements: [] });
    // Promoted, and RDS (or the emulator) still reports the source.
    expect(judgeRole('b', answers(false), rds('modifying', 'a'))).toMatchObject({ role: 'primary', disagreements: [expect.stringMatching(/still calls b a replica of a \(modifying\)/)] });
    // RDS is done, the server is not.
    expect(judgeRole('b', answers(true), rds('available', null))).toMatchObject({ role: 'standby', disagreements: [expect.stringMatching(/takes no writes/)] });
    expect(judgeRole('b', answers(true), LOST)).toMatchObject({ role: 'standby', basis: 'sql', disagreements: [expect.stringMatching(/cannot be asked/)] });
    expect(judgeRole('b', answers(true), { answers: true, found: false }).disagreements[0]).toMatch(/is nodes\.b\.rds right/);
  });

  it('is RDS’s word only where the server is silent, and nobody’s where both are', () => {
    expect(judgeRole('a', SILENT, rds('stopped', null))).toEqual({ role: 'primary', basis: 'rds', disagreements: [] });
    expect(judgeRole('a', SILENT, rds('available', null)).disagreements[0]).toBe('RDS says that a is available, but it does not answer (connect ECONNREFUSED)');
    expect(judgeRole('a', SILENT, LOST)).toMatchObject({ role: 'unknown', basis: 'nobody' });
  });

  it('takes "available" and silence of RDS for no sign of life and for no fact', () => {
    expect(rdsSign('a', rds('failed', null)).fact).toMatch(/failed/);
    expect(rdsSign('a', { answers: true, found: false }).fact).toMatch(/no instance/);
    for (const saw of [rds('available', null), rds('modifying', null), rds('rebooting', null), LOST]) expect(rdsSign('a', saw)).toEqual({ fact: null, unclear: expect.any(String) });
  });

  it('never lets CloudWatch overrule what was measured, and never hides it', () => {
    expect(describeLag(10, 300_000, 30_000)).toMatch(/They disagree: the measured one counts/);
    expect(describeLag(10, -1, 30_000)).toMatch(/not active.*They disagree/);
    expect(describeLag(60_000, 1000, 30_000)).toMatch(/They disagree/);
    expect(describeLag(10, 1000, 30_000)).not.toMatch(/disagree/);
    expect(describeLag(null, null, 30_000)).toBe('not measured; CloudWatch has no figure');
  });

  it('keeps to what RDS takes in tags and identifiers', () => {
    expect(tagValue('failover/orders-1 sg-1 sg-2')).toBe('failover/orders-1 sg-1 sg-2');
    expect(tagValue('a"b<c>,d')).toBe('a_b_c__d');
    expect(tagValue('x'.repeat(300))).toHaveLength(256);
    for (const name of ['a', 'orders-a', `${'x'.repeat(45)}-${'y'.repeat(17)}`]) expect(replacedName(name, 1795266158407)).toMatch(/^(?!.*--)[a-z][a-z0-9-]{0,61}[a-z0-9]$/);
  });
});

function configOf(managed: Record<string, unknown>, node: (name: string) => Record<string, unknown> = (name) => ({ instance: `orders-${name}`, region: name === 'a' ? 'us-east-1' : 'eu-west-1', fencingGroups: ['sg-0fence'] })): Config {
  return configSchema.parse({
    version: 1,
    aws: { region: 'us-east-1' },
    stores: {},
    datastores: { shop: { engine: 'postgres', database: 'shop', admin: { username: 'dba', password: 'env:PW' }, managed, nodes: { a: { host: 'a.rds', rds: node('a') }, b: { host: 'b.rds', rds: node('b') } }, endpoint: { secret: 'prod/shop' } } },
    services: { orders: { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'], runbooks: { failover: 'database-failover', failback: 'database-failback' } } },
  });
}

describe('the configuration of a managed datastore', () => {
  const problems = (config: Config): string[] => managedProblems(config.datastores['shop'] as never, 'us-east-1').map(({ level, path, message }) => `${level} ${path.join('.')}: ${message}`);

  it('is right as documented', () => {
    expect(problems(configOf({ type: 'rds' }))).toEqual([]);
    expect(problems(configOf({ type: 'aurora', cluster: 'orders' }))).toEqual([]);
  });

  it('names every instance, once, with its cluster, and nothing of a host', () => {
    expect(problems(configOf({ type: 'aurora' }))).toEqual(['error managed.cluster: which DB cluster it is is not said']);
    expect(problems(configOf({ type: 'aurora-global' }))).toEqual(expect.arrayContaining([expect.stringContaining('managed.globalCluster'), expect.stringContaining('nodes.a.rds.cluster'), expect.stringContaining('nodes.b.rds.cluster')]));
    expect(problems(configOf({ type: 'rds' }, () => ({ instance: 'Orders' })))).toEqual(expect.arrayContaining([expect.stringMatching(/nodes\.b\.rds\.instance: node "a" is the same instance/), expect.stringMatching(/warning nodes\.a\.rds: without fencingGroups/)]));
    const bare = structuredClone(configOf({ type: 'rds' }));
    const shop = bare.datastores['shop'] as unknown as { managed?: unknown; nodes: Record<string, Record<string, unknown>> };
    shop.nodes['a']!['dataDirectory'] = '/data';
    delete shop.nodes['b']!['rds'];
    expect(problems(bare)).toEqual(expect.arrayContaining([expect.stringMatching(/nodes\.a\.dataDirectory: nobody reaches the host/), expect.stringMatching(/nodes\.b: which DB instance/)]));
    delete shop.managed;
    expect(problems(bare)).toEqual([expect.stringMatching(/nodes\.a\.rds: .* not managed/)]);
  });
});

describe('the same step kinds on a managed datastore', () => {
  it('have the phases of the catalogue, and their words and checklists are of kinds that exist', () => {
    const own = Object.fromEntries(Object.entries(CATALOGUE).filter(([kind]) => kind.startsWith('postgres.')).map(([kind, { phases }]) => [kind, Object.fromEntries(phases.map((phase) => [phase, () => Promise.resolve({ summary: '' })])) as StepDefinition]));
    expect(() => byManagement(own, { rds: { ...rdsSteps, ...rdsRebuildSteps }, aurora: auroraSteps })).not.toThrow();
    const { verify: _verify, ...less } = rdsSteps['postgres.promote']!;
    expect(() => byManagement(own, { rds: { 'postgres.promote': less }, aurora: auroraSteps })).toThrow(/postgres\.promote: phase verify differs/);
    for (const kind of [...Object.keys(managedTexts), ...Object.keys(managedByHand)]) expect(own).toHaveProperty([kind]);
    for (const [uses, text] of Object.entries(managedTexts)) {
      const { does, undo } = text({ id: 'x', uses, inputs: {}, before: null, approvals: 0, managed: 'rds' });
      expect(does).not.toBe('');
      expect({ uses, undoes: undo !== null }).toEqual({ uses, undoes: CATALOGUE[uses]!.phases.includes('undo') });
    }
  });

  const TYPES = [{ type: 'rds' }, { type: 'aurora', cluster: 'orders' }, { type: 'aurora-global', globalCluster: 'orders' }] as const;
  const ALL = TYPES.flatMap((managed) => (['failover', 'failback'] as const).flatMap((purpose) => (['planned', 'forced'] as const).map((mode) => ({ managed, purpose, mode }))));

  async function planFor(managed: Record<string, unknown>, purpose: 'failover' | 'failback', mode: Mode) {
    const config = configOf(managed, (name) => ({ instance: `orders-${name}`, region: name === 'a' ? 'us-east-1' : 'eu-west-1', fencingGroups: ['sg-0fence'], cluster: `cluster-${name}` }));
    const context = { config, runbookDirectory: fileURLToPath(new URL('../../runbooks', import.meta.url)) } as unknown as Context;
    return { config, plan: await resolvePlan(context, { type: 'failover', service: 'orders', purpose, runbook: null, mode, parameters: purpose === 'failback' ? { node: 'a' } : {} }) };
  }

  it.each(ALL)('by hand: $managed.type, $purpose, $mode is sound shell of aws and psql, with nothing of a host', async ({ managed, purpose, mode }) => {
    const { config, plan } = await planFor(managed, purpose, mode);
    const roles = purpose === 'failover' ? { primary: 'a', candidate: 'b' } : { primary: 'b', candidate: 'a' };
    const { markdown } = breakGlass({ plan, config, roles, madeAt: '2026-11-21T03:00:00.000Z', seen: { a: 'primary' } });
    expect(markdown).not.toMatch(/undefined|\[object|NaN|pg_hba|standby\.signal|pg_promote|pg_rewind/);
    for (const [, sh] of markdown.matchAll(/^```sh \w+\n([\s\S]*?)\n```$/gm)) execFileSync('sh', ['-n'], { input: sh, stdio: ['pipe', 'pipe', 'pipe'] });
    const call = managed.type === 'rds' ? 'promote-read-replica' : managed.type === 'aurora' ? 'failover-db-cluster' : mode === 'planned' ? 'switchover-global-cluster' : 'failover-global-cluster --allow-data-loss';
    expect(markdown).toContain(`aws --region ${purpose === 'failover' ? 'eu-west-1' : 'us-east-1'} rds ${call}`);
    expect(markdown.includes('stop-db-instance')).toBe(managed.type === 'rds');
  });

  it('have the time that a cloud takes, which a runbook may still overrule, and a plan that says how it is done', async () => {
    const { plan } = await planFor({ type: 'rds' }, 'failover', 'planned');
    const promote = plan.steps.find((step) => step.uses === 'postgres.promote')!;
    expect(promote).toMatchObject({ managed: 'rds', applyMs: CATALOGUE['postgres.promote']!.managedApplyMs });
    const view = planView(plan, []);
    expect(JSON.stringify(view)).toMatch(/has RDS promote/);
  });
});
