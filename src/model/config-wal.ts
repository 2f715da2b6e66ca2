import { z } from 'zod';
import { argv, secretReference } from './config-words.ts';
import { durationMs } from './units.ts';

const common = {
  environment: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string()).default({}).meta({ description: 'Environment variables of the tool that are no secrets, e.g. WALG_S3_PREFIX.' }),
  secrets: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), secretReference).default({}).meta({ description: 'Environment variables of the tool that are secrets, e.g. PGBACKREST_REPO1_S3_KEY_SECRET, each by reference.' }),
  node: z
    .strictObject({ command: argv.optional(), configFile: z.string().optional() })
    .default({})
    .meta({ description: "The tool on the primary's host, where archive_command runs it; default: the same command and file as on the worker. Run by the node's exec, with its own file for credentials." }),
  maxWalAge: durationMs.prefault('15m').meta({ description: 'WAL that waits longer than this to be archived fails the check; archive_timeout must be this or less.' }),
  maxBackupAge: durationMs.prefault('8d').meta({ description: 'The newest base backup may be this old.' }),
  timeout: durationMs.prefault('6h').meta({ description: 'A restore to a moment that takes longer has failed.' }),
  settings: z.record(z.string().regex(/^[a-z_][a-z0-9_.]*$/i), z.string()).default({}).meta({ description: 'Settings of the drill server beyond its own, e.g. shared_preload_libraries that the WAL needs. Nothing that makes it reachable or has it archive is taken.' }),
  proof: z
    .strictObject({
      upTo: z.string().min(1).meta({ description: 'One SELECT with $1 as the moment (timestamptz) that names the last row up to it. Asked of the primary and of the restore: both must say the same.' }),
      after: z.string().min(1).meta({ description: 'One SELECT with $1 as the moment that names the first row after it. The primary must have one, the restore none.' }),
    })
    .optional()
    .meta({ description: "The service's own proof of a moment in the past that nobody marked. Compare times that are set at commit, or say so: a row carries the time its transaction began." }),
};

/** The WAL archive of a self-managed PostgreSQL, made by its own archive_command. */
export const walArchiveSchema = z
  .discriminatedUnion('tool', [
    z.strictObject({
      tool: z.literal('pgbackrest'),
      stanza: z.string().min(1).meta({ description: 'Stanza.' }),
      command: argv.prefault(['pgbackrest']).meta({ description: 'How it is called on the worker that drills.' }),
      configFile: z.string().optional().meta({ description: "Its configuration on the worker, readable by the OS user that the drill server runs as; default: pgBackRest's own." }),
      ...common,
    }),
    z.strictObject({
      tool: z.literal('wal-g'),
      command: argv.prefault(['wal-g']).meta({ description: 'How it is called on the worker that drills.' }),
      configFile: z.string().optional().meta({ description: 'Its configuration on the worker (--config); default: the environment.' }),
      ...common,
    }),
  ])
  .meta({ description: 'Base backups and WAL in an archive that the server itself fills; what `wal.check`, `wal.mark` and `wal.restoreToTime` work with.' });

export type WalArchiveConfig = z.output<typeof walArchiveSchema>;
