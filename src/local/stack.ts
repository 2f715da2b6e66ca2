// The servers of the local stack under one name: what tests and the demo start. Each program has its own file.
export { createProcesses, endOnSignals, type LocalProcess, type Processes } from './processes.ts';
export { startPostgres, startStandby, type PostgresServer } from './postgres.ts';
export { startPatroni, type PatroniCluster, type PatroniMember } from './patroni.ts';
export { startTemporal, type TemporalServer } from './temporal.ts';
export { startMoto, type AwsServer } from './moto.ts';
export { createBucket, s3Client, startVersity } from './versity.ts';
export { connectToxiproxy, startToxiproxy, type Toxic, type ToxicProxy, type Toxiproxy } from './toxiproxy.ts';
export { startRedis, type RedisServer } from './redis.ts';
export { startSearch, type SearchServer } from './opensearch.ts';
export { startDynamo, type DynamoServer } from './dynamodb.ts';
export { startKafka, type KafkaBroker } from './kafka.ts';
export { startKubernetes, type KubernetesServer } from './kubernetes.ts';
export { startFerret, type FerretServer } from './ferretdb.ts';
