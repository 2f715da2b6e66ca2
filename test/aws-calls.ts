import { AsyncLocalStorage } from 'node:async_hooks';
import { appendFileSync } from 'node:fs';
import { Context as ActivityContext } from '@temporalio/activity';
import type { Context } from '../src/systems/context.ts';

/** Whose AWS call it is: a phase `<kind>:<phase>` or another activity, and the inputs of the step as far as they are known here. */
export interface Caller {
  readonly activity: string;
  readonly input?: Readonly<Record<string, unknown>>;
}

export interface AwsCall extends Caller {
  /** As IAM names it. */
  readonly service: string;
  readonly command: string;
  readonly sent: Readonly<Record<string, unknown>>;
}

const callers = new AsyncLocalStorage<Caller>();

/** Calls within `run` are this caller's: for phases that are run without the engine. */
export function asCaller<T>(caller: Caller, run: () => T): T {
  return callers.run(caller, run);
}

function callerNow(): Caller | undefined {
  const known = callers.getStore();
  if (known !== undefined) return known;
  try {
    return { activity: ActivityContext.current().info.activityType };
  } catch {
    return undefined;
  }
}

const NAMES = { secretsManager: 'secretsmanager', rds: 'rds', cloudWatch: 'cloudwatch', sqs: 'sqs', ssm: 'ssm', ec2: 'ec2', route53: 'route53', cloudFront: 'cloudfront', s3: 's3', dynamo: 'dynamodb', dynamoItems: 'dynamodb', dynamoStreams: 'dynamodb' } as const;

interface Stack {
  add(middleware: (next: (args: { input: Record<string, unknown> }) => Promise<unknown>, about: { commandName?: string }) => (args: { input: Record<string, unknown> }) => Promise<unknown>, options: { step: 'initialize'; name: string; override: boolean }): void;
}

/** Reports every command that an activity sends, before it is sent. What a test sends itself is not an activity's. */
export function watchAwsCalls(context: Context, report: (call: AwsCall) => void): void {
  const clients = context.aws as unknown as Record<string, (...args: unknown[]) => Promise<{ middlewareStack: Stack }>>;
  for (const [method, service] of Object.entries(NAMES)) {
    const make = clients[method]!.bind(clients);
    clients[method] = async (...args) => {
      const client = await make(...args);
      client.middlewareStack.add(
        (next, about) => (given) => {
          const caller = callerNow();
          if (caller !== undefined) {
            const call: AwsCall = { ...caller, service, command: (about.commandName ?? '').replace(/Command$/, ''), sent: given.input };
            if (process.env['HOLDFAST_RECORD_AWS'] !== undefined) appendFileSync(process.env['HOLDFAST_RECORD_AWS'], `${caller.activity} ${service}:${call.command}\n`);
            report(call);
          }
          return next(given);
        },
        { step: 'initialize', name: 'holdfastTestCalls', override: true },
      );
      return client;
    };
  }
}
