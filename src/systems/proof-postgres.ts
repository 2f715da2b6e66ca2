import type pg from 'pg';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { CheckResult } from '../model/api.ts';
import type { ServiceCheck } from '../model/config-schema.ts';
import type { PostgresFingerprint } from '../model/manifest-postgres.ts';
import { judgeCheck } from '../model/proof-check.ts';
import { connectPostgres, type PostgresTarget } from './postgres.ts';
import { EVERYTHING, fingerprintDatabase, prepareFingerprintSession, readSequences, schemaObjects } from './postgres-fingerprint.ts';
import { selectRelations } from './postgres-selection.ts';

export interface FingerprintTargetOptions {
  readonly binDirectory?: string;
  /** Connections that read tables side by side; default 2. */
  readonly connections?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: string) => void;
}

/** Everything there is in a restored database, read from it and from nothing else. */
export async function fingerprintTarget(target: PostgresTarget, options: FingerprintTargetOptions = {}): Promise<PostgresFingerprint> {
  const clients: pg.Client[] = [];
  // A query under way ends only with its connection.
  const onAbort = (): void => {
    for (const client of clients) (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
  };
  options.signal?.addEventListener('abort', onAbort, { once: true });
  try {
    for (let count = 0; count < (options.connections ?? 2); count += 1) {
      const client = await connectPostgres(target, { applicationName: 'holdfast proof' });
      clients.push(client);
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    }
    const [first] = clients as [pg.Client];
    await prepareFingerprintSession(first);
    const relations = await selectRelations(first, EVERYTHING);
    const before = await readSequences(first, relations.sequences);
    const parts = await fingerprintDatabase(clients, {
      relations,
      signal: options.signal,
      onProgress: (done) => options.onProgress?.(`compared ${done.tables} of ${done.ofTables} tables, last ${done.table}`),
    });
    options.onProgress?.('compared the tables; reading the schema');
    const after = new Map((await readSequences(first, relations.sequences)).map((sequence) => [JSON.stringify([sequence.schema, sequence.name]), sequence]));
    const schema = await schemaObjects(target, { binDirectory: options.binDirectory, signal: options.signal, applicationName: 'holdfast proof' });
    return {
      ...parts,
      sequences: before.map(({ schema, name, lastValue, isCalled }) => {
        const now = after.get(JSON.stringify([schema, name]));
        return { schema, name, before: { lastValue, isCalled }, after: { lastValue: now?.lastValue ?? lastValue, isCalled: now?.isCalled ?? isCalled } };
      }),
      schemaObjects: schema.objects,
      schemaSha256: schema.sha256,
    };
  } catch (error) {
    options.signal?.throwIfAborted();
    throw error;
  } finally {
    options.signal?.removeEventListener('abort', onAbort);
    await Promise.all(clients.map((client) => client.end().catch(() => {})));
  }
}

/** SQLSTATE classes that say something of the server, not of the query: connection, resources, operator intervention, system, internal. */
const SERVER_FAULTS = /^(08|53|57|58|XX)/;
/** Of 57: the statement timeout is the query's own. */
const STATEMENT_TIMEOUT = '57014';

/**
 * The service's own questions, each in a read-only transaction of its own.
 * @throws HoldfastError `postgres-connect`, `check-not-run` when the server could not answer; a wrong answer is a result.
 */
export async function runSqlChecks(target: PostgresTarget, checks: readonly ServiceCheck[], options: { timeoutMs: number; signal?: AbortSignal }): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  for (const check of checks) {
    options.signal?.throwIfAborted();
    const client = await connectPostgres(target, { applicationName: 'holdfast check' });
    try {
      await client.query('BEGIN READ ONLY');
      await client.query(`SET LOCAL statement_timeout = ${Math.round(options.timeoutMs)}`);
      // The extended protocol takes one statement only.
      const query = { text: check.sql!, rowMode: 'array', queryMode: 'extended' } as pg.QueryArrayConfig;
      results.push(judgeCheck(check, (await client.query(query)).rows as unknown[][]));
    } catch (error) {
      const code = (error as { code?: string }).code;
      if (code === undefined || (SERVER_FAULTS.test(code) && code !== STATEMENT_TIMEOUT)) {
        throw new HoldfastError('check-not-run', `check "${check.name}" could not be run: ${messageOf(error)}`, { next: 'look at the log of the server it ran on', retryable: true, cause: error });
      }
      results.push({ name: check.name, ok: false, found: `error: ${messageOf(error)}`, expected: 'an answer', next: 'run its query against the source: either the backup misses something, or the check is out of date' });
    } finally {
      await client.end().catch(() => {});
    }
  }
  return results;
}
