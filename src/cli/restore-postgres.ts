import { HoldfastError } from '../model/errors.ts';
import type { PostgresManifest } from '../model/manifest-postgres.ts';
import { formatBytes, formatDuration } from '../model/units.ts';
import type { StoredBackup } from '../systems/backup-engine.ts';
import { postgresOf, type Context } from '../systems/context.ts';
import { withPostgres, type PostgresTarget } from '../systems/postgres.ts';
import { restoreInto, writeSql } from '../systems/postgres-restore.ts';
import type { Io } from './io.ts';
import { NOTE_EVERY_MS, type Restorer, type RestoreFlags } from './restore.ts';

export const postgresRestorer: Restorer<PostgresManifest> = {
  takes: ['sql', 'passwordFrom', 'table', 'create', 'allowNonEmpty', 'roles', 'owner', 'sslmode', 'sslrootcert'],
  restore,
};

async function restore(io: Io, context: Context, backup: StoredBackup<PostgresManifest>, flags: RestoreFlags): Promise<void> {
  const { manifest } = backup;
  if (flags.sql !== undefined) return script(io, context, backup, flags, flags.sql);
  if (flags.passwordFrom === undefined) throw new HoldfastError('usage', "--to needs --password-from: where the target's password is", { next: 'give aws-sm:<id>#<field>, env:<NAME> or file:<path>' });
  const place = parseTarget(flags.to!);
  const target: PostgresTarget = { ...place, password: await context.secrets.resolve(flags.passwordFrom), sslmode: flags.sslmode, sslrootcert: flags.sslrootcert };
  if (flags.create !== true && flags.allowNonEmpty !== true) await refuseNonEmpty(target);
  let noted = performance.now();
  const outcome = await restoreInto(context, {
    ...backup, target, signal: io.interrupted,
    binDirectory: postgresOf(context.config, manifest.datastore).binDirectory,
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
  io.result({ id: manifest.id, datastore: manifest.datastore, target: where, ...outcome }, () =>
    [
      `backup ${manifest.id} of ${manifest.datastore} is restored into ${where}`,
      `  took   ${formatDuration(outcome.totalMs)}: roles ${formatDuration(outcome.globalsMs)}, data ${formatDuration(outcome.dataMs)} (${formatBytes(outcome.plainBytes)})`,
      ...(outcome.skippedRoles.length === 0 ? [] : [`  roles  left as they were on the target: ${outcome.skippedRoles.join(', ')}`]),
      ...(outcome.tables.length === 0 ? [] : [`  tables ${outcome.tables.map(({ schema, name }) => `${schema}.${name}`).join(', ')}; they belong to ${target.user}`]),
      ...outcome.left.map((what) => `  left   ${what}`),
    ].join('\n'),
  );
}

async function script(io: Io, context: Context, backup: StoredBackup<PostgresManifest>, flags: RestoreFlags, path: string): Promise<void> {
  const senseless = [...(flags.table.length > 0 ? ['--table'] : []), ...(flags.create === true ? ['--create'] : []), ...(flags.passwordFrom === undefined ? [] : ['--password-from'])];
  if (senseless.length > 0) throw new HoldfastError('usage', `${senseless.join(', ')} ${senseless.length === 1 ? 'says' : 'say'} nothing to --sql`, { next: 'leave it out' });
  const { manifest } = backup;
  const { bytes } = await writeSql(context, { ...backup, path, signal: io.interrupted, binDirectory: postgresOf(context.config, manifest.datastore).binDirectory, noOwner: !flags.owner });
  io.result({ id: manifest.id, datastore: manifest.datastore, file: path, bytes }, () => `backup ${manifest.id} of ${manifest.datastore} is written to ${path} (${formatBytes(bytes)}), without roles\n  restore it with: ${path.endsWith('.gz') ? 'gzip -dc' : path.endsWith('.zst') ? 'zstd -dc' : 'cat'} ${path} | psql --no-psqlrc --set=ON_ERROR_STOP=1 --single-transaction <target>`);
}

function parseTarget(text: string): { host: string; port: number; user: string; database: string } {
  const next = 'write it as postgres://user@host:5432/database';
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new HoldfastError('usage', '--to is no URL', { next });
  }
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
