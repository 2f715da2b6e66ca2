import { InvalidArgumentError, Option, type Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import { formatBytes, formatDuration } from '../../model/units.ts';
import { findBackup, readManifest, restoreInto } from '../../systems/backup-catalogue.ts';
import { datastoreOf } from '../../systems/context.ts';
import { withPostgres, type PostgresTarget } from '../../systems/postgres.ts';
import type { Io } from '../io.ts';

export const summary = 'restore a backup, or tables of it, into a database';

const NOTE_EVERY_MS = 2000;

interface RestoreFlags {
  readonly datastore?: string;
  readonly to: string;
  readonly passwordFrom: string;
  readonly table: readonly { schema: string; name: string }[];
  readonly create?: boolean;
  readonly allowNonEmpty?: boolean;
  readonly roles: boolean;
  readonly owner: boolean;
  readonly sslmode: PostgresTarget['sslmode'];
  readonly sslrootcert?: string;
}

export function define(command: Command, io: Io): void {
  command
    .argument('<id>', 'a backup id, or newest')
    .requiredOption('--to <url>', 'the target, e.g. postgres://admin@host:5432/orders; without a password')
    .requiredOption('--password-from <reference>', "where the target's password is: aws-sm:<id>#<field>, env:<NAME> or file:<path>")
    .option('--datastore <name>', 'where the id is looked for; default: everywhere')
    .addOption(new Option('--table <schema.table>', 'only this table, with its partitions, indexes, constraints, sequences and types; repeatable').argParser(collectTable).default([], 'all'))
    .option('--create', 'make the database first')
    .option('--allow-non-empty', 'restore although the target holds something already')
    .option('--no-roles', 'leave roles out')
    .option('--no-owner', 'everything belongs to the restoring user')
    .addOption(new Option('--sslmode <mode>').choices(['disable', 'require', 'verify-ca', 'verify-full']).default('disable'))
    .option('--sslrootcert <file>')
    .action(async (id: string, flags: RestoreFlags) => {
      const context = await io.context();
      const place = parseTarget(flags.to);
      const target: PostgresTarget = { ...place, password: await context.secrets.resolve(flags.passwordFrom), sslmode: flags.sslmode, sslrootcert: flags.sslrootcert };
      const { store, storeName, summary } = await findBackup(context, id, flags.datastore, { signal: io.interrupted });
      const manifest = await readManifest(store, summary.location);
      if (flags.create !== true && flags.allowNonEmpty !== true) await refuseNonEmpty(target);
      let noted = performance.now();
      const outcome = await restoreInto(context, {
        storeName, location: summary.location, manifest, target, signal: io.interrupted,
        binDirectory: datastoreOf(context.config, summary.datastore).binDirectory,
        create: flags.create === true,
        globals: flags.roles && flags.table.length === 0,
        noOwner: !flags.owner || flags.table.length > 0,
        ...(flags.table.length === 0 ? {} : { tables: flags.table }),
        onProgress({ phase, plainBytes, ofBytes }) {
          const now = performance.now();
          if (now - noted < NOTE_EVERY_MS) return;
          noted = now;
          io.note(`${phase}: ${formatBytes(plainBytes)} of ${formatBytes(ofBytes)}`);
        },
      });
      const where = `${target.host}:${target.port}/${target.database}`;
      io.result({ id: summary.id, datastore: summary.datastore, target: where, ...outcome }, () =>
        [
          `backup ${summary.id} of ${summary.datastore} is restored into ${where}`,
          `  took   ${formatDuration(outcome.totalMs)}: roles ${formatDuration(outcome.globalsMs)}, data ${formatDuration(outcome.dataMs)} (${formatBytes(outcome.plainBytes)})`,
          ...(outcome.skippedRoles.length === 0 ? [] : [`  roles  left as they were on the target: ${outcome.skippedRoles.join(', ')}`]),
          ...(outcome.tables.length === 0 ? [] : [`  tables ${outcome.tables.map(({ schema, name }) => `${schema}.${name}`).join(', ')}; they belong to ${target.user}`]),
          ...outcome.left.map((what) => `  left   ${what}`),
        ].join('\n'),
      );
    });
}

/** `schema.table`, either part in double quotes when it holds dots or capitals; without a schema: public. */
function collectTable(text: string, before: readonly { schema: string; name: string }[]): { schema: string; name: string }[] {
  const parts = [...text.matchAll(/(?:^|\.)(?:"((?:[^"]|"")*)"|([^."]+))/g)];
  if (parts.length < 1 || parts.length > 2 || parts.map((part) => part[0]).join('') !== text) throw new InvalidArgumentError('expected schema.table, parts with dots in double quotes.');
  const names = parts.map((part) => part[1]?.replaceAll('""', '"') ?? part[2]!);
  return [...before, names.length === 1 ? { schema: 'public', name: names[0]! } : { schema: names[0]!, name: names[1]! }];
}

function parseTarget(text: string): { host: string; port: number; user: string; database: string } {
  const next = 'write it as postgres://user@host:5432/database';
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new HoldfastError('usage', '--to is no URL', { next });
  }
  if (url.password !== '') throw new HoldfastError('usage', '--to holds a password, which everybody on this host can read in the process list', { next: 'take it out, change it, and give --password-from' });
  const database = decodeURIComponent(url.pathname.slice(1));
  if (!/^postgres(ql)?:$/.test(url.protocol) || url.hostname === '' || url.username === '' || database === '' || url.search !== '') throw new HoldfastError('usage', `--to is not a complete target: ${text}`, { next });
  return { host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port: url.port === '' ? 5432 : Number(url.port), user: decodeURIComponent(url.username), database };
}

async function refuseNonEmpty(target: PostgresTarget): Promise<void> {
  const objects = await withPostgres(target, async (client) => {
    const answer = await client.query<{ name: string }>(
      `SELECT n.nspname || '.' || c.relname AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r','p','v','m','S','f')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
        UNION ALL SELECT 'large object ' || oid FROM pg_catalog.pg_largeobject_metadata
        UNION ALL SELECT 'schema ' || nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')
        LIMIT 4`,
    );
    return answer.rows.map((row) => row.name);
  });
  if (objects.length === 0) return;
  throw new HoldfastError('target-not-empty', `the target ${target.host}:${target.port}/${target.database} is not empty: it has ${objects.slice(0, 3).join(', ')}${objects.length > 3 ? ' and more' : ''}`, {
    next: 'restore into a new database (--create), or give --allow-non-empty when you are sure; nothing was changed',
  });
}
