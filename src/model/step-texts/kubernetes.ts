import { changes, list, name, recordOf, text, type KnownStep, type StepText } from './words.ts';

export const kubernetesTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'kubernetes.rollout': (step) => {
    const found = recordOf(step.before)['workloads'];
    const ids = Array.isArray(found) ? found.map((item) => `${String(recordOf(item)['id'])} (${String(recordOf(item)['replicas'])} replica(s))`) : list(step, 'workloads').map(String);
    const what = ids.length > 0 ? ids.join(', ') : `what carries ${text(step, 'selector', 'the selector')}`;
    return {
      does: `restarts ${what} in cluster ${text(step, 'cluster', '...')} by two annotations of the pod template: whose restart it is, and a checksum of the versions of what the pods take; then waits until all new pods are available`,
      undo: 'takes the annotations back, so that the pods start once more with the configuration of then; only where they are still of this run',
      unknown: ['how long the pods take to be ready'],
    };
  },
  'kubernetes.config': (step) => {
    const keys = ['hostKeys', 'portKeys', 'addressKeys', 'urlKeys'].flatMap((input) => list(step, input)).map(String);
    const points = recordOf(step.before)['points'];
    return {
      ...changes(`writes the address of ${name(step, 'candidate')} into ${keys.join(', ') || 'the keys'} of ${step.inputs['secret'] === undefined ? `ConfigMap ${text(step, 'configMap', '...')}` : `Secret ${text(step, 'secret', '...')}`}${Array.isArray(points) ? ` (now ${points.map(String).join(', ')})` : ''}, only if it is still the version that was read`, 'whether somebody changes it meanwhile', 'when pods take it: environment only when they start'),
      undo: 'writes the addresses of before into those keys that still hold ours',
    };
  },
};
