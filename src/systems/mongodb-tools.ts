import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createFrames } from '../model/bson-frame.ts';
import { HoldfastError } from '../model/errors.ts';
import { childFailed, startChild } from './child.ts';
import type { MongodbTarget } from './mongodb.ts';
import { toolVersion } from './tool-version.ts';

const MONGODUMP = 'mongodump';

/** @throws HoldfastError `tool-missing` */
export async function mongodumpVersion(): Promise<string> {
  const version = await toolVersion([MONGODUMP, '--version']);
  if (version === undefined) throw new HoldfastError('tool-missing', `${MONGODUMP} was not found on PATH`, { next: 'install mongodb-database-tools on the worker, or set backup.tool: driver' });
  return version;
}

/** Nothing in it is a secret: the connection, with its password, is in the file. */
export function mongodumpArgv(configFile: string, { database, name }: { readonly database: string; readonly name: string }, readPreference: string): string[] {
  return [MONGODUMP, `--config=${configFile}`, `--db=${database}`, `--collection=${name}`, `--readPreference=${readPreference}`, '--out=-', '--quiet'];
}

/** The text of mongodump's `--config` file: the whole connection as one URI. */
export function mongodumpConfig(target: MongodbTarget): string {
  const { username, password, authSource, tls } = target;
  const [, scheme, rest] = /^(mongodb(?:\+srv)?:\/\/)(.*)$/.exec(target.uri)!;
  const user = username === undefined ? '' : `${encodeURIComponent(username)}${password === undefined ? '' : `:${encodeURIComponent(password)}`}@`;
  const more = new URLSearchParams({
    ...(username === undefined ? {} : { authSource: authSource ?? 'admin' }),
    ...(tls === undefined ? {} : { tls: 'true', ...(tls.ca === undefined ? {} : { tlsCAFile: tls.ca }), ...(tls.certificate === undefined ? {} : { tlsCertificateKeyFile: tls.certificate }) }),
  }).toString();
  const slash = rest!.includes('/') ? rest! : rest!.includes('?') ? rest!.replace('?', '/?') : `${rest}/`;
  const uri = `${scheme}${user}${slash}${more === '' ? '' : `${slash.includes('?') ? '&' : '?'}${more}`}`;
  // A JSON string is a YAML string.
  return `uri: ${JSON.stringify(uri)}\n`;
}

/** The documents of one collection as mongodump writes them to its stdout. It fails unless the program ended well, at the end of a document. */
export async function* mongodumpDocuments(target: MongodbTarget, namespace: { readonly database: string; readonly name: string }, options: { readonly readPreference: string; readonly signal: AbortSignal }): AsyncGenerator<Uint8Array[]> {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-mongodump-'));
  const configFile = join(folder, 'config.yaml');
  const argv = mongodumpArgv(configFile, namespace, options.readPreference);
  try {
    await writeFile(configFile, mongodumpConfig(target), { mode: 0o600 });
    const child = startChild(argv, { stdout: 'pipe', signal: options.signal });
    try {
      const frames = createFrames(`${namespace.database}.${namespace.name}`);
      for await (const chunk of child.stdout as AsyncIterable<Buffer>) yield frames.push(chunk);
      const exit = await child.exited;
      options.signal.throwIfAborted();
      if (exit.code !== 0 || exit.signal !== null) throw childFailed(argv, exit);
      frames.end();
    } catch (error) {
      options.signal.throwIfAborted();
      throw error instanceof HoldfastError ? error : new HoldfastError('mongodump', `${MONGODUMP} of ${namespace.database}.${namespace.name}: ${String(error)}`, { retryable: true, cause: error });
    } finally {
      await child.end().catch(() => {});
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
