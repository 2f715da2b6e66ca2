import type { ResourceRecordSet } from '@aws-sdk/client-route-53';
import type { PostgresDatastore } from '../src/model/config-schema.ts';
import { HoldfastError } from '../src/model/errors.ts';
import { formatDuration } from '../src/model/units.ts';
import { applicationAddress } from '../src/systems/postgres-node.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText, pause, type StepDefinition, type StepRun } from './step-definition.ts';

type Dns = NonNullable<NonNullable<PostgresDatastore['endpoint']>['dns']>;

function dnsOf(step: StepRun): { datastore: PostgresDatastore; dns: Dns | undefined } {
  const datastore = datastoreFor(step);
  return { datastore, dns: datastore.endpoint?.dns };
}

async function currentRecord(step: StepRun, dns: Dns): Promise<ResourceRecordSet | undefined> {
  const { ListResourceRecordSetsCommand } = await import('@aws-sdk/client-route-53');
  const client = await step.context.aws.route53();
  const wanted = dns.name.endsWith('.') ? dns.name : `${dns.name}.`;
  const answer = await client.send(new ListResourceRecordSetsCommand({ HostedZoneId: dns.hostedZoneId, StartRecordName: wanted, StartRecordType: dns.type, MaxItems: 1 })).catch((error: unknown) => {
    throw dnsError('route53:ListResourceRecordSets', dns, error);
  });
  const found = answer.ResourceRecordSets?.[0];
  return found?.Name === wanted && found.Type === dns.type ? found : undefined;
}

function valueOf(record: ResourceRecordSet | undefined): string | null {
  return record?.ResourceRecords?.[0]?.Value ?? null;
}

function same(a: string | null, b: string): boolean {
  return a !== null && a.replace(/\.$/, '').toLowerCase() === b.replace(/\.$/, '').toLowerCase();
}

const change: StepDefinition = {
  async inspect(step) {
    const { datastore, dns } = dnsOf(step);
    if (dns === undefined) return { satisfied: false, summary: 'no DNS record is configured' };
    const value = valueOf(await currentRecord(step, dns));
    const candidate = optionalText(step, 'candidate');
    const wanted = candidate === undefined ? undefined : applicationAddress(datastore.nodes[nodeInput(step, 'candidate')]!).host;
    return { satisfied: wanted !== undefined && same(value, wanted), summary: `${dns.name} is ${value ?? 'missing'}`, before: { value } };
  },
  async guard(step) {
    const { dns } = dnsOf(step);
    if (dns === undefined) return guarded([]);
    const record = await currentRecord(step, dns);
    const checks = [check('DNS record', record !== undefined, `${dns.type} record ${dns.name} in zone ${dns.hostedZoneId}`, valueOf(record) ?? 'missing', 'create it, or correct endpoint.dns')];
    if (record !== undefined) checks.push(await permissionCheck(step, dns, record));
    return guarded(checks);
  },
  async apply(step) {
    const { datastore, dns } = dnsOf(step);
    if (dns === undefined) return { outcome: 'skipped', summary: 'no DNS record is configured for this datastore' };
    const { ChangeResourceRecordSetsCommand, GetChangeCommand } = await import('@aws-sdk/client-route-53');
    const client = await step.context.aws.route53();
    const record = await currentRecord(step, dns);
    const before = valueOf(record);
    const wanted = applicationAddress(datastore.nodes[nodeInput(step, 'candidate')]!).host;
    if (same(before, wanted)) return { outcome: 'already-satisfied', summary: `${dns.name} is ${wanted} already`, before: { value: before }, after: { value: wanted }, facts: { changeId: null, insyncMs: 0 } };
    const started = step.nowMs();
    const sent = await client
      .send(new ChangeResourceRecordSetsCommand({
        HostedZoneId: dns.hostedZoneId,
        ChangeBatch: { Comment: `holdfast ${step.call.key}`, Changes: [{ Action: 'UPSERT', ResourceRecordSet: { ...record, Name: dns.name, Type: dns.type, TTL: dns.ttlSeconds, ResourceRecords: [{ Value: wanted }] } }] },
      }))
      .catch((error: unknown) => {
        throw dnsError('route53:ChangeResourceRecordSets', dns, error);
      });
    const changeId = sent.ChangeInfo!.Id!;
    let status = sent.ChangeInfo!.Status;
    while (status !== 'INSYNC') {
      step.heartbeat({ changeId, status });
      await pause(500, step.signal);
      status = (await client.send(new GetChangeCommand({ Id: changeId }))).ChangeInfo?.Status;
    }
    const insyncMs = step.nowMs() - started;
    return { outcome: 'changed', summary: `${dns.name} is ${wanted}, INSYNC after ${formatDuration(insyncMs)}`, before: { value: before }, after: { value: wanted }, facts: { changeId, insyncMs } };
  },
  async verify(step) {
    const { datastore, dns } = dnsOf(step);
    if (dns === undefined) return { checks: [], summary: 'no DNS record is configured' };
    const value = valueOf(await currentRecord(step, dns));
    const wanted = applicationAddress(datastore.nodes[nodeInput(step, 'candidate')]!).host;
    return { checks: [check('DNS record', same(value, wanted), wanted, value ?? 'missing')], summary: `${dns.name} is ${value}` };
  },
};

/**
 * May we change the record? Asked by creating what exists: Route 53 answers InvalidChangeBatch to who may, and
 * AccessDenied to who may not; nothing changes either way. Source: Route 53 API reference, ChangeResourceRecordSets, CREATE.
 */
async function permissionCheck(step: StepRun, dns: Dns, record: ResourceRecordSet) {
  const { ChangeResourceRecordSetsCommand } = await import('@aws-sdk/client-route-53');
  const client = await step.context.aws.route53();
  const expected = 'route53:ChangeResourceRecordSets is allowed';
  try {
    await client.send(new ChangeResourceRecordSetsCommand({ HostedZoneId: dns.hostedZoneId, ChangeBatch: { Comment: 'holdfast permission check', Changes: [{ Action: 'CREATE', ResourceRecordSet: record }] } }));
    return check('DNS permission', true, expected, 'allowed');
  } catch (error) {
    const name = (error as Error).name;
    if (name === 'InvalidChangeBatch' || /already exists/i.test((error as Error).message)) return check('DNS permission', true, expected, 'allowed');
    return check('DNS permission', false, expected, `${name}: ${(error as Error).message}`, "allow it to the worker's role on this zone");
  }
}

function dnsError(action: string, dns: Dns, error: unknown): HoldfastError {
  const name = (error as Error).name;
  return new HoldfastError('dns-call', `${action} on zone ${dns.hostedZoneId}: ${name}: ${(error as Error).message}`, {
    retryable: !/NoSuchHostedZone|AccessDenied|InvalidInput|InvalidChangeBatch/.test(name),
    next: name === 'NoSuchHostedZone' ? 'correct endpoint.dns.hostedZoneId' : `check that the worker may call ${action}`,
    cause: error,
  });
}

export const route53Steps: Readonly<Record<string, StepDefinition>> = { 'route53.change': change };
