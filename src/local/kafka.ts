import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { HoldfastError } from '../model/errors.ts';
import { waitUntilReady, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { findTool, javaClassPath } from './tools.ts';

export interface KafkaBroker {
  /** host:port for clients. */
  readonly address: string;
  /** host:port for clients that log in by SASL PLAIN, when it has users. */
  readonly saslAddress?: string;
  kill(): Promise<void>;
  running(): boolean;
}

/** One Kafka broker with its own controller (KRaft), on 127.0.0.1 and free ports. Topics are made by whoever needs them. */
export async function startKafka(options: { processes: Processes; directory: string; name?: string; users?: Readonly<Record<string, string>> }): Promise<KafkaBroker> {
  const name = options.name ?? 'kafka';
  const [port, controller] = [await freePort(), await freePort()];
  const folder = join(options.directory, name);
  mkdirSync(folder, { recursive: true });
  const saslPort = options.users === undefined ? undefined : await freePort();
  const sasl = saslPort === undefined ? {} : {
    listeners: `PLAINTEXT://127.0.0.1:${port},CLIENT://127.0.0.1:${saslPort},CONTROLLER://127.0.0.1:${controller}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${port},CLIENT://127.0.0.1:${saslPort}`,
    'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT',
    'listener.name.client.sasl.enabled.mechanisms': 'PLAIN',
    'listener.name.client.plain.sasl.jaas.config': `org.apache.kafka.common.security.plain.PlainLoginModule required ${Object.entries(options.users!).map(([user, password]) => `user_${user}="${password}"`).join(' ')};`,
  };
  const configuration = join(folder, 'server.properties');
  const settings = {
    'process.roles': 'broker,controller', 'node.id': 1, 'controller.quorum.voters': `1@127.0.0.1:${controller}`,
    listeners: `PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controller}`, 'advertised.listeners': `PLAINTEXT://127.0.0.1:${port}`,
    'controller.listener.names': 'CONTROLLER', 'inter.broker.listener.name': 'PLAINTEXT', 'log.dirs': join(folder, 'data'), 'auto.create.topics.enable': false,
    'offsets.topic.replication.factor': 1, 'offsets.topic.num.partitions': 1, 'transaction.state.log.replication.factor': 1, 'transaction.state.log.min.isr': 1, 'transaction.state.log.num.partitions': 1, 'group.initial.rebalance.delay.ms': 0,
    'log.cleaner.enable': false, 'num.network.threads': 1, 'num.io.threads': 2,
    ...sasl,
  };
  writeFileSync(configuration, Object.entries(settings).map(([key, value]) => `${key}=${value}\n`).join(''), { mode: 0o600 });
  const java = [findTool('java'), '-Xms64m', '-Xmx256m', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn', '-cp', javaClassPath('kafka')];
  const format = await options.processes.spawn({ name: `${name}-format`, cwd: folder, argv: [...java, 'kafka.tools.StorageTool', 'format', '-t', `h${randomBytes(16).toString('base64url').slice(1)}`, '-c', configuration] });
  // Its own event keeps nobody alive.
  while (format.running()) await new Promise((resolve) => {
    setTimeout(resolve, 30);
  });
  const { code } = await format.exited;
  if (code !== 0) throw new HoldfastError('server-ended', `the storage of ${name} could not be formatted: ${format.logTail()}`);
  const child = await options.processes.spawn({ name, cwd: folder, argv: [...java, 'kafka.Kafka', configuration] });
  const address = `127.0.0.1:${port}`;
  const { Admin } = await import('@platformatic/kafka');
  await waitUntilReady(child, async () => {
    const admin = new Admin({ clientId: 'ready', bootstrapBrokers: [address], retries: 0, connectTimeout: 1000, timeout: 2000 });
    try {
      await admin.listGroups();
      return true;
    } finally {
      await admin.close().catch(() => {});
    }
  });
  return {
    address,
    ...(saslPort === undefined ? {} : { saslAddress: `127.0.0.1:${saslPort}` }),
    running: () => child.running(),
    async kill() {
      child.signal('SIGKILL');
      await child.exited;
    },
  };
}
