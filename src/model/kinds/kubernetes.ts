import { z } from 'zod';
import { datastore, kind, lateNode, type StepKind } from '../step-kind.ts';
import { durationMs } from '../units.ts';

const cluster = z.string().min(1).meta({ description: 'Cluster: a name under kubernetes in the configuration.' });
const namespace = z.string().min(1).optional().meta({ description: "Default: the cluster's." });

export const kubernetesKinds: Readonly<Record<string, StepKind>> = {
  'kubernetes.rollout': kind({
    summary: 'Restarts Deployments, StatefulSets and DaemonSets so that their pods take the new configuration, and waits until the new pods are available.',
    input: z
      .strictObject({
        cluster,
        namespace,
        workloads: z
          .array(z.string().regex(/^(deployment|statefulset|daemonset)\/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/, 'expected deployment/<name>, statefulset/<name> or daemonset/<name>'))
          .default([])
          .meta({ description: 'What is restarted: deployment/<name>, statefulset/<name>, daemonset/<name>.' }),
        selector: z.string().min(1).optional().meta({ description: 'Label selector: every Deployment, StatefulSet and DaemonSet of the namespace that carries it is restarted.' }),
        datastore: datastore.optional().meta({ description: "The workloads read this datastore's endpoint.secret when they start: its current version is part of what a restart is asked for." }),
        region: z.string().min(1).optional().meta({ description: "Region whose secret is meant; default: the datastore's endpoint.secretRegion." }),
        timeout: durationMs.prefault('10m').meta({ description: 'How long all of them may take to be available.' }),
      })
      .refine((input) => input.workloads.length > 0 || input.selector !== undefined, { message: 'give workloads, or a selector' }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    skippable: true,
    applyMs: 120_000,
    verifyMs: 2 * 3_600_000,
    permissions: [{ action: 'secretsmanager:DescribeSecret', on: 'endpointSecret' }, { action: 'secretsmanager:GetSecretValue', on: 'endpointSecret' }, { action: 'secretsmanager:GetSecretValue', on: 'clusterSecrets' }],
    facts: { workloads: 'what was restarted', config: 'checksum of the versions of what their pods take', restartedAtMs: 'epoch milliseconds, worker clock', availableAtMs: 'epoch milliseconds at which all were available' },
  }),
  'kubernetes.config': kind({
    summary: 'Writes the endpoint of the candidate into keys of a Kubernetes Secret or ConfigMap, by compare-and-set; values are never shown.',
    input: z
      .strictObject({
        cluster,
        namespace,
        datastore,
        candidate: lateNode,
        secret: z.string().min(1).optional().meta({ description: 'Name of the Secret.' }),
        configMap: z.string().min(1).optional().meta({ description: 'Or of the ConfigMap.' }),
        hostKeys: z.array(z.string().min(1)).default([]).meta({ description: 'Keys whose whole value is the host.' }),
        portKeys: z.array(z.string().min(1)).default([]).meta({ description: 'Keys whose whole value is the port.' }),
        addressKeys: z.array(z.string().min(1)).default([]).meta({ description: 'Keys whose whole value is host:port.' }),
        urlKeys: z.array(z.string().min(1)).default([]).meta({ description: 'Keys that hold a URL: only its host and port change, user and password stay as they are.' }),
      })
      .refine((input) => (input.secret === undefined) !== (input.configMap === undefined), { message: 'give either secret or configMap' })
      .refine((input) => input.hostKeys.length + input.portKeys.length + input.addressKeys.length + input.urlKeys.length > 0, { message: 'give at least one of hostKeys, portKeys, addressKeys, urlKeys' }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    applyMs: 60_000,
    facts: { resourceVersion: 'version after the change', from: 'address before' },
  }),
};
