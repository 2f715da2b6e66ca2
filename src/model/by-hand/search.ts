import type { OpensearchDatastore } from '../config-schema.ts';
import { HoldfastError } from '../errors.ts';
import { fetchSecret, run, sh, textOf, word, type ByHand, type ByHandCall } from './words.ts';

export const searchByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'search.snapshot': (call) => {
    const { datastore, repository } = clusterOf(call);
    return {
      blocks: [
        run('check', 'Count the documents, and write the count down: it is what a restore is compared with.', `${ask(call, 'POST', `/${datastore.indices.join(',')}/_refresh`)} >/dev/null; ${ask(call, 'GET', `/${datastore.indices.join(',')}/_count`)}`, undefined, '{"count":...}'),
        run('do', 'Take the snapshot, and wait.', `${ask(call, 'PUT', `/_snapshot/${repository}/by-hand-$(date -u +%Y%m%d%H%M%S)?wait_for_completion=true`, { indices: datastore.indices.join(','), include_global_state: false })} | grep -o '"state":"[A-Z]*"'`, ['"state":"SUCCESS"']),
      ],
      stop: ['it says PARTIAL: a shard is missing in it'],
      broken: 'look at _cluster/health and at the repository',
    };
  },
  'search.restore': (call) => {
    const { datastore, repository } = clusterOf(call);
    const wanted = textOf(call.inputs['snapshot'], 'newest');
    const renamed = call.inputs['as'] === 'renamed';
    return {
      blocks: [
        run('check', 'The snapshots there are, the newest last. Take one that says SUCCESS.', `${ask(call, 'GET', `/_cat/snapshots/${repository}?s=start_epoch&h=id,status,end_time`)} | tail -n 5`, undefined, 'name SUCCESS time'),
        run('do', `Restore ${datastore.indices.join(', ')}, and wait. Write the name of the snapshot in.`, `snapshot=${wanted === 'newest' ? '"${SNAPSHOT:?set SNAPSHOT to the name first}"' : sh(wanted)}; ${ask(call, 'POST', `/_snapshot/${repository}/$snapshot/_restore?wait_for_completion=true`, { indices: datastore.indices.join(','), include_global_state: false, include_aliases: false, ...(renamed ? { rename_pattern: '^(.+)$', rename_replacement: '$1-restored' } : {}) })}`, undefined, '{"snapshot":{...,"shards":{"total":N,"failed":0,"successful":N}}}'),
        run('check', 'Count the documents, and compare with what was written down.', `${ask(call, 'GET', `/${datastore.indices.map((index) => (renamed ? `${index}-restored` : index)).join(',')}/_count`)}`, undefined, '{"count":...}'),
      ],
      stop: ['an index of the name is there and open: it serves somebody'],
      broken: 'fill the indices from their source',
    };
  },
  'search.reindex': (call) => {
    const into = textOf(call.inputs['into'], '');
    const from = textOf(call.inputs['fromIndex'], '');
    if (from === '') return { blocks: [], say: [`Fill ${into} from the rows of: ${textOf(call.inputs['query'], '')} (column ${textOf(call.inputs['id'], 'id')} is the document id) with whatever usually feeds it; there is no short way by hand.`], stop: [], broken: 'restore a snapshot instead' };
    return {
      blocks: [run('do', `Copy ${from} into ${into}, and wait.`, `${ask(call, 'POST', `/${from}/_refresh`)} >/dev/null; ${ask(call, 'POST', '/_reindex?wait_for_completion=true&refresh=true', { source: { index: from }, dest: { index: into, op_type: 'create' } })}`, undefined, '{...,"failures":[]}')],
      stop: [`${into} holds documents of others`],
      broken: 'restore a snapshot instead',
    };
  },
  'search.alias': (call) => {
    const [alias, index] = [textOf(call.inputs['alias'], ''), word(call, 'index')];
    return {
      blocks: [
        run('check', 'Where it points now. Write it down.', ask(call, 'GET', `/_alias/${alias}`), undefined, '{"index":{"aliases":...}}'),
        run('do', 'Point it to the new index, away from every other one, in one change.', `index=${index ?? '"${INDEX:?set INDEX to the new index first}"'}; ${askShell(call, 'POST', '/_aliases', `{"actions":[{"remove":{"index":"*","alias":"${alias}"}},{"add":{"index":"$index","alias":"${alias}"}}]}`)}`, ['{"acknowledged":true}']),
        run('undo', 'Point it back to what was written down.', `index="\${OLD_INDEX:?set OLD_INDEX to what was written down}"; ${askShell(call, 'POST', '/_aliases', `{"actions":[{"remove":{"index":"*","alias":"${alias}"}},{"add":{"index":"$index","alias":"${alias}"}}]}`)}`, ['{"acknowledged":true}']),
      ],
      stop: ['it points elsewhere than expected: somebody moved it'],
      broken: 'tell the application the name of the index itself',
    };
  },
  'search.verify': (call) => {
    const { datastore } = clusterOf(call);
    const index = word(call, 'index') ?? sh(datastore.indices.join(','));
    return {
      blocks: [
        run('check', 'Every shard is started.', `index=${index}; ${ask(call, 'GET', '/_cat/shards/$index?h=index,shard,prirep,state')} | grep ' p ' | grep -v STARTED || echo all`, ['all']),
        run('check', `Count after a refresh${call.inputs['query'] === undefined ? '' : `, and compare with the rows of: ${textOf(call.inputs['query'], '')}`}.`, `index=${index}; ${ask(call, 'POST', '/$index/_refresh')} >/dev/null; ${ask(call, 'GET', '/$index/_count')}`, undefined, '{"count":...}'),
      ],
      stop: ['a shard is missing, or documents are'],
      broken: 'restore or fill it anew',
    };
  },
};

interface Found {
  readonly datastore: OpensearchDatastore;
  readonly url: string;
  readonly repository: string;
  readonly username: string | undefined;
  readonly password: string | undefined;
}

function clusterOf(call: ByHandCall): Found {
  const name = textOf(call.inputs['datastore'], '');
  const datastore = Object.hasOwn(call.config.datastores, name) ? call.config.datastores[name] : undefined;
  if (datastore?.engine !== 'opensearch') throw new HoldfastError('wrong-engine', `step ${call.step} (${call.uses}): "${name}" is no datastore of engine opensearch`, { next: 'give the parameter datastore: one of engine opensearch' });
  const names = Object.keys(datastore.clusters);
  const wanted = textOf(call.inputs['cluster'], names.length === 1 ? names[0]! : '');
  const cluster = Object.hasOwn(datastore.clusters, wanted) ? datastore.clusters[wanted] : undefined;
  if (cluster === undefined) throw new HoldfastError('cluster-unknown', `step ${call.step} (${call.uses}): which cluster is not known`, { next: `give one of ${names.join(', ')}` });
  return { datastore, url: cluster.url.replace(/\/$/, ''), repository: cluster.repository ?? datastore.repository ?? 'REPOSITORY', username: cluster.username ?? datastore.username, password: cluster.password ?? datastore.password };
}

function ask(call: ByHandCall, method: string, path: string, body?: object): string {
  return askWith(call, method, path, body === undefined ? '' : ` -H 'content-type: application/json' -d ${sh(JSON.stringify(body))}`);
}

/** A body in which the shell fills in a variable. */
function askShell(call: ByHandCall, method: string, path: string, body: string): string {
  return askWith(call, method, path, ` -H 'content-type: application/json' -d "${body.replaceAll('"', '\\"')}"`);
}

/** curl reads user and password from standard input, so that no argument holds them; the URL may name a shell variable. */
function askWith(call: ByHandCall, method: string, path: string, body: string): string {
  const { datastore, url, username, password } = clusterOf(call);
  const login = username === undefined || password === undefined ? '' : `printf 'user = "%s:%s"\\n' ${sh(username)} "$(${fetchSecret(call, password)})" | `;
  return `${login}curl -sS${login === '' ? '' : ' -K -'}${datastore.ca === undefined ? '' : ` --cacert ${sh(datastore.ca)}`} -X ${method} "${url}${path}"${body}`;
}
