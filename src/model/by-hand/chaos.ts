import { command, isHost, nodeName, nodeOf, onNode, run, sh, textOf, type ByHand, type ByHandCall } from './words.ts';

export const chaosByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'chaos.killPrimary': killPrimary,
  'chaos.pod': (call) => {
    const [selector, cluster] = [textOf(call.inputs['selector'], ''), textOf(call.inputs['cluster'], '')];
    const at = textOf(call.inputs['namespace'], '') === '' ? '' : ` -n ${sh(textOf(call.inputs['namespace'], ''))}`;
    return {
      blocks: [
        run('check', `The pods that are ready in cluster ${cluster}.`, `kubectl${at} get pods -l ${sh(selector)}`, undefined, 'one line a pod'),
        run('do', 'Delete one of them, at once.', `kubectl${at} delete "$(kubectl${at} get pods -l ${sh(selector)} --field-selector status.phase=Running -o name | head -n 1)" --grace-period=${textOf(String(call.inputs['graceSeconds'] ?? 0), '0')} --wait=false`, undefined, 'pod "..." deleted'),
        run('check', 'Others have taken their place.', `kubectl${at} wait pod -l ${sh(selector)} --for=condition=Ready --timeout=15m >/dev/null; echo "exit $?"`, ['exit 0']),
      ],
      stop: ['Temporal is down: a drill can wait. Do not break anything on purpose today'],
      broken: 'the controller of the pods makes new ones; if it does not, look at: kubectl describe pod',
    };
  },
  'chaos.proxyLink': (call) => {
    const service = call.service ?? '';
    const links = (call.config as { services?: Readonly<Record<string, { chaos?: { links: Readonly<Record<string, { api: string; proxy: string }>> } }>> }).services?.[service]?.chaos?.links ?? {};
    const link = links[textOf(call.inputs['link'], '')];
    const at = link === undefined ? '<api>/proxies/<proxy>' : `${link.api.replace(/\/$/, '')}/proxies/${encodeURIComponent(link.proxy)}`;
    const set = (enabled: boolean): string => `curl -fsS -o /dev/null -X POST -H 'content-type: application/json' -d '{"enabled":${enabled}}' ${sh(at)}; echo "exit $?"`;
    return {
      blocks: [run('do', textOf(call.inputs['effect'], '') === 'restore' ? 'Heal the link.' : 'Cut the link.', set(textOf(call.inputs['effect'], '') === 'restore'), ['exit 0']), run('undo', 'Heal the link.', set(true), ['exit 0'])],
      stop: ['Temporal is down: a drill can wait. Do not break anything on purpose today'],
      broken: 'heal the link by the last command',
    };
  },
};

function killPrimary(call: ByHandCall): ByHand {
  const primary = nodeName(call, 'primary');
  const node = nodeOf(call, primary);
  if (!isHost(node)) return { blocks: [], say: [`${primary} has no dataDirectory: how its server is killed is not known here.`], stop: [], broken: 'nothing can break here' };
  const pid = onNode(node, ['head', '-n', '1', `${node.dataDirectory}/postmaster.pid`]);
  return {
    blocks: [
      run('check', `A standby streams from ${primary}; without one this is an outage and no drill.`, `psql -X -qAt -h ${sh(node.host)} -p ${node.port} -d postgres -c "select count(*) > 0 from pg_stat_replication where state = 'streaming'"`, ['t']),
      run('do', `Kill the server on ${primary}: its children end with it. Note the time.`, `date -u; p="$(${pid})"; ${command(node.exec ?? [])}${(node.exec ?? []).length > 0 ? ' ' : ''}kill -KILL "$p"; echo "exit $?"`, ['exit 0']),
      run('undo', 'Start it again, only while nothing else was promoted.', `${onNode(node, [`${node.binDirectory === undefined ? '' : `${node.binDirectory}/`}pg_ctl`, '-D', node.dataDirectory, '-w', 'start'])}; echo "exit $?"`, ['exit 0']),
    ],
    stop: ['Temporal is down: a drill can wait. Do not break anything on purpose today'],
    broken: 'fail over (runbook database-failover, forced), or start the server again while nothing else was promoted',
  };
}
