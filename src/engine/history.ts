import type { Client, WorkflowExecutionInfo } from '@temporalio/client';
import { WorkflowNotFoundError, defaultPayloadConverter, defineSearchAttributeKey, type Payload } from '@temporalio/common';
import type proto from '@temporalio/proto';
import { SEARCH_ATTRIBUTES, workflowInputSchemas } from '../model/api.ts';
import { HoldfastError } from '../model/errors.ts';

type HistoryEvent = proto.temporal.api.history.v1.IHistoryEvent;
type Failure = proto.temporal.api.failure.v1.IFailure;
type Payloads = proto.temporal.api.common.v1.IPayloads;

/** One execution as visibility knows it. */
export interface ExecutionSummary {
  readonly workflowId: string;
  readonly runId: string;
  readonly type: string;
  /** RUNNING, COMPLETED, FAILED, CANCELLED, TERMINATED, TIMED_OUT, CONTINUED_AS_NEW. */
  readonly status: string;
  readonly startedAt: string;
  readonly closedAt: string | null;
  readonly durationMs: number | null;
  readonly service: string | null;
  readonly datastore: string | null;
  readonly runbook: string | null;
  readonly mode: string | null;
  readonly outcome: string | null;
  readonly requestedBy: string | null;
  readonly environment: string | null;
}

export interface ExecutionFilter {
  readonly service?: string;
  readonly datastore?: string;
  /** A workflow type. */
  readonly kind?: string;
  readonly outcome?: string;
  readonly by?: string;
  readonly environment?: string;
  readonly sinceMs?: number;
  readonly running?: boolean;
}

/** Executions of our workflow types, newest first. */
export async function listExecutions(client: Client, filter: ExecutionFilter, limit: number): Promise<ExecutionSummary[]> {
  const found: ExecutionSummary[] = [];
  if (limit <= 0) return found;
  for await (const info of client.workflow.list({ query: visibilityQuery(filter), pageSize: Math.min(limit, 1000) })) {
    found.push(summaryOf(info));
    if (found.length >= limit) break;
  }
  return found.sort((a, b) => b.startedAt.localeCompare(a.startedAt));
}

/** The filter in Temporal's list filter language; also what to give to `temporal workflow list --query`. */
export function visibilityQuery(filter: ExecutionFilter): string {
  const types = Object.keys(workflowInputSchemas);
  if (filter.kind !== undefined && !types.includes(filter.kind)) {
    throw new HoldfastError('unknown-kind', `there is no workflow type "${filter.kind}"`, { next: `use one of: ${types.join(', ')}` });
  }
  const parts = [filter.kind === undefined ? `WorkflowType IN (${types.map(quoted).join(', ')})` : `WorkflowType = ${quoted(filter.kind)}`];
  const equals = { [SEARCH_ATTRIBUTES.service]: filter.service, [SEARCH_ATTRIBUTES.datastore]: filter.datastore, [SEARCH_ATTRIBUTES.outcome]: filter.outcome, [SEARCH_ATTRIBUTES.requestedBy]: filter.by, [SEARCH_ATTRIBUTES.environment]: filter.environment };
  for (const [name, value] of Object.entries(equals)) if (value !== undefined) parts.push(`${name} = ${quoted(value)}`);
  if (filter.sinceMs !== undefined) parts.push(`StartTime >= ${quoted(new Date(filter.sinceMs).toISOString())}`);
  if (filter.running !== undefined) parts.push(filter.running ? `ExecutionStatus = 'Running'` : `ExecutionStatus != 'Running'`);
  return parts.join(' AND ');
}

function quoted(value: string): string {
  if (/['"\\]/.test(value)) throw new HoldfastError('usage', `"${value}" holds a quote or a backslash, which no name has`);
  return `'${value}'`;
}

const KEYS = Object.fromEntries(Object.entries(SEARCH_ATTRIBUTES).map(([key, name]) => [key, defineSearchAttributeKey(name, 'KEYWORD')])) as Record<keyof typeof SEARCH_ATTRIBUTES, ReturnType<typeof defineSearchAttributeKey<'KEYWORD'>>>;

function summaryOf(info: Omit<WorkflowExecutionInfo, 'raw'>): ExecutionSummary {
  const attribute = (key: keyof typeof SEARCH_ATTRIBUTES): string | null => info.typedSearchAttributes.get(KEYS[key]) ?? null;
  return {
    workflowId: info.workflowId,
    runId: info.runId,
    type: info.type,
    status: info.status.name,
    startedAt: info.startTime.toISOString(),
    closedAt: info.closeTime?.toISOString() ?? null,
    durationMs: info.closeTime === undefined ? null : info.closeTime.getTime() - info.startTime.getTime(),
    service: attribute('service'),
    datastore: attribute('datastore'),
    runbook: attribute('runbook'),
    mode: attribute('mode'),
    outcome: attribute('outcome'),
    requestedBy: attribute('requestedBy'),
    environment: attribute('environment'),
  };
}

export interface PendingActivity {
  readonly activity: string;
  readonly attempt: number;
  readonly state: string;
  readonly lastHeartbeatAt: string | null;
  /** What it last reported, e.g. bytes and rate. */
  readonly progress: unknown;
  readonly lastFailure: string | null;
}

/** @throws HoldfastError `execution-not-found`. */
export async function describeExecution(client: Client, workflowId: string, runId?: string): Promise<{ summary: ExecutionSummary; pending: PendingActivity[] }> {
  try {
    const description = await client.workflow.getHandle(workflowId, runId).describe();
    const pending: PendingActivity[] = [];
    for (const activity of description.raw.pendingActivities ?? []) {
      pending.push({
        activity: activity.activityType?.name ?? '',
        attempt: activity.attempt ?? 1,
        state: activity.state === 2 ? 'running' : activity.state === 3 ? 'cancel requested' : 'waiting for a worker',
        lastHeartbeatAt: isoOf(activity.lastHeartbeatTime),
        progress: (await decodeAll(client, activity.heartbeatDetails))[0] ?? null,
        lastFailure: activity.lastFailure ? await failureTextOf(client, activity.lastFailure) : null,
      });
    }
    return { summary: summaryOf(description), pending };
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) throw notFound(workflowId, error);
    throw error;
  }
}

function notFound(workflowId: string, cause: unknown): HoldfastError {
  return new HoldfastError('execution-not-found', `there is no execution ${workflowId}`, { next: 'see `holdfast audit` for what there is; histories older than the retention of the namespace are gone', cause });
}

export interface AuditedActivity {
  readonly activity: string;
  readonly scheduledAt: string;
  readonly startedAt: string | null;
  readonly endedAt: string | null;
  readonly durationMs: number | null;
  readonly attempts: number;
  readonly outcome: 'completed' | 'failed' | 'timed-out' | 'cancelled' | 'open';
  readonly worker: string | null;
  readonly input: unknown;
  readonly result: unknown;
  readonly failure: string | null;
}

export interface AuditedUpdate {
  readonly name: string;
  readonly by: string | null;
  readonly reason: string | null;
  readonly request: unknown;
  readonly acceptedAt: string;
  readonly completedAt: string | null;
  readonly outcome: 'completed' | 'refused' | 'failed' | 'open';
  readonly result: unknown;
}

/** One execution in full, from its history and nothing else. */
export interface AuditRecord {
  readonly workflowId: string;
  readonly runId: string;
  readonly type: string;
  readonly status: string;
  readonly startedAt: string;
  readonly closedAt: string | null;
  readonly startedBy: string | null;
  readonly input: unknown;
  readonly planHash: string | null;
  readonly searchAttributes: Readonly<Record<string, unknown>>;
  readonly activities: readonly AuditedActivity[];
  readonly updates: readonly AuditedUpdate[];
  /** Signals, cancellation requests, timers that fired, terminations: `what` in words. */
  readonly other: readonly { readonly at: string; readonly what: string }[];
  readonly result: unknown;
  readonly failure: string | null;
  readonly events: number;
  readonly continuedAs: string | null;
}

/**
 * Read one run's history. Refused Updates are not in it: Temporal keeps only what was accepted.
 * @throws HoldfastError `execution-not-found`.
 */
export async function auditExecution(client: Client, workflowId: string, runId?: string): Promise<AuditRecord> {
  const { summary } = await describeExecution(client, workflowId, runId);
  const history = await client.workflow.getHandle(workflowId, summary.runId).fetchHistory();
  const events = history.events ?? [];
  const activities = new Map<string, { -readonly [K in keyof AuditedActivity]: AuditedActivity[K] }>();
  const updates = new Map<string, { -readonly [K in keyof AuditedUpdate]: AuditedUpdate[K] }>();
  const other: { at: string; what: string }[] = [];
  let input: unknown = null;
  let result: unknown = null;
  let failure: string | null = null;
  let startedBy: string | null = null;
  let continuedAs: string | null = null;
  let closedAt: string | null = null;
  const attributes: Record<string, unknown> = {};

  function takeAttributes(found: proto.temporal.api.common.v1.ISearchAttributes | null | undefined): void {
    for (const [name, payload] of Object.entries(found?.indexedFields ?? {})) attributes[name] = defaultPayloadConverter.fromPayload(payload as Payload);
  }
  async function endActivity(event: HistoryEvent, scheduled: Long | null | undefined, outcome: AuditedActivity['outcome'], more: { result?: Payloads | null; failure?: Failure | null }): Promise<void> {
    const activity = activities.get(String(scheduled));
    if (activity === undefined) return;
    activity.endedAt = isoOf(event.eventTime);
    activity.outcome = outcome;
    activity.result = (await decodeAll(client, more.result))[0] ?? null;
    activity.failure = more.failure ? await failureTextOf(client, more.failure) : null;
    activity.durationMs = Date.parse(activity.endedAt!) - Date.parse(activity.startedAt ?? activity.scheduledAt);
  }

  for (const event of events) {
    const at = isoOf(event.eventTime) ?? '';
    if (event.workflowExecutionStartedEventAttributes) {
      const started = event.workflowExecutionStartedEventAttributes;
      input = (await decodeAll(client, started.input))[0] ?? null;
      startedBy = started.identity ?? null;
      takeAttributes(started.searchAttributes);
    } else if (event.upsertWorkflowSearchAttributesEventAttributes) {
      takeAttributes(event.upsertWorkflowSearchAttributesEventAttributes.searchAttributes);
    } else if (event.activityTaskScheduledEventAttributes) {
      const scheduled = event.activityTaskScheduledEventAttributes;
      activities.set(String(event.eventId), {
        activity: scheduled.activityType?.name ?? '',
        scheduledAt: at,
        startedAt: null,
        endedAt: null,
        durationMs: null,
        attempts: 0,
        outcome: 'open',
        worker: null,
        input: await unwrapped(client, scheduled.input),
        result: null,
        failure: null,
      });
    } else if (event.activityTaskStartedEventAttributes) {
      const started = event.activityTaskStartedEventAttributes;
      const activity = activities.get(String(started.scheduledEventId));
      if (activity !== undefined) {
        activity.startedAt = at;
        activity.attempts = started.attempt ?? 1;
        activity.worker = started.identity ?? null;
      }
    } else if (event.activityTaskCompletedEventAttributes) {
      await endActivity(event, event.activityTaskCompletedEventAttributes.scheduledEventId, 'completed', { result: event.activityTaskCompletedEventAttributes.result });
    } else if (event.activityTaskFailedEventAttributes) {
      await endActivity(event, event.activityTaskFailedEventAttributes.scheduledEventId, 'failed', { failure: event.activityTaskFailedEventAttributes.failure });
    } else if (event.activityTaskTimedOutEventAttributes) {
      await endActivity(event, event.activityTaskTimedOutEventAttributes.scheduledEventId, 'timed-out', { failure: event.activityTaskTimedOutEventAttributes.failure });
    } else if (event.activityTaskCanceledEventAttributes) {
      await endActivity(event, event.activityTaskCanceledEventAttributes.scheduledEventId, 'cancelled', {});
    } else if (event.workflowExecutionUpdateAcceptedEventAttributes) {
      const request = event.workflowExecutionUpdateAcceptedEventAttributes.acceptedRequest;
      const given = (await decodeAll(client, request?.input?.args))[0] ?? null;
      updates.set(request?.meta?.updateId ?? String(event.eventId), {
        name: request?.input?.name ?? '',
        by: textAt(given, 'by'),
        reason: textAt(given, 'reason'),
        request: given,
        acceptedAt: at,
        completedAt: null,
        outcome: 'open',
        result: null,
      });
    } else if (event.workflowExecutionUpdateCompletedEventAttributes) {
      const { meta, outcome } = event.workflowExecutionUpdateCompletedEventAttributes;
      const update = updates.get(meta?.updateId ?? '');
      if (update !== undefined) {
        update.completedAt = at;
        update.outcome = outcome?.failure ? (outcome.failure.applicationFailureInfo?.type === 'refused' ? 'refused' : 'failed') : 'completed';
        update.result = outcome?.failure ? await failureTextOf(client, outcome.failure) : ((await decodeAll(client, outcome?.success))[0] ?? null);
      }
    } else if (event.workflowExecutionSignaledEventAttributes) {
      const signal = event.workflowExecutionSignaledEventAttributes;
      other.push({ at, what: `signal ${signal.signalName ?? ''} from ${signal.identity ?? 'unknown'}` });
    } else if (event.workflowExecutionCancelRequestedEventAttributes) {
      other.push({ at, what: `cancellation requested by ${event.workflowExecutionCancelRequestedEventAttributes.identity || 'unknown'}` });
    } else if (event.startChildWorkflowExecutionInitiatedEventAttributes) {
      const child = event.startChildWorkflowExecutionInitiatedEventAttributes;
      other.push({ at, what: `started ${child.workflowType?.name ?? ''} ${child.workflowId ?? ''}` });
    } else if (event.workflowExecutionCompletedEventAttributes) {
      closedAt = at;
      result = (await decodeAll(client, event.workflowExecutionCompletedEventAttributes.result))[0] ?? null;
    } else if (event.workflowExecutionFailedEventAttributes) {
      closedAt = at;
      failure = await failureTextOf(client, event.workflowExecutionFailedEventAttributes.failure);
    } else if (event.workflowExecutionTimedOutEventAttributes) {
      closedAt = at;
      failure = 'it ran longer than its execution timeout';
    } else if (event.workflowExecutionCanceledEventAttributes) {
      closedAt = at;
      failure = 'it was cancelled';
    } else if (event.workflowExecutionTerminatedEventAttributes) {
      const terminated = event.workflowExecutionTerminatedEventAttributes;
      closedAt = at;
      failure = `terminated by ${terminated.identity || 'unknown'}: ${terminated.reason || 'no reason given'}; nothing was undone`;
    } else if (event.workflowExecutionContinuedAsNewEventAttributes) {
      closedAt = at;
      continuedAs = event.workflowExecutionContinuedAsNewEventAttributes.newExecutionRunId ?? null;
    }
  }
  const ordered = [...activities.values()];
  return {
    workflowId,
    runId: summary.runId,
    type: summary.type,
    status: summary.status,
    startedAt: summary.startedAt,
    closedAt,
    startedBy,
    input,
    planHash: planHashOf(ordered) ?? textAt(result, 'planHash'),
    searchAttributes: attributes,
    activities: ordered,
    updates: [...updates.values()],
    other,
    result,
    failure,
    events: events.length,
    continuedAs,
  };
}

type Long = proto.temporal.api.history.v1.IHistoryEvent['eventId'];

/** The plan is what the planning activity returned: an object with `hash` and `steps`. */
function planHashOf(activities: readonly AuditedActivity[]): string | null {
  for (const { result } of activities) {
    for (const candidate of [result, (result as { plan?: unknown } | null)?.plan]) {
      if (typeof candidate === 'object' && candidate !== null && 'steps' in candidate) return textAt(candidate, 'hash');
    }
  }
  return null;
}

function textAt(value: unknown, key: string): string | null {
  const found = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[key] : undefined;
  return typeof found === 'string' ? found : null;
}

async function unwrapped(client: Client, payloads: Payloads | null | undefined): Promise<unknown> {
  const values = await decodeAll(client, payloads);
  return values.length > 1 ? values : (values[0] ?? null);
}

async function decodeAll(client: Client, payloads: Payloads | null | undefined): Promise<unknown[]> {
  let decoded = (payloads?.payloads ?? []) as Payload[];
  const { payloadCodecs, payloadConverter } = client.options.loadedDataConverter;
  for (const codec of payloadCodecs.toReversed()) decoded = await codec.decode(decoded);
  return decoded.map((payload) => payloadConverter.fromPayload(payload));
}

/** The innermost message says what happened; the outer ones say only that something did. */
async function failureTextOf(client: Client, failure: Failure | null | undefined): Promise<string> {
  const texts: string[] = [];
  for (let at = failure; at; at = at.cause) {
    const [encoded] = at.encodedAttributes ? await decodeAll(client, { payloads: [at.encodedAttributes] }) : [];
    const text = textAt(encoded, 'message') ?? at.message ?? '';
    if (text !== '' && !/^(Activity task failed|Activity execution failed|Child Workflow execution failed)$/i.test(text)) texts.push(text);
  }
  return texts.join('; because: ') || 'it said nothing';
}

function isoOf(time: proto.google.protobuf.ITimestamp | null | undefined): string | null {
  if (!time) return null;
  return new Date(Number(time.seconds ?? 0) * 1000 + Math.floor((time.nanos ?? 0) / 1e6)).toISOString();
}
