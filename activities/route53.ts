import { isIP } from 'node:net';
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
  return (await currentRecords(step, dns))[0];
}

/** More than one: a routing policy (weighted, latency, failover) keeps several under one name. */
async function currentRecords(step: StepRun, dns: Dns): Promise<ResourceRecordSet[]> {
  const { ListResourceRecordSetsCommand } = await import('@aws-sdk/client-route-53');
  const client = await step.context.aws.route53();
  const wanted = dns.name.endsWith('.') ? dns.name : `${dns.name}.`;
  const answer = await client.send(new ListResourceRecordSetsCommand({ HostedZoneId: dns.hostedZoneId, StartRecordName: wanted, StartRecordType: dns.type, MaxItems: 2 })).catch((error: unknown) => {
    throw dnsError('route53:ListResourceRecordSets', dns, error);
  });
  return (answer.ResourceRecordSets ?? []).filter((record) => record.Name === wanted && record.Type === dns.type);
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
    return { satisfied: wanted !== undefined && same(value, wanted), summary: `${dns.name} is ${value ?? 'missing'}`, before: { value, name: dns.name, wanted: wanted ?? null } };
  },
  async guard(step) {
    const { datastore, dns } = dnsOf(step);
    if (dns === undefined) return guarded([]);
    const records = await currentRecords(step, dns);
    const [record] = records;
    const checks = [check('DNS record', record !== undefined, `${dns.type} record ${dns.name} in zone ${dns.hostedZoneId}`, valueOf(record) ?? 'missing', 'create it, or correct endpoint.dns')];
    if (record !== undefined) {
      const simple = records.length === 1 && record.SetIdentifier === undefined && record.AliasTarget === undefined && record.ResourceRecords?.length === 1;
      checks.push(check('a simple record', simple, 'one record with one value, no alias and no routing policy', simple ? 'simple' : record.AliasTarget !== undefined ? 'an alias' : `${records.length} set(s), ${record.ResourceRecords?.length ?? 0} value(s)`, 'give the database a simple record of its own'));
    }
    for (const [name, node] of Object.entries(datastore.nodes)) {
      const { host } = applicationAddress(node);
      const fits = (isIP(host) === 4) === (dns.type === 'A');
      checks.push(check(`address of ${name}`, fits, dns.type === 'A' ? 'an IPv4 address' : 'a host name', host, `correct nodes.${name}.applicationHost or endpoint.dns.type`));
    }
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
 * May we change the record? Asked by deleting what does not exist: the same record with another TTL and value. To who may,
 * Route 53 answers that it does not match (a deletion must name every value exactly); to who may not, AccessDenied. Nothing
 * changes either way. Source: Route 53 API reference, ChangeResourceRecordSets, DELETE.
 */
async function permissionCheck(step: StepRun, dns: Dns, record: ResourceRecordSet) {
  const { ChangeResourceRecordSetsCommand } = await import('@aws-sdk/client-route-53');
  const client = await step.context.aws.route53();
  const expected = 'route53:ChangeResourceRecordSets is allowed';
  const absent: ResourceRecordSet = { Name: record.Name, Type: record.Type, TTL: (record.TTL ?? 0) + 1, ResourceRecords: [{ Value: dns.type === 'A' ? '192.0.2.1' : 'holdfast-permission-check.invalid.' }] };
  try {
    await client.send(new ChangeResourceRecordSetsCommand({ HostedZoneId: dns.hostedZoneId, ChangeBatch: { Comment: 'holdfast permission check', Changes: [{ Action: 'DELETE', ResourceRecordSet: absent }] } }));
    return check('DNS permission', false, expected, 'the zone accepted the deletion of a record that does not exist', 'look at the zone before anything else');
  } catch (error) {
    const name = (error as Error).name;
    if (name === 'InvalidChangeBatch' || name === 'InvalidInput') return check('DNS permission', true, expected, 'allowed');
    const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
    return check('DNS permission', false, expected, `${name}: ${(error as Error).message}${status === undefined ? '' : ` (HTTP ${status})`}`, "allow it to the worker's role on this zone");
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
