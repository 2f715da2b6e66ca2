import { HoldfastError } from '../errors.ts';
import { addressOf, command, databaseOf, fetchSecret, nodeName, run, sh, textOf, texts, type ByHand, type ByHandBlock, type ByHandCall } from './words.ts';

export const kubernetesByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'kubernetes.rollout': rollout,
  'kubernetes.config': config,
};

/** `kubectl` with the cluster's kubeconfig; one that stands in a secret is written to a file that is yours alone. */
function kubectl(call: ByHandCall): { program: string[]; first: ByHandBlock[] } {
  const name = textOf(call.inputs['cluster'], '');
  const cluster = Object.hasOwn(call.config.kubernetes, name) ? call.config.kubernetes[name] : undefined;
  if (cluster === undefined) throw new HoldfastError('unknown-kubernetes cluster', `there is no kubernetes cluster named "${name}"`, { next: 'correct cluster of the step' });
  const reference = cluster.kubeconfig;
  const namespace = textOf(call.inputs['namespace'], cluster.namespace ?? '');
  const words = [...(cluster.context === undefined ? [] : ['--context', cluster.context]), ...(namespace === '' ? [] : ['--namespace', namespace])];
  if (reference === undefined) return { program: ['kubectl', ...words], first: [] };
  if (reference.startsWith('file:')) return { program: ['kubectl', '--kubeconfig', reference.slice('file:'.length), ...words], first: [] };
  const file = `$HF/${call.step}.kubeconfig`;
  return { program: ['kubectl', ...words], first: [run('do', 'Fetch the kubeconfig. It holds credentials: the file is yours alone and goes at the end.', `${fetchSecret(call, reference)} > "${file}"; export KUBECONFIG="${file}"; kubectl config current-context`, undefined, 'a context')] };
}

function rollout(call: ByHandCall): ByHand {
  const { program, first } = kubectl(call);
  const workloads = texts(call.inputs['workloads']);
  const selector = textOf(call.inputs['selector'], '');
  const timeoutMs = typeof call.inputs['timeout'] === 'number' ? call.inputs['timeout'] : 600_000;
  const by = [...workloads.map((workload) => [workload]), ...(selector === '' ? [] : [['deployment,statefulset,daemonset', '-l', selector]])];
  const each = by.map((words) => run('do', `Restart ${words.join(' ')}.`, command([...program, 'rollout', 'restart', ...words])));
  const waits = by.map((words) => run('check', `All new pods of ${words.join(' ')} are available.`, `${command([...program, 'rollout', 'status', `--timeout=${Math.ceil(timeoutMs / 1000)}s`, ...words])} >&2; echo "exit $?"`, ['exit 0']));
  return {
    blocks: [
      ...first,
      ...each,
      ...waits,
      run('else', 'It does not end: which pods, and why.', `${command([...program, 'get', 'pods', ...(selector === '' ? [] : ['-l', selector])])}; ${command([...program, 'get', 'events', '--sort-by=.lastTimestamp'])} | tail -20`),
    ],
    stop: ['a pod says that a Secret or one of its keys is missing: restarting more of them takes down what still runs'],
    broken: 'delete the pods by hand, a few at a time: their controller starts new ones, which read the configuration of now',
  };
}

function config(call: ByHandCall): ByHand {
  const { program, first } = kubectl(call);
  const secret = textOf(call.inputs['secret'], '');
  const object = secret === '' ? ['configmap', textOf(call.inputs['configMap'], '')] : ['secret', secret];
  const address = addressOf(databaseOf(call).nodes[nodeName(call, 'candidate')]!);
  const values: [string, string][] = [
    ...texts(call.inputs['hostKeys']).map((key): [string, string] => [key, address.host]),
    ...texts(call.inputs['portKeys']).map((key): [string, string] => [key, String(address.port)]),
    ...texts(call.inputs['addressKeys']).map((key): [string, string] => [key, `${address.host}:${address.port}`]),
  ];
  const urls = texts(call.inputs['urlKeys']);
  const patch = JSON.stringify(secret === '' ? { data: Object.fromEntries(values) } : { stringData: Object.fromEntries(values) });
  const shown = values.map(([key, value]) => run('check', `${key} is the new one.`, `${command([...program, 'get', ...object, '-o', `jsonpath={.data.${key.replaceAll('.', String.raw`\.`)}}`])}${secret === '' ? '' : ' | base64 -d'}; echo`, [value]));
  return {
    blocks: [
      ...first,
      ...(values.length === 0 ? [] : [run('do', 'Write the new address.', command([...program, 'patch', ...object, '--type=merge', '-p', patch]))]),
      ...shown,
    ],
    ...(urls.length === 0 ? {} : { say: [`${urls.join(', ')} hold${urls.length === 1 ? 's' : ''} a URL with a password: change only the host and port in it to ${address.host}:${address.port}, in an editor: ${command([...program, 'edit', ...object])}${secret === '' ? '' : ' (values there are in base64)'}. Never type it into a command line: ${sh('ps')} shows it to everybody.`] }),
    stop: [],
    broken: 'tell the application its database address in another way',
  };
}
