import { chownSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { runChild } from '../systems/child.ts';
import type { PostgresServer } from './postgres.ts';
import { serverUser, writeOwned } from './postgres.ts';
import { waitUntilReady, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { listening } from './temporal.ts';
import { findTool } from './tools.ts';

/** A pgBackRest repository in a bucket of an S3-compatible store, for a local PostgreSQL. */
export interface LocalWalArchive {
  readonly stanza: string;
  /** Of pgBackRest; belongs to the OS user that the server runs as. Holds no secret. */
  readonly configFile: string;
  /** What pgBackRest must find in its environment, on the server's side too. */
  readonly secrets: Readonly<Record<string, string>>;
  readonly port: number;
  /** Settings with which the server archives; `attach` before anything is archived. */
  readonly settings: Readonly<Record<string, string>>;
  /** How pgBackRest is called on the server's host, secrets in a file of its OS user. */
  readonly nodeConfigFile: string;
  attach(server: PostgresServer): Promise<void>;
  backup(server: PostgresServer): Promise<void>;
  /** Paths of WAL files in the bucket's folder, oldest first. */
  walFiles(): string[];
}

/** pgBackRest speaks to S3 by TLS only, so the store gets a certificate of its own, made for this run. */
export async function startWalArchive(options: { processes: Processes; directory: string }): Promise<LocalWalArchive> {
  const { processes, directory } = options;
  const osUser = serverUser();
  const folder = (...names: string[]): string => join(directory, ...names);
  for (const name of ['objects', 'earlier', join('objects', 'wal')]) mkdirSync(folder(name), { recursive: true });
  const [certificate, key] = [folder('store.pem'), folder('store-key.pem')];
  await runChild(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-keyout', key, '-out', certificate, '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost']);
  const port = await freePort();
  const [accessKey, secretKey] = ['localwal', Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString('hex')];
  const child = await processes.spawn({
    name: 'versitygw-wal', cwd: directory, env: { ROOT_ACCESS_KEY: accessKey, ROOT_SECRET_KEY: secretKey },
    argv: [findTool('versitygw'), '--quiet', '--port', `127.0.0.1:${port}`, '--cert', certificate, '--key', key, 'posix', '--versioning-dir', folder('earlier'), folder('objects')],
  });
  await waitUntilReady(child, () => listening(port));
  const [configFile, nodeConfigFile, socket] = [folder('pgbackrest.conf'), folder('pgbackrest-node.conf'), folder('pgbackrest')];
  mkdirSync(socket, { recursive: true });
  if (osUser !== undefined) chownSync(socket, osUser.uid, osUser.gid);
  const global = {
    'repo1-type': 's3', 'repo1-path': '/archive', 'repo1-s3-bucket': 'wal', 'repo1-s3-endpoint': '127.0.0.1', 'repo1-storage-port': String(port), 'repo1-storage-verify-tls': 'n', 'repo1-s3-region': 'us-east-1',
    'repo1-s3-uri-style': 'path', 'repo1-retention-full': '2', 'io-timeout': '20', 'archive-timeout': '30', 'log-level-file': 'off', 'log-level-console': 'warn', 'lock-path': join(socket, 'lock'), 'spool-path': join(socket, 'spool'), 'process-max': '2',
  };
  const lines = (values: Readonly<Record<string, string>>): string => Object.entries(values).map(([name, value]) => `${name}=${value}\n`).join('');
  const stanza = 'main';
  writeOwned(configFile, `[global]\n${lines(global)}\n[${stanza}]\npg1-path=/nowhere\n`, osUser);
  const tool = findTool('pgbackrest');
  const asNode = (server: PostgresServer, ...args: string[]): Promise<unknown> => runChild([...server.exec, tool, `--config=${nodeConfigFile}`, `--stanza=${stanza}`, ...args]);
  return {
    stanza,
    configFile,
    nodeConfigFile,
    secrets: { PGBACKREST_REPO1_S3_KEY: accessKey, PGBACKREST_REPO1_S3_KEY_SECRET: secretKey },
    port,
    settings: { archive_mode: 'on', archive_timeout: '60s', archive_command: `${tool} --config=${nodeConfigFile} --stanza=${stanza} archive-push %p` },
    async attach(server) {
      const pgOptions = { 'pg1-path': server.dataDirectory, 'pg1-port': String(server.port), 'pg1-socket-path': join(server.dataDirectory, '..', 'socket'), 'pg1-user': server.superuser, 'pg1-database': 'postgres' };
      writeOwned(nodeConfigFile, `[global]\n${lines({ ...global, 'repo1-s3-key': accessKey, 'repo1-s3-key-secret': secretKey })}\n[${stanza}]\n${lines(pgOptions)}`, osUser);
      // pgBackRest comes by the socket as the server's own OS user.
      const hba = join(server.dataDirectory, 'pg_hba.conf');
      writeFileSync(hba, `local all ${server.superuser} peer map=archive\n${readFileSync(hba, 'utf8')}`);
      writeFileSync(join(server.dataDirectory, 'pg_ident.conf'), `archive /^.*$ ${server.superuser}\n`);
      const client = new pg.Client({ connectionString: server.connectionString() });
      await client.connect();
      await client.query('select pg_reload_conf()').finally(() => client.end());
      await asNode(server, 'stanza-create');
    },
    async backup(server) {
      await asNode(server, '--type=full', '--start-fast', 'backup');
    },
    walFiles() {
      const root = folder('objects', 'wal', 'archive', 'archive', stanza);
      return readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((name) => /\/[0-9A-F]{24}-[0-9a-f]{40}\.gz$/.test(name)).sort().map((name) => join(root, name));
    },
  };
}
