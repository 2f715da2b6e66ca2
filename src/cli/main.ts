#!/usr/bin/env node
import { realpathSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError } from 'commander';
import { HoldfastError } from '../model/errors.ts';
import { redact } from '../systems/log.ts';
import packageJson from '../../package.json' with { type: 'json' };
import { COMMANDS } from './commands.ts';
import { exitCodeOf, failureText } from './failures.ts';
import { createConsoleIo, type GlobalFlags, type Surroundings } from './io-console.ts';
import { EXIT } from './io.ts';

/**
 * The whole program: parse, load the one command, run it, close what it opened.
 * @param argv without node and script.
 * @returns the exit code; it never throws.
 */
export async function main(argv: readonly string[], surroundings: Surroundings): Promise<number> {
  const program = createProgram(surroundings);
  const name = commandNameOf(argv);
  const io = createConsoleIo(surroundings, () => program.opts<GlobalFlags>(), { logLevel: name === 'worker' ? 'info' : 'warn', warnings: name !== undefined && WARNS.has(name) });
  try {
    for (const entry of COMMANDS) {
      const command = program.command(entry.name).helpGroup(`${entry.group}:`).summary(entry.summary).description(entry.summary);
      if (entry.name === name) (await entry.load()).define(command, io);
    }
    if (argv.length === 0) {
      program.outputHelp();
      return EXIT.ok;
    }
    await program.parseAsync([...argv], { from: 'user' });
    return io.exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    return fail(error);
  } finally {
    await io.close();
  }

  function fail(error: unknown): number {
    surroundings.err(`${redact(`error: ${failureText(error)}`)}\n`);
    if (program.opts<GlobalFlags>().logLevel === 'debug' && error instanceof Error) surroundings.err(`${redact(error.stack ?? '')}\n`);
    if (io.json && !io.resultGiven) {
      const known = error instanceof HoldfastError ? { code: error.code, ...(error.next === undefined ? {} : { next: error.next }) } : { code: 'unexpected' };
      const message = error instanceof HoldfastError ? error.message : failureText(error);
      surroundings.out(`${redact(JSON.stringify({ error: { ...known, message } }, null, 2))}\n`);
    }
    return exitCodeOf(error);
  }
}

/** Commands that set things up also show the warnings of the configuration. */
const WARNS: ReadonlySet<string> = new Set(['worker', 'doctor', 'schedules']);

function createProgram(surroundings: Surroundings): Command {
  const program = new Command('holdfast')
    .description('Backups, restore drills and failovers as durable, proven workflows.')
    .version(packageJson.version)
    .helpCommand('help [command]', 'show help for a command')
    .showHelpAfterError('(add --help for usage)')
    .exitOverride()
    .configureHelp({ showGlobalOptions: true, sortSubcommands: false })
    .configureOutput({ writeOut: (text) => surroundings.out(text), writeErr: (text) => surroundings.err(text) });
  addGlobalFlags(program);
  program.addHelpText(
    'after',
    '\nPrecedence: flag, then environment (HOLDFAST_CONFIG, HOLDFAST_RUNBOOKS, HOLDFAST_USER, HOLDFAST_LOG_LEVEL, HOLDFAST_LOG_FORMAT,\n' +
      'TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, HOLDFAST_TASK_QUEUE), then file.\n' +
      'Exit codes: 0 done, 1 ran and failed, 2 wrong use or configuration, 3 not found, 4 refused, 5 unreachable, 6 recoverable but degraded (readiness), 130 interrupted.',
  );
  return program;
}

function addGlobalFlags(program: Command): void {
  program
    .option('-c, --config <file>', 'configuration (default: HOLDFAST_CONFIG, else holdfast.yaml)')
    .option('--runbooks <folder>', "runbooks (default: the folder runbooks beside the configuration)")
    .option('--json', 'one JSON document on stdout and nothing else')
    .option('--by <person>', 'who acts, for the audit (default: HOLDFAST_USER, else the login name)')
    .option('--address <host:port>', "Temporal's address (default: temporal.address of the configuration)")
    .option('--namespace <name>', "Temporal's namespace")
    .option('--task-queue <name>', 'the task queue of the workers')
    .option('--log-level <level>', 'trace, debug, info, warn, error or silent')
    .option('--log-format <format>', 'json or pretty (default: pretty on a terminal)');
}

/** The command's name among flags, found by a parser that knows the global flags and nothing else. */
function commandNameOf(argv: readonly string[]): string | undefined {
  const probe = new Command().exitOverride().helpOption(false).configureOutput({ writeErr: () => {} });
  addGlobalFlags(probe);
  try {
    const { operands } = probe.parseOptions([...argv]);
    return operands[0] === 'help' ? operands[1] : operands[0];
  } catch (error) {
    // A global flag without its value: the real parser will say so.
    if (error instanceof CommanderError) return undefined;
    throw error;
  }
}

function processSurroundings(): Surroundings {
  return {
    env: process.env,
    cwd: process.cwd(),
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    terminal: process.stderr.isTTY === true,
    exit: (code) => process.exit(code),
    onSignal(handler) {
      const signals = ['SIGINT', 'SIGTERM'] as const;
      for (const signal of signals) process.on(signal, handler);
      return () => {
        for (const signal of signals) process.off(signal, handler);
      };
    },
  };
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    stream.write('', () => resolve());
  });
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  // What commands load on demand is compiled once, not with every call.
  enableCompileCache();
  // `holdfast audit | head` closes the pipe early: that is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? EXIT.ok : EXIT.failed));
  const code = await main(process.argv.slice(2), processSurroundings());
  await Promise.all([flushed(process.stdout), flushed(process.stderr)]);
  // A forgotten handle must not keep a finished command alive.
  process.exit(code);
}
