import { InvalidArgumentError, Option, type Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import type { BackupEngineName } from '../../model/manifest.ts';
import { findBackup, readManifest } from '../../systems/backup-catalogue.ts';
import type { Io } from '../io.ts';
import type { RestoreFlags, Restorer } from '../restore.ts';

export const summary = 'restore a backup, or parts of it, into a server, or write it as plain SQL';

/** Loaded when they are asked for. */
const RESTORERS: Readonly<Record<BackupEngineName, () => Promise<Restorer>>> = {
  mongodb: async () => (await import('../restore-mongodb.ts')).mongodbRestorer,
  postgres: async () => (await import('../restore-postgres.ts')).postgresRestorer,
  dynamodb: async () => (await import('../restore-dynamodb.ts')).dynamodbRestorer,
};

export function define(command: Command, io: Io): void {
  command
    .argument('<id>', 'a backup id, or newest')
    .option('--to <url>', 'the target: postgres://admin@host:5432/orders without a password, dynamodb://<region>/<prefix of the tables>')
    .option('--sql <file>', 'PostgreSQL: write it as a plain SQL script instead; compressed when the name ends with .gz or .zst')
    .option('--password-from <reference>', "where the target's password is: aws-sm:<id>#<field>, env:<NAME> or file:<path>")
    .option('--datastore <name>', 'where the id is looked for; default: everywhere')
    .addOption(new Option('--table <schema.table>', 'only this table (PostgreSQL: with its partitions, indexes, constraints, sequences and types); repeatable').argParser(collectTable).default([], 'all'))
    .option('--create', 'PostgreSQL: make the database first; DynamoDB: make tables that are not there')
    .option('--allow-non-empty', 'restore although the target holds something already')
    .option('--if-empty', 'MongoDB: restore only when the target is empty, or when an interrupted restore is to be ended; else say so and end well. For the start of containers')
    .option('--username <name>', 'MongoDB: user on the target')
    .option('--settings', 'DynamoDB: also set stream, time to live, tags, point-in-time recovery and deletion protection as they were')
    .option('--no-roles', 'PostgreSQL: leave roles out')
    .option('--no-owner', 'PostgreSQL: everything belongs to the restoring user')
    .addOption(new Option('--sslmode <mode>', 'PostgreSQL').choices(['disable', 'require', 'verify-ca', 'verify-full']).default('disable'))
    .option('--sslrootcert <file>', 'PostgreSQL')
    .action(async (id: string, flags: RestoreFlags) => {
      if ((flags.to === undefined) === (flags.sql === undefined)) throw new HoldfastError('usage', 'give one of --to and --sql', { next: 'say where it goes: --to <url>, or --sql <file>' });
      if (flags.to !== undefined && URL.canParse(flags.to) && new URL(flags.to).password !== '') throw new HoldfastError('usage', '--to holds a password, which everybody on this host can read in the process list', { next: 'take it out, change it, and give --password-from' });
      const context = await io.context();
      const { store, storeName, summary } = await findBackup(context, id, flags.datastore, { signal: io.interrupted });
      const manifest = await readManifest(store, summary.location);
      const restorer = await RESTORERS[manifest.engine]();
      const given = Object.keys(flags).filter((flag) => command.getOptionValueSource(flag) === 'cli' && !['to', 'datastore'].includes(flag));
      const senseless = given.filter((flag) => !restorer.takes.includes(flag as keyof RestoreFlags));
      if (senseless.length > 0) {
        const names = senseless.map((flag) => `--${flag.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`);
        throw new HoldfastError('usage', `${names.join(', ')} ${names.length === 1 ? 'says' : 'say'} nothing to a backup of ${manifest.engine}`, { next: 'leave it out' });
      }
      await restorer.restore(io, context, { storeName, location: summary.location, manifest }, flags);
    });
}

/** `schema.table`, either part in double quotes when it holds dots or capitals; without a schema: public. */
function collectTable(text: string, before: readonly { schema: string; name: string }[]): { schema: string; name: string }[] {
  const parts = [...text.matchAll(/(?:^|\.)(?:"((?:[^"]|"")*)"|([^."]+))/g)];
  if (parts.length < 1 || parts.length > 2 || parts.map((part) => part[0]).join('') !== text) throw new InvalidArgumentError('expected schema.table, parts with dots in double quotes.');
  const names = parts.map((part) => part[1]?.replaceAll('""', '"') ?? part[2]!);
  return [...before, names.length === 1 ? { schema: 'public', name: names[0]! } : { schema: names[0]!, name: names[1]! }];
}
