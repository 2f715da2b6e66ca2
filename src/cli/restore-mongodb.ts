import { mongodbUri } from '../model/config-mongodb.ts';
import { HoldfastError } from '../model/errors.ts';
import type { MongodbManifest } from '../model/manifest-mongodb.ts';
import { describeProof } from '../model/proof.ts';
import { formatBytes, formatDuration } from '../model/units.ts';
import { findBackup, readManifest } from '../systems/backup-catalogue.ts';
import type { StoredBackup } from '../systems/backup-engine.ts';
import type { Context } from '../systems/context.ts';
import { hostsOf, mongodbOf, withMongodb, type MongodbTarget } from '../systems/mongodb.ts';
import { proveRestored, restoreStored } from '../systems/mongodb-engine.ts';
import { MARKER_DATABASE } from '../model/mongodb-selection.ts';
import { databasesIn } from '../systems/mongodb-proof.ts';
import { interruptedRestore } from '../systems/mongodb-mark.ts';
import { contentsOf } from '../systems/mongodb-restore.ts';
import type { Io } from './io.ts';
import { NOTE_EVERY_MS, type RestoreFlags, type Restorer } from './restore.ts';

export const mongodbRestorer: Restorer<MongodbManifest> = { takes: ['passwordFrom', 'allowNonEmpty', 'ifEmpty', 'username'], restore };

async function restore(io: Io, context: Context, backup: StoredBackup<MongodbManifest>, flags: RestoreFlags): Promise<void> {
  const target = await targetOf(context, backup, flags);
  let chosen = backup;
  const notEmpty = (what: string): void => io.result({ id: backup.manifest.id, datastore: backup.manifest.datastore, target: target.what, restored: false, reason: 'not empty' }, () => `${target.what} is not empty (${what}): nothing was restored`);
  if (flags.ifEmpty === true) {
    const found = await withMongodb(target, async (client) => ({ begun: await interruptedRestore(client), contents: await contentsOf(client, databasesIn(backup.manifest.fingerprint)) }), { signal: io.interrupted });
    if (found.begun === undefined && found.contents.length > 0) return notEmpty(`it holds ${found.contents.slice(0, 3).join(', ')}${found.contents.length > 3 ? ' and more' : ''}`);
    // A container that was stopped midway goes on with the backup it had begun with, not with a newer one.
    if (found.begun !== undefined && found.begun !== backup.manifest.id) chosen = await sameDatastore(io, context, backup, found.begun, target);
  }
  const { manifest } = chosen;
  const of = manifest.objects.reduce((sum, { plainBytes }) => sum + plainBytes, 0);
  const started = performance.now();
  let noted = started;
  const note = (text: () => string): void => {
    const now = performance.now();
    if (now - noted < NOTE_EVERY_MS) return;
    noted = now;
    io.note(text());
  };
  let proof: Awaited<ReturnType<typeof proveRestored>> | undefined;
  let restoreMs = 0;
  const outcome = await restoreStored(context, chosen, target, {
    onWait: (id) => note(() => `another restore${id === undefined ? '' : ` of backup ${id}`} into ${target.what} is under way: waiting for its end`),
    // The mark of an unfinished restore goes only after this.
    async prove(signal) {
      restoreMs = Math.round(performance.now() - started);
      proof = await proveRestored(context, target, manifest, { ownDatabases: true, signal, onProgress: (what) => note(() => what) });
      return proof.exact;
    },
    signal: io.interrupted, allowNonEmpty: flags.allowNonEmpty === true,
    onProgress: ({ collections, ofCollections, plainBytes }) => note(() => `${collections} of ${ofCollections} collections: ${formatBytes(plainBytes)} of ${formatBytes(of)}`),
  }).catch((error: unknown) => {
    // It was empty when we looked; another container has restored it meanwhile.
    if (flags.ifEmpty === true && error instanceof HoldfastError && error.code === 'target-not-empty') return undefined;
    throw error;
  });
  if (outcome === undefined || proof === undefined) return notEmpty('another restore has filled it meanwhile');
  const exactly = proof;
  const totalMs = Math.round(performance.now() - started);
  io.result({ id: manifest.id, datastore: manifest.datastore, target: target.what, restored: true, restoreMs, totalMs, ...outcome, proof: exactly }, () =>
    [
      `backup ${manifest.id} of ${manifest.datastore} is restored into ${target.what}${outcome.resumed ? ', going on with an interrupted restore' : ''}`,
      `  took   ${formatDuration(totalMs)}: ${outcome.documents} documents (${formatBytes(outcome.plainBytes)}), ${outcome.indexes} indexes, ${outcome.views} views in ${formatDuration(restoreMs)}, the rest for the proof`,
      ...(outcome.alreadyThere === 0 ? [] : [`  there  ${outcome.alreadyThere} documents were there already, byte for byte`]),
      `  proof  ${describeProof(exactly)}`,
    ].join('\n'),
  );
  if (!proof.exact) throw new HoldfastError('restore-differs', `what ${target.what} holds now is not what the backup holds: ${describeProof(proof)}`, { next: flags.allowNonEmpty === true ? 'what was there before differs from the backup; compare what is named' : `do not use it before you know why; the database ${MARKER_DATABASE} marks it as not whole, also for --if-empty. For another backup, drop what is there and ${MARKER_DATABASE} first` });
}

async function targetOf(context: Context, { manifest }: StoredBackup<MongodbManifest>, flags: RestoreFlags): Promise<MongodbTarget> {
  if (flags.to === undefined) throw new HoldfastError('usage', 'a backup of MongoDB is restored into a server', { next: 'give --to mongodb://host:port/' });
  const parsed = mongodbUri.safeParse(flags.to);
  // The text itself is not repeated: it may hold a password.
  if (!parsed.success) throw new HoldfastError('usage', `--to is no target: ${parsed.error.issues.map(({ message }) => message).join('; ')}`, { next: 'give --to mongodb://host:port/ with --username and --password-from' });
  if ((flags.username === undefined) !== (flags.passwordFrom === undefined)) throw new HoldfastError('usage', '--username and --password-from go together', { next: 'give both, or none where the server asks for none' });
  const { tls } = mongodbOf(context.config, manifest.datastore);
  const encrypted = /[?&](tls|ssl)=true/i.test(flags.to) || flags.to.startsWith('mongodb+srv:');
  return {
    what: hostsOf(flags.to).join(','), uri: flags.to, username: flags.username, password: flags.passwordFrom === undefined ? undefined : await context.secrets.resolve(flags.passwordFrom),
    authSource: /[?&]authSource=([^&]+)/i.exec(flags.to)?.[1] ?? 'admin', ...(encrypted && tls !== undefined ? { tls } : {}),
  };
}

async function sameDatastore(io: Io, context: Context, { storeName, manifest }: StoredBackup<MongodbManifest>, id: string, target: MongodbTarget): Promise<StoredBackup<MongodbManifest>> {
  const found = await findBackup(context, id, manifest.datastore, { signal: io.interrupted }).catch((error: unknown) => {
    if (!(error instanceof HoldfastError) || error.code !== 'backup-missing') throw error;
    throw new HoldfastError('target-half-restored', `a restore of backup ${id} was begun on ${target.what} and not ended, and that backup is not in the store any more`, { next: `drop the databases ${[...databasesIn(manifest.fingerprint), MARKER_DATABASE].join(', ')} on the target, then start again: the newest backup is restored`, cause: error });
  });
  const other = await readManifest(found.store, found.summary.location);
  if (other.engine !== 'mongodb') throw new HoldfastError('wrong-engine', `backup ${id} is of engine ${other.engine}`, { next: 'drop what is on the target and start again' });
  return { storeName, location: found.summary.location, manifest: other };
}
