import { createHash } from 'node:crypto';
import type { HealthCheck, ListResourceRecordSetsCommandOutput, ResourceRecordSet, RRType } from '@aws-sdk/client-route-53';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, errorName, probeAnswer } from './aws-failure.ts';
import type { Context } from './context.ts';
import { metricPoints } from './metric.ts';

/** A name in a hosted zone whose sets a routing policy chooses among. */
export interface RecordName {
  readonly hostedZoneId: string;
  readonly name: string;
  readonly type: string;
}

const PAGE = 300;
/** 300 sets each; a zone holds 10,000 unless its quota was raised. */
const MOST_PAGES = 200;

/** As Route 53 writes it: with the last dot, lower case, other characters as octal escapes. */
export function canonicalName(name: string): string {
  const dotted = name.endsWith('.') ? name : `${name}.`;
  return dotted.toLowerCase().replaceAll(/[^a-z0-9._\\-]/g, (found) => `\\${found.codePointAt(0)!.toString(8).padStart(3, '0')}`);
}

function show(at: RecordName): string {
  return `${at.type} ${at.name} in zone ${at.hostedZoneId}`;
}

/** All sets from `start` on, page after page. The service ends a page also within a name: then it goes on by set identifier. */
async function* listSets(context: Context, hostedZoneId: string, start?: { name: string; type: string }): AsyncGenerator<ResourceRecordSet> {
  const { ListResourceRecordSetsCommand } = await import('@aws-sdk/client-route-53');
  const client = await context.aws.route53();
  let from: { StartRecordName?: string; StartRecordType?: RRType; StartRecordIdentifier?: string } = start === undefined ? {} : { StartRecordName: start.name, StartRecordType: start.type as RRType };
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const answer: ListResourceRecordSetsCommandOutput = await client.send(new ListResourceRecordSetsCommand({ HostedZoneId: hostedZoneId, MaxItems: PAGE, ...from })).catch((error: unknown) => {
      throw awsFailure('dns-call', 'route53:ListResourceRecordSets', `zone ${hostedZoneId}`, error, errorName(error) === 'NoSuchHostedZone' ? 'correct hostedZoneId' : undefined);
    });
    yield* answer.ResourceRecordSets ?? [];
    if (answer.IsTruncated !== true) return;
    const next = { ...(answer.NextRecordName === undefined ? {} : { StartRecordName: answer.NextRecordName }), ...(answer.NextRecordType === undefined ? {} : { StartRecordType: answer.NextRecordType }), ...(answer.NextRecordIdentifier === undefined ? {} : { StartRecordIdentifier: answer.NextRecordIdentifier }) };
    if (JSON.stringify(next) === JSON.stringify(from)) throw new HoldfastError('dns-call', `route53:ListResourceRecordSets on zone ${hostedZoneId} names the page it has just given as the next one`, { next: 'look at the zone; a listing that does not go on is not acted on' });
    from = next;
  }
  throw new HoldfastError('dns-call', `zone ${hostedZoneId} has more than ${MOST_PAGES * PAGE} record sets`, { next: 'give the service a zone of its own' });
}

/** All sets of a name and type, by set identifier. */
export async function recordSets(context: Context, at: RecordName): Promise<ResourceRecordSet[]> {
  const wanted = canonicalName(at.name);
  const found: ResourceRecordSet[] = [];
  for await (const set of listSets(context, at.hostedZoneId, { name: wanted, type: at.type })) {
    if (canonicalName(set.Name ?? '') !== wanted || set.Type !== at.type) break;
    found.push(set);
  }
  return found.sort((a, b) => (a.SetIdentifier ?? '').localeCompare(b.SetIdentifier ?? ''));
}

/** Everything in the zone that a health check decides on. */
export async function setsWithHealthCheck(context: Context, hostedZoneId: string, healthCheckId: string): Promise<ResourceRecordSet[]> {
  const found: ResourceRecordSet[] = [];
  for await (const set of listSets(context, hostedZoneId)) if (set.HealthCheckId === healthCheckId) found.push(set);
  return found;
}

/** The same for the same sets, whatever order their attributes come in. */
export function fingerprint(sets: readonly ResourceRecordSet[]): string {
  return createHash('sha256').update(JSON.stringify(sets.map(sorted))).digest('hex').slice(0, 16);
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, item]) => [key, sorted(item)]));
}

/** `refused`: nothing was changed, in the words of the service. */
export type SentChange = { readonly changeId: string } | { readonly refused: string };

/**
 * Replaces sets in one batch: each is deleted as it was seen and created as it is to be. A deletion must name every value exactly and a
 * batch takes effect whole or not at all, so Route 53 itself compares and sets. Source: API reference, ChangeResourceRecordSets.
 */
export async function replaceSets(context: Context, at: RecordName, changes: readonly { readonly seen: ResourceRecordSet; readonly wanted: ResourceRecordSet }[], comment: string): Promise<SentChange> {
  const { ChangeResourceRecordSetsCommand } = await import('@aws-sdk/client-route-53');
  const client = await context.aws.route53();
  try {
    const sent = await client.send(new ChangeResourceRecordSetsCommand({
      HostedZoneId: at.hostedZoneId,
      ChangeBatch: {
        Comment: comment.slice(0, 256),
        Changes: [...changes.map(({ seen }) => ({ Action: 'DELETE' as const, ResourceRecordSet: seen })), ...changes.map(({ wanted }) => ({ Action: 'CREATE' as const, ResourceRecordSet: wanted }))],
      },
    }));
    return { changeId: sent.ChangeInfo!.Id! };
  } catch (error) {
    if (errorName(error) === 'InvalidChangeBatch' && /not match the current values|was not found|already exists/.test((error as Error).message)) return { refused: (error as Error).message };
    throw awsFailure('dns-call', 'route53:ChangeResourceRecordSets', show(at), error);
  }
}

export async function isInsync(context: Context, changeId: string): Promise<boolean> {
  const { GetChangeCommand } = await import('@aws-sdk/client-route-53');
  const client = await context.aws.route53();
  const answer = await client.send(new GetChangeCommand({ Id: changeId })).catch((error: unknown) => {
    throw awsFailure('dns-call', 'route53:GetChange', changeId, error);
  });
  return answer.ChangeInfo?.Status === 'INSYNC';
}

/** May we change the name? Asked by deleting one of its sets with a value that it does not have. */
export async function mayChangeSets(context: Context, at: RecordName, one: ResourceRecordSet): Promise<{ allowed: boolean; found: string }> {
  const { ChangeResourceRecordSetsCommand } = await import('@aws-sdk/client-route-53');
  const client = await context.aws.route53();
  const value = at.type === 'A' ? '192.0.2.1' : at.type === 'AAAA' ? '2001:db8::1' : at.type === 'TXT' ? '"holdfast permission check"' : 'holdfast-permission-check.invalid.';
  const absent: ResourceRecordSet = { ...one, AliasTarget: undefined, SetIdentifier: 'holdfast-permission-check', TTL: (one.TTL ?? 0) + 1, ResourceRecords: [{ Value: value }] };
  try {
    await client.send(new ChangeResourceRecordSetsCommand({ HostedZoneId: at.hostedZoneId, ChangeBatch: { Comment: 'holdfast permission check', Changes: [{ Action: 'DELETE', ResourceRecordSet: absent }] } }));
  } catch (error) {
    return probeAnswer('route53:ChangeResourceRecordSets', show(at), error);
  }
  // Deleting what is not there was taken: harmless if nothing is gone.
  const after = await recordSets(context, at);
  return { allowed: after.some((set) => set.SetIdentifier === one.SetIdentifier), found: 'allowed (the zone took the deletion of a set that does not exist)' };
}

export interface HealthCheckState {
  readonly id: string;
  readonly version: number;
  readonly inverted: boolean;
  readonly disabled: boolean;
  readonly type: string;
}

function stateOf(check: HealthCheck): HealthCheckState {
  const config = check.HealthCheckConfig;
  return { id: check.Id!, version: check.HealthCheckVersion!, inverted: config?.Inverted === true, disabled: config?.Disabled === true, type: String(config?.Type) };
}

export async function healthCheck(context: Context, id: string): Promise<HealthCheckState> {
  const { GetHealthCheckCommand } = await import('@aws-sdk/client-route-53');
  const client = await context.aws.route53();
  try {
    return stateOf((await client.send(new GetHealthCheckCommand({ HealthCheckId: id }))).HealthCheck!);
  } catch (error) {
    throw awsFailure('dns-call', 'route53:GetHealthCheck', id, error, errorName(error) === 'NoSuchHealthCheck' ? 'correct the health check of the record set' : undefined);
  }
}

/** Changes a health check only if it still is of `version`. @returns null when it is not. */
export async function setHealthCheck(context: Context, id: string, version: number, flags: { readonly inverted: boolean; readonly disabled: boolean }): Promise<HealthCheckState | null> {
  const { UpdateHealthCheckCommand } = await import('@aws-sdk/client-route-53');
  const client = await context.aws.route53();
  try {
    return stateOf((await client.send(new UpdateHealthCheckCommand({ HealthCheckId: id, HealthCheckVersion: version, Inverted: flags.inverted, Disabled: flags.disabled }))).HealthCheck!);
  } catch (error) {
    if (errorName(error) === 'HealthCheckVersionMismatch') return null;
    throw awsFailure('dns-call', 'route53:UpdateHealthCheck', id, error);
  }
}

/** May we change it? Asked with no setting at all and a version that it does not have. */
export async function maySetHealthCheck(context: Context, state: HealthCheckState): Promise<{ allowed: boolean; found: string }> {
  const { UpdateHealthCheckCommand } = await import('@aws-sdk/client-route-53');
  const client = await context.aws.route53();
  try {
    await client.send(new UpdateHealthCheckCommand({ HealthCheckId: state.id, HealthCheckVersion: state.version + 1 }));
    return { allowed: true, found: 'allowed' };
  } catch (error) {
    return probeAnswer('route53:UpdateHealthCheck', state.id, error);
  }
}

/** What Route 53's own checkers say. */
export interface HealthSeen {
  readonly id: string;
  readonly checkers: number;
  readonly failing: number;
  /** Newest observation, epoch milliseconds; null: there is none. */
  readonly newestMs: number | null;
  /** One of the failing ones, in its own words. */
  readonly example: string | null;
}

/** Checkers that have not looked for this long say nothing of now. */
const STALE_MS = 300_000;

/** Without checkers of their own: only the metric that Route 53 itself writes (in us-east-1) says how they are. */
const WITHOUT_CHECKERS = new Set(['CALCULATED', 'CLOUDWATCH_METRIC', 'RECOVERY_CONTROL']);

async function healthByMetric(context: Context, id: string, nowMs: number): Promise<HealthSeen> {
  const points = await metricPoints(context, { region: 'us-east-1', namespace: 'AWS/Route53', name: 'HealthCheckStatus', dimensions: { HealthCheckId: id }, statistic: 'Minimum', periodMs: 60_000 }, nowMs - STALE_MS, nowMs + 1000);
  const newest = points.at(-1);
  if (newest === undefined) return { id, checkers: 0, failing: 0, newestMs: null, example: null };
  const failing = newest.value < 1 ? 1 : 0;
  return { id, checkers: 1, failing, newestMs: newest.atMs, example: failing === 0 ? null : 'HealthCheckStatus is 0' };
}

export async function healthSeen(context: Context, { id, type }: Pick<HealthCheckState, 'id' | 'type'>, nowMs: number): Promise<HealthSeen> {
  if (WITHOUT_CHECKERS.has(type)) return healthByMetric(context, id, nowMs);
  const { GetHealthCheckStatusCommand } = await import('@aws-sdk/client-route-53');
  const client = await context.aws.route53();
  const answer = await client.send(new GetHealthCheckStatusCommand({ HealthCheckId: id })).catch((error: unknown) => {
    throw awsFailure('dns-call', 'route53:GetHealthCheckStatus', id, error, errorName(error) === 'NoSuchHealthCheck' ? 'correct the id of the health check' : undefined);
  });
  const fresh = (answer.HealthCheckObservations ?? []).filter((one) => one.StatusReport?.CheckedTime !== undefined && nowMs - one.StatusReport.CheckedTime.getTime() < STALE_MS);
  const failing = fresh.filter((one) => !/^Success/i.test(one.StatusReport?.Status ?? ''));
  return {
    id,
    checkers: fresh.length,
    failing: failing.length,
    newestMs: fresh.length === 0 ? null : Math.max(...fresh.map((one) => one.StatusReport!.CheckedTime!.getTime())),
    example: failing[0] === undefined ? null : `${failing[0].Region ?? '?'}: ${failing[0].StatusReport?.Status ?? 'no status'}`,
  };
}

/** Route 53 calls an endpoint healthy when more than 18 % of its checkers do. Source: Developer Guide, how Route 53 determines health. */
export function isHealthy(seen: HealthSeen): boolean | null {
  return seen.checkers === 0 ? null : (seen.checkers - seen.failing) / seen.checkers > 0.18;
}
