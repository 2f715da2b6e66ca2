import { userInfo } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import type { Client } from '@temporalio/client';
import type { Config } from '../model/config-schema.ts';
import { HoldfastError, formatFinding } from '../model/errors.ts';
import type { Context } from '../systems/context.ts';
import { redact, redactValue } from '../systems/log.ts';
import { EXIT, type Io } from './io.ts';

/** Flags that every command takes. */
export interface GlobalFlags {
  readonly config?: string;
  readonly runbooks?: string;
  readonly json?: boolean;
  readonly by?: string;
  readonly logLevel?: string;
  readonly logFormat?: string;
  readonly address?: string;
  readonly namespace?: string;
  readonly taskQueue?: string;
}

/** Where a process begins and ends: the terminal, or what a test brings. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  out(text: string): void;
  err(text: string): void;
  /** stderr is a terminal. */
  readonly terminal: boolean;
  /** Ends the process; used for a second Ctrl-C only. */
  exit(code: number): void;
  onSignal(handler: (signal: string) => void): () => void;
}

export interface ConsoleIo extends Io {
  /** The last code a command gave, else 0. */
  readonly exitCode: number;
  /** stdout already carries its JSON document. */
  readonly resultGiven: boolean;
  close(): Promise<void>;
}

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
const FORMATS = ['json', 'pretty'] as const;

/**
 * @param flags read when first needed, since commander fills them while it parses.
 * @param defaults what a command wants when neither flag nor environment says: the worker logs more than a query, and
 * warnings about the configuration are for those who set it up, not for whoever approves at three in the morning.
 */
export function createConsoleIo(surroundings: Surroundings, flags: () => GlobalFlags, defaults: { logLevel: string; warnings: boolean }): ConsoleIo {
  const { env } = surroundings;
  let exitCode: number = EXIT.ok;
  let resultGiven = false;
  let context: Promise<Context> | undefined;
  let client: Promise<Client> | undefined;
  let interruption: AbortController | undefined;
  let unsubscribe: (() => void) | undefined;

  const write = (sink: (text: string) => void, text: string): void => sink(`${redact(text)}\n`);

  const io: ConsoleIo = {
    get json() {
      return flags().json === true;
    },
    get by() {
      return flags().by ?? env['HOLDFAST_USER'] ?? env['SUDO_USER'] ?? userInfo().username;
    },
    get exitCode() {
      return exitCode;
    },
    get resultGiven() {
      return resultGiven;
    },
    get interrupted() {
      if (interruption === undefined) {
        interruption = new AbortController();
        const controller = interruption;
        unsubscribe = surroundings.onSignal((signal) => {
          if (controller.signal.aborted) surroundings.exit(130);
          write(surroundings.err, `${signal}: ending cleanly; once more ends at once`);
          controller.abort(new HoldfastError('interrupted', `interrupted by ${signal}`));
        });
      }
      return interruption.signal;
    },
    say(line) {
      if (!io.json) write(surroundings.out, line);
    },
    note(line) {
      write(surroundings.err, line);
    },
    result(value, human) {
      resultGiven = true;
      if (io.json) write(surroundings.out, JSON.stringify(redactValue(value), (_, item: unknown) => (typeof item === 'bigint' ? item.toString() : item), 2));
      else write(surroundings.out, human());
    },
    context() {
      context ??= makeContext();
      return context;
    },
    temporal() {
      client ??= (async () => {
        const { config, secrets } = await io.context();
        const { connectClient } = await import('../engine/connection.ts');
        return connectClient(config, secrets);
      })();
      return client;
    },
    exit(code) {
      exitCode = code;
    },
    async close() {
      unsubscribe?.();
      const [madeClient, madeContext] = await Promise.allSettled([client, context]);
      if (madeClient.status === 'fulfilled') await madeClient.value?.connection.close();
      if (madeContext.status === 'fulfilled') madeContext.value?.close();
    },
  };

  async function makeContext(): Promise<Context> {
    const given = flags();
    const configPath = resolve(surroundings.cwd, given.config ?? env['HOLDFAST_CONFIG'] ?? 'holdfast.yaml');
    const asked = given.runbooks ?? env['HOLDFAST_RUNBOOKS'];
    const runbookDirectory = resolve(surroundings.cwd, asked ?? join(dirname(configPath), 'runbooks'));
    const [{ loadConfig }, { createContext }, { createLogger }] = await Promise.all([
      import('../systems/config-file.ts'),
      import('../systems/context.ts'),
      import('../systems/log.ts'),
    ]);
    const { config, warnings } = await loadConfig(configPath, asked === undefined ? {} : { runbookDirectory });
    if (defaults.warnings) for (const warning of warnings) io.note(formatFinding(warning).trim());
    const log = await createLogger({
      level: oneOf('--log-level', given.logLevel ?? env['HOLDFAST_LOG_LEVEL'] ?? defaults.logLevel, LEVELS),
      format: oneOf('--log-format', given.logFormat ?? env['HOLDFAST_LOG_FORMAT'] ?? (surroundings.terminal ? 'pretty' : 'json'), FORMATS),
    });
    return createContext({ config: withOverrides(config, given, env), configPath, runbookDirectory, log });
  }

  return io;
}

/** Flag before environment before file. The names of the environment variables are those of Temporal's own tools. */
function withOverrides(config: Config, flags: GlobalFlags, env: Surroundings['env']): Config {
  return {
    ...config,
    temporal: {
      ...config.temporal,
      address: flags.address ?? env['TEMPORAL_ADDRESS'] ?? config.temporal.address,
      namespace: flags.namespace ?? env['TEMPORAL_NAMESPACE'] ?? config.temporal.namespace,
      taskQueue: flags.taskQueue ?? env['HOLDFAST_TASK_QUEUE'] ?? config.temporal.taskQueue,
    },
  };
}

function oneOf<T extends string>(flag: string, value: string, allowed: readonly T[]): T {
  if ((allowed as readonly string[]).includes(value)) return value as T;
  throw new HoldfastError('usage', `${flag} "${value}" is not known`, { next: `use one of: ${allowed.join(', ')}` });
}
