// The application of the demo and of the failover tests, as a process of its own: it knows the database only by its secret, writes
// checkouts over several connections, and notes every write the database acknowledged in a file before the next one starts.
//   node writer-process.ts '{"secretId", "run", "connections", "perSecond", "file", "region", "endpoint"}'   (credentials by AWS_* variables)
import { appendFileSync } from 'node:fs';
import { GetSecretValueCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import pg from 'pg';

export interface WriterSettings {
  readonly secretId: string;
  /** Names this writer's rows. */
  readonly run: string;
  readonly connections: number;
  /** Writes a second over all connections; 0: as fast as the answers come. */
  readonly perSecond: number;
  /** Lines `a <connection> <sequence> <ms>` for each acknowledged write, `r <connection> <ms> <code>` for each refused one. */
  readonly file: string;
  readonly region: string;
  readonly endpoint: string;
}

/** Between two attempts to reach a database that refused; an application that waits longer sees a longer outage. */
const RETRY_PAUSE_MS = 15;
const CONNECT_TIMEOUT_MS = 1000;
const ANSWER_TIMEOUT_MS = 2000;

interface ConnectionSecret {
  readonly host: string;
  readonly port: number | string;
  readonly username: string;
  readonly password: string;
  readonly dbname: string;
}

async function main(settings: WriterSettings): Promise<void> {
  const secrets = new SecretsManagerClient({ region: settings.region, endpoint: settings.endpoint });
  const stopping = new AbortController();
  process.on('SIGTERM', () => stopping.abort());
  const nowMs = (): number => performance.timeOrigin + performance.now();

  async function connect(): Promise<pg.Client> {
    // Read anew each time: a failover changes it. The stage is AWS's default, but the emulator without it keeps to the first version.
    const answer = await secrets.send(new GetSecretValueCommand({ SecretId: settings.secretId, VersionStage: 'AWSCURRENT' }));
    const secret = JSON.parse(answer.SecretString ?? '{}') as ConnectionSecret;
    const client = new pg.Client({
      host: secret.host,
      port: Number(secret.port),
      user: secret.username,
      password: secret.password,
      database: secret.dbname,
      application_name: 'shop-writer',
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      query_timeout: ANSWER_TIMEOUT_MS,
    });
    client.on('error', () => {}); // The next query tells.
    await client.connect();
    return client;
  }

  async function write(connection: number): Promise<void> {
    const everyMs = settings.perSecond === 0 ? 0 : (1000 * settings.connections) / settings.perSecond;
    let client: pg.Client | undefined;
    let sequence = 1;
    let due = nowMs() + (connection * everyMs) / settings.connections;
    while (!stopping.signal.aborted) {
      const early = due - nowMs();
      if (early > 1) await pause(early);
      try {
        client ??= await connect();
        // The same sequence number again after a lost answer: written once, acknowledged once.
        await client.query({
          name: 'checkout',
          text: 'insert into shop.checkouts (run, connection, sequence, basket) values ($1, $2, $3, $4) on conflict do nothing',
          values: [settings.run, connection, sequence, { items: [{ sku: `SKU-${sequence % 100}`, quantity: 1 + (sequence % 3) }] }],
        });
        appendFileSync(settings.file, `a ${connection} ${sequence} ${nowMs().toFixed(2)}\n`);
        sequence += 1;
        // What was missed is not made up for in a burst.
        due = Math.max(due + everyMs, nowMs() - 50);
      } catch (error) {
        const code = (error as { code?: string }).code ?? (error as Error).message.replaceAll(/\s+/g, '-').slice(0, 40);
        appendFileSync(settings.file, `r ${connection} ${nowMs().toFixed(2)} ${code}\n`);
        const broken = client;
        client = undefined;
        // Not awaited: a dead server would hold us up.
        void broken?.end().catch(() => {});
        await pause(RETRY_PAUSE_MS);
      }
    }
    await client?.end().catch(() => {});
  }

  await Promise.all(Array.from({ length: settings.connections }, (_, connection) => write(connection)));
  secrets.destroy();
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

if (import.meta.main) {
  await main(JSON.parse(process.argv[2] ?? '{}') as WriterSettings);
  process.exit(0);
}
