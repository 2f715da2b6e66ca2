import {
  ApplicationFailure,
  WorkflowExecutionAlreadyStartedError,
  WorkflowFailedError,
  WorkflowNotFoundError,
  WorkflowUpdateFailedError,
  type Client,
  type WorkflowHandleWithStartDetails,
} from '@temporalio/client';
import type { ExecutionResult } from '../../workflows/failover.ts';
import type { Config } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { OperatorAction, OperatorRequest, Progress } from '../model/execution.ts';
import { workflowInputSchemas, type WorkflowType } from '../model/api.ts';
import { grpcCodeOf } from './connection.ts';

/** gRPC status codes. */
const DEADLINE_EXCEEDED = 4;
const CANCELLED = 1;
/** A query or Update is answered by a worker; without one it would wait for ever. */
const ANSWER_TIMEOUT_MS = 15_000;

/**
 * Start one execution. The input is checked here as the workflow will check it.
 * @throws HoldfastError `already-running` when an execution with this id runs: Temporal itself refuses the second one.
 */
export async function startExecution(
  client: Client,
  config: Config,
  start: { type: WorkflowType; workflowId: string; input: unknown },
): Promise<WorkflowHandleWithStartDetails> {
  const parsed = workflowInputSchemas[start.type].safeParse(start.input);
  if (!parsed.success) {
    throw new HoldfastError('usage', `the input of ${start.type} is wrong: ${parsed.error.issues.map((issue) => `${issue.path.join('.') || 'input'}: ${issue.message}`).join('; ')}`);
  }
  try {
    return await client.workflow.start(start.type, { taskQueue: config.temporal.taskQueue, workflowId: start.workflowId, args: [start.input], workflowIdReusePolicy: start.type === 'imported' ? 'ALLOW_DUPLICATE_FAILED_ONLY' : 'ALLOW_DUPLICATE', workflowIdConflictPolicy: 'FAIL' });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    // What was done once is recorded once.
    if (start.type === 'imported') throw new HoldfastError('import-refused', `${start.workflowId} was imported already`, { next: `look at it: holdfast audit ${start.workflowId}`, cause: error });
    throw new HoldfastError('already-running', `${start.workflowId} is running already; a second one is refused`, {
      next: `look at it: holdfast status ${start.workflowId}`,
      cause: error,
    });
  }
}

/** The full result that a runbook's workflow fails with when it did not succeed; undefined for any other error. */
export function resultIn(error: unknown): ExecutionResult | undefined {
  const cause = error instanceof WorkflowFailedError ? error.cause : undefined;
  return cause instanceof ApplicationFailure && cause.type?.startsWith('execution-') === true ? (cause.details?.[0] as ExecutionResult | undefined) : undefined;
}

/** The query `progress`. @throws HoldfastError `execution-not-found`, `no-worker`. */
export async function queryProgress(client: Client, workflowId: string, runId?: string): Promise<Progress> {
  return answered(workflowId, () =>
    client.connection.withDeadline(Date.now() + ANSWER_TIMEOUT_MS, () => client.workflow.getHandle(workflowId, runId).query<Progress>('progress')),
  );
}

/** The Update of that name. @throws HoldfastError `operator-refused` with the workflow's own reason. */
export async function sendOperatorAction(client: Client, workflowId: string, action: OperatorAction, request: OperatorRequest): Promise<unknown> {
  return answered(workflowId, () =>
    client.connection.withDeadline(Date.now() + ANSWER_TIMEOUT_MS, () => client.workflow.getHandle(workflowId).executeUpdate<unknown, [OperatorRequest]>(action, { args: [request] })),
  );
}

async function answered<T>(workflowId: string, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    throw translate(workflowId, error);
  }
}

function translate(workflowId: string, error: unknown): unknown {
  if (error instanceof WorkflowNotFoundError) {
    return new HoldfastError('execution-not-found', `there is no execution ${workflowId} that could answer (it may have ended)`, {
      next: 'see `holdfast status` for what runs and `holdfast audit` for what ended',
      cause: error,
    });
  }
  if (error instanceof WorkflowUpdateFailedError) {
    return new HoldfastError('operator-refused', `refused: ${messageOf(error.cause ?? error)}`, { next: `look at it: holdfast status ${workflowId}`, cause: error });
  }
  const code = grpcCodeOf(error);
  if (code === DEADLINE_EXCEEDED || code === CANCELLED) {
    return new HoldfastError('no-worker', `no worker answered for ${workflowId} within ${ANSWER_TIMEOUT_MS / 1000} s`, {
      next: 'start one: holdfast worker; or see its log if one runs',
      retryable: true,
      cause: error,
    });
  }
  return error;
}
