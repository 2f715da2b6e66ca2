import { run, sh, texts, textOf, type ByHand, type ByHandCall } from './words.ts';

export const streamByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'kafka.lagGate': (call) => {
    const names = Object.keys(call.config.kafka);
    const cluster = call.config.kafka[textOf(call.inputs['cluster'], names.length === 1 ? names[0]! : '')];
    const secured = cluster?.sasl !== undefined || cluster?.tls !== undefined;
    const login = secured ? ' --command-config "$HF/kafka.properties"' : '';
    return {
      blocks: texts(call.inputs['groups']).map((group) => run('check', `${group}: the column LAG, summed up over all partitions, is at most ${String(call.inputs['maxLag'] ?? 0)}; a dash there means that it never committed.`, `kafka-consumer-groups.sh --bootstrap-server ${sh((cluster?.brokers ?? ['BROKER:9092']).join(','))}${login} --describe --group ${sh(group)}`, undefined, 'GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG ...')),
      ...(secured ? { say: [`The cluster asks for a login or for TLS: write security.protocol and sasl.* into "$HF/kafka.properties" first${cluster?.sasl === undefined ? '' : `; its password is at ${cluster.sasl.password}`}.`] } : {}),
      stop: ['a group is further behind than that: what it has not read is not done'],
      broken: 'ask whoever runs the consumers how far they are',
    };
  },
};
