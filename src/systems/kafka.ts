import { readFile } from 'node:fs/promises';
import type { Admin } from '@platformatic/kafka';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { redact } from './log.ts';
import { unknownName, type Context } from './context.ts';

export interface PartitionLag {
  readonly topic: string;
  readonly partition: number;
  /** null: the group never committed for it. */
  readonly committed: bigint | null;
  readonly begin: bigint;
  readonly end: bigint;
  readonly lag: bigint;
  /** Why the committed offset is not one of this log; null when it is. */
  readonly strange: string | null;
}

export interface GroupLag {
  readonly group: string;
  /** As the coordinator says it; null when it knows no such group. */
  readonly state: string | null;
  readonly partitions: readonly PartitionLag[];
  readonly lag: bigint;
  /** Topics that were asked for and are not there. */
  readonly missingTopics: readonly string[];
}

const CONNECT_MS = 5000;
const REQUEST_MS = 15_000;
/** One look at all groups. */
const LOOK_MS = 60_000;

/** @throws HoldfastError `unknown-kafka` */
export function kafkaName(context: Context, wanted: string | undefined): string {
  const names = Object.keys(context.config.kafka);
  if (wanted === undefined && names.length === 1) return names[0]!;
  if (wanted === undefined) throw new HoldfastError('cluster-unknown', names.length === 0 ? 'no Kafka cluster is configured' : 'several Kafka clusters are configured, and the step names none', { next: names.length === 0 ? 'add it under kafka in holdfast.yaml' : `give cluster: one of ${names.join(', ')}` });
  if (!names.includes(wanted)) throw unknownName('kafka', wanted, names);
  return wanted;
}

/** How far groups are behind. @throws HoldfastError `kafka-unanswered`, `kafka-refused` */
export async function groupLags(context: Context, name: string, groups: readonly string[], topics: readonly string[], signal: AbortSignal): Promise<GroupLag[]> {
  const cluster = context.config.kafka[name]!;
  const { Admin } = await import('@platformatic/kafka');
  const admin = new Admin({
    clientId: 'holdfast',
    bootstrapBrokers: cluster.brokers,
    connectTimeout: CONNECT_MS,
    requestTimeout: REQUEST_MS,
    timeout: REQUEST_MS,
    retries: 2,
    autocreateTopics: false,
    ...(cluster.tls === undefined ? {} : { tls: cluster.tls.ca === undefined ? {} : { ca: await readFile(cluster.tls.ca, 'utf8') }, tlsServerName: cluster.tls.serverName ?? true }),
    ...(cluster.sasl === undefined ? {} : { sasl: { mechanism: cluster.sasl.mechanism, username: cluster.sasl.username, password: await context.secrets.resolve(cluster.sasl.password) } }),
  });
  let stop: (() => void) | undefined;
  const ended = new Promise<never>((_, reject) => {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(LOOK_MS)]);
    const onAbort = (): void => reject(signal.aborted ? (signal.reason as Error) : new Error(`no answer within ${LOOK_MS / 1000} s`));
    limit.addEventListener('abort', onAbort, { once: true });
    stop = () => limit.removeEventListener('abort', onAbort);
  });
  ended.catch(() => {});
  try {
    return await Promise.race([ended, look(admin, groups, topics)]);
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof HoldfastError) throw error;
    const text = redact(reasonsOf(error).join(': '));
    const refused = /SASL|authenticat|authoriz|certificate|altname|self.signed/i.test(text);
    throw new HoldfastError(refused ? 'kafka-refused' : 'kafka-unanswered', `Kafka ${name} at ${cluster.brokers.join(', ')}: ${text}`, {
      retryable: !refused,
      next: refused ? 'check sasl and tls of the cluster, and that its ACL lets this user DESCRIBE the groups and topics' : 'check that the brokers run and that this worker reaches their advertised addresses',
      cause: error,
    });
  } finally {
    stop?.();
    await admin.close().catch(() => {});
  }
}

/** The client wraps what happened in errors of its own. */
function reasonsOf(error: unknown): string[] {
  const found = new Set<string>();
  const walk = (one: unknown, depth: number): void => {
    if (one === undefined || one === null || depth > 6) return;
    found.add(messageOf(one));
    for (const inner of (one as { errors?: unknown[] }).errors ?? []) walk(inner, depth + 1);
    walk((one as { cause?: unknown }).cause, depth + 1);
  };
  walk(error, 0);
  return [...found].slice(0, 4);
}

async function look(admin: Admin, groups: readonly string[], topics: readonly string[]): Promise<GroupLag[]> {
  const { ListOffsetTimestamps } = await import('@platformatic/kafka');
  // Of every broker: each knows the groups that it coordinates.
  const known = await admin.listGroups();
  const there = groups.filter((group) => known.has(group));
  const committed = new Map<string, Map<string, Map<number, bigint>>>();
  if (there.length > 0) {
    for (const { groupId, topics: its } of await admin.listConsumerGroupOffsets({ groups: [...there], requireStable: false })) {
      committed.set(groupId, new Map(its.map(({ name, partitions }) => [name, new Map(partitions.filter(({ committedOffset }) => committedOffset >= 0n).map(({ partitionIndex, committedOffset }) => [partitionIndex, committedOffset]))])));
    }
  }
  const wanted = (group: string): string[] => (topics.length > 0 ? [...topics] : [...(committed.get(group)?.keys() ?? [])]);
  const all = [...new Set(there.flatMap(wanted))];
  const partitions = new Map<string, number>();
  for (const topic of all) {
    // One by one, since one that is gone would hide the others.
    const metadata = await admin.metadata({ topics: [topic], forceUpdate: true }).catch((error: unknown) => {
      if (reasonsOf(error).some((text) => /unknown topic|UNKNOWN_TOPIC|does not host this topic/i.test(text))) return null;
      throw error;
    });
    const found = metadata?.topics.get(topic);
    if (found !== undefined) partitions.set(topic, found.partitionsCount);
  }
  const offsets = async (timestamp: bigint): Promise<Map<string, Map<number, bigint>>> => {
    if (partitions.size === 0) return new Map();
    const answer = await admin.listOffsets({ topics: [...partitions].map(([name, count]) => ({ name, partitions: Array.from({ length: count }, (_, partitionIndex) => ({ partitionIndex, timestamp })) })) });
    return new Map(answer.map(({ name, partitions: its }) => [name, new Map(its.map(({ partitionIndex, offset }) => [partitionIndex, offset]))]));
  };
  // Ends after commits: what is written meanwhile counts as lag, never the other way round.
  const [begins, ends] = [await offsets(ListOffsetTimestamps.EARLIEST), await offsets(ListOffsetTimestamps.LATEST)];
  return groups.map((group) => {
    const its: PartitionLag[] = [];
    for (const topic of wanted(group)) {
      for (let partition = 0; partition < (partitions.get(topic) ?? 0); partition += 1) {
        const [begin, end] = [begins.get(topic)?.get(partition), ends.get(topic)?.get(partition)];
        if (begin === undefined || end === undefined) throw new HoldfastError('kafka-unanswered', `no offsets of ${topic}[${partition}] were given`, { retryable: true, next: 'look whether the partition has a leader' });
        const at = committed.get(group)?.get(topic)?.get(partition) ?? null;
        const strange = at === null ? null : at > end ? `committed ${at}, and the log ends at ${end}: it is another log, or was cut` : at < begin ? `committed ${at}, and the log begins at ${begin}: ${begin - at} unread messages are gone` : null;
        its.push({ topic, partition, committed: at, begin, end, lag: at === null ? end - begin : at > end ? 0n : end - (at < begin ? begin : at), strange });
      }
    }
    return { group, state: known.get(group)?.state ?? null, partitions: its, lag: its.reduce((sum, { lag }) => sum + lag, 0n), missingTopics: known.has(group) ? wanted(group).filter((topic) => !partitions.has(topic)) : [] };
  });
}
