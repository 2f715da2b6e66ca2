import type pg from 'pg';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { postgresOf, unknownName, type Context } from './context.ts';
import { readEndpoint } from './endpoint.ts';
import { adminTarget, connectPostgres, type PostgresTarget } from './postgres.ts';
import { nodeByAddress } from './postgres-node.ts';

/** The server that a query is asked of: the node named, the only one, or the one that the application's secret points to. */
export async function queryTarget(context: Context, name: string, node: string | undefined): Promise<PostgresTarget> {
  const datastore = postgresOf(context.config, name);
  const nodes = Object.keys(datastore.nodes);
  if (node !== undefined) {
    if (!Object.hasOwn(datastore.nodes, node)) throw unknownName('node', node, nodes);
    return adminTarget(context, datastore, node);
  }
  if (nodes.length === 1) return adminTarget(context, datastore, nodes[0]!);
  if (datastore.endpoint === undefined) throw new HoldfastError('node-unknown', `datastore ${name} has several nodes, and neither a node nor an endpoint.secret says which one to ask`, { next: `name one of: ${nodes.join(', ')}` });
  const endpoint = await readEndpoint(context, datastore.endpoint.secret, datastore.endpoint.secretRegion);
  const found = nodeByAddress(datastore, endpoint.host, endpoint.port);
  if (found === null) throw new HoldfastError('node-unknown', `the secret of datastore ${name} points to ${endpoint.host}:${endpoint.port}, which is none of its nodes`, { next: `name one of: ${nodes.join(', ')}` });
  return adminTarget(context, datastore, found);
}

export type Row = Readonly<Record<string, unknown>>;

/**
 * Rows of one SELECT, in batches: a cursor in a read-only transaction, so that all are of the same moment and memory stays bounded.
 * @throws HoldfastError `query-failed`
 */
export async function* rowsOf(target: PostgresTarget, sql: string, values: readonly unknown[], options: { readonly batch: number; readonly signal: AbortSignal }): AsyncGenerator<Row[]> {
  const client = await connectPostgres(target, { applicationName: 'holdfast rows' });
  const onAbort = (): void => void client.end().catch(() => {});
  options.signal.addEventListener('abort', onAbort, { once: true });
  try {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    await client.query({ text: `DECLARE holdfast_rows NO SCROLL CURSOR FOR ${sql}`, values: [...values] });
    for (;;) {
      options.signal.throwIfAborted();
      const { rows } = (await client.query(`FETCH ${options.batch} FROM holdfast_rows`)) as pg.QueryResult<Row>;
      if (rows.length === 0) return;
      yield rows;
    }
  } catch (error) {
    options.signal.throwIfAborted();
    if (error instanceof HoldfastError) throw error;
    const code = (error as { code?: string }).code;
    throw new HoldfastError('query-failed', `the query failed on ${target.host}:${target.port}/${target.database}: ${messageOf(error)}`, { retryable: code === undefined || /^(08|53|57|58|XX)/.test(code), next: 'try it with psql as this user; it must be one SELECT', context: { sqlstate: code }, cause: error });
  } finally {
    options.signal.removeEventListener('abort', onAbort);
    await client.end().catch(() => {});
  }
}
