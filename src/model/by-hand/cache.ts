import type { RedisDatastore } from '../config-schema.ts';
import { HoldfastError } from '../errors.ts';
import { command, fetchSecret, run, sh, textOf, texts, waitFor, type ByHand, type ByHandCall } from './words.ts';

export const cacheByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'redis.snapshot': (call) => {
    const { snapshots } = cacheOf(call);
    return {
      blocks: [run('do', 'Read the whole server as a replica does, and see that the file is whole.', `${redis(call, 'node', ['--rdb', 'FILE']).replace('FILE', '"$HF/cache.rdb"')} >/dev/null 2>&1; redis-check-rdb "$HF/cache.rdb" | tail -n 1 | grep -o 'RDB looks OK'`, ['RDB looks OK'])],
      say: [`Keep "$HF/cache.rdb"; it belongs into ${snapshots === undefined ? 'the place where snapshots are kept' : `${snapshots.prefix}/ of the store ${snapshots.store}`}.`],
      stop: [],
      broken: 'a managed Redis refuses this: have the cloud take a snapshot',
    };
  },
  'redis.substitute': (call) => {
    const healthy = [run('check', 'It is a primary, and it is empty.', `echo "$(${redis(call, 'node', ['INFO', 'replication'])} | tr -d '\\r' | sed -n 's/^role://p') $(${redis(call, 'node', ['DBSIZE'])})"`, ['master 0'])];
    if (call.inputs['from'] === 'cold') return { blocks: healthy, stop: ['it holds keys: it is not the right server, or somebody uses it'], broken: 'make another empty Redis and put its address in place of this one' };
    return {
      blocks: healthy,
      say: [`Stop the server of ${nodeIn(call, 'node').name}, put the newest *.rdb of ${placeOf(cacheOf(call))} into its data directory as dump.rdb (appendonly must be off), and start it: it loads the file. A managed one is created from the snapshot by its cloud.`, 'Then compare DBSIZE with what redis-check-rdb says of the file (keys read, less already expired).'],
      stop: ['it holds keys before you begin: it is not the right server, or somebody uses it'],
      broken: 'go on with it empty (cold), if the service bears it',
    };
  },
  'redis.promote': (call) => {
    const candidate = nodeIn(call, 'candidate');
    const role = run('check', `${candidate.name} is the primary.`, waitFor(`${redis(call, 'candidate', ['INFO', 'replication'])} | tr -d '\\r' | sed -n 's/^role://p'`, 'master'), ['master']);
    if (call.mode === 'forced') {
      return {
        blocks: [run('do', 'Make it the primary. What the lost one had not sent is gone.', redis(call, 'candidate', ['REPLICAOF', 'NO', 'ONE']), ['OK']), role],
        stop: [`${nodeIn(call, 'primary').name} still answers as a primary: do it in mode planned`],
        broken: `when ${nodeIn(call, 'primary').name} comes back: redis-cli there REPLICAOF ${candidate.host} ${candidate.port}, at once`,
      };
    }
    return {
      blocks: [
        run('check', 'The replica is online. FAILOVER takes its address exactly as it stands here.', `${redis(call, 'primary', ['INFO', 'replication'])} | tr -d '\\r' | grep '^slave'`, undefined, 'slave0:ip=...,port=...,state=online,...'),
        run('do', 'Hand over. Writes are held until the replica has them all, for at most 10 s.', redis(call, 'primary', ['FAILOVER', 'TO', candidate.host, String(candidate.port), 'TIMEOUT', '10000']), ['OK']),
        role,
        run('undo', 'Hand back.', redis(call, 'candidate', ['FAILOVER', 'TO', nodeIn(call, 'primary').host, String(nodeIn(call, 'primary').port), 'TIMEOUT', '10000']), ['OK']),
      ],
      stop: ['the replica is not online', 'a Sentinel watches them: let it do it (SENTINEL FAILOVER)'],
      broken: 'after 10 s Redis gives up by itself, and nothing has changed',
    };
  },
  'redis.warmUp': (call) => {
    const urls = texts(call.inputs['urls']);
    const template = textOf(call.inputs['url'], '');
    return {
      blocks: urls.map((url) => run('do', 'Ask for it, so that the application fills its cache.', command(['curl', '-sS', '-o', '/dev/null', '-w', '%{http_code}\\n', url]), ['200', '204'])),
      ...(template === '' ? {} : { say: [`Ask for ${template} for each item, one after the other: ${call.inputs['query'] === undefined ? texts(call.inputs['command']).join(' ') || texts(call.inputs['items']).join(', ') : String(call.inputs['query'])}`] }),
      stop: [],
      broken: 'go on without it: the service is slower until the cache is warm',
    };
  },
};

function cacheOf(call: ByHandCall): RedisDatastore {
  const name = textOf(call.inputs['datastore'], '');
  const found = Object.hasOwn(call.config.datastores, name) ? call.config.datastores[name] : undefined;
  if (found?.engine !== 'redis') throw new HoldfastError('wrong-engine', `step ${call.step} (${call.uses}): "${name}" is no datastore of engine redis`, { next: 'give the parameter datastore: one of engine redis' });
  return found;
}

function placeOf(datastore: RedisDatastore): string {
  return datastore.snapshots === undefined ? 'the place where snapshots are kept' : `${datastore.snapshots.prefix}/ of the store ${datastore.snapshots.store}`;
}

function nodeIn(call: ByHandCall, input: string): { name: string; host: string; port: number; username: string | undefined; password: string | undefined } {
  const datastore = cacheOf(call);
  const name = call.inputs[input];
  if (typeof name !== 'string' || !Object.hasOwn(datastore.nodes, name)) throw new HoldfastError('node-unknown', `step ${call.step} (${call.uses}): which node is the ${input} is not known`, { next: `give one of ${Object.keys(datastore.nodes).join(', ')}` });
  const { host, port, username, password } = datastore.nodes[name]!;
  return { name, host, port, username: username ?? datastore.username, password: password ?? datastore.password };
}

/** redis-cli takes the password from its environment, never from an argument. */
function redis(call: ByHandCall, input: string, words: readonly string[]): string {
  const { host, port, username, password } = nodeIn(call, input);
  const { tls } = cacheOf(call);
  const secret = password === undefined ? '' : `REDISCLI_AUTH="$(${fetchSecret(call, password)})" `;
  const secure = tls === undefined ? [] : ['--tls', ...(tls.ca === undefined ? [] : ['--cacert', tls.ca]), ...(tls.serverName === undefined ? [] : ['--sni', tls.serverName])];
  return `${secret}redis-cli ${[...(username === undefined ? [] : ['--user', username]), '-h', host, '-p', String(port), ...secure, ...words].map((item) => sh(item)).join(' ')}`;
}
