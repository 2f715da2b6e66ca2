import { z } from 'zod';
import { secretReference } from './config-words.ts';
import { durationMs } from './units.ts';

/** A Kubernetes cluster in which applications run. */
export const kubernetesSchema = z.strictObject({
  kubeconfig: secretReference.optional().meta({ description: 'Where the kubeconfig is found: file:<path>, env:<NAME> or aws-sm:<id>#<field>. Without it the worker must run in the cluster and uses its own service account.' }),
  context: z.string().min(1).optional().meta({ description: 'Context of the kubeconfig; default: its current-context. Name it: a current-context is changed by accident.' }),
  namespace: z.string().min(1).optional().meta({ description: "Namespace of the applications, unless a step says another; default: the context's." }),
  timeout: durationMs.prefault('10s').meta({ description: 'How long one call of the API may take.' }),
});

export type KubernetesConfig = z.output<typeof kubernetesSchema>;
