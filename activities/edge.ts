import { edgeCdnSteps } from './edge-cdn.ts';
import { edgeDnsSteps } from './edge-dns.ts';
import { edgeFlagSteps } from './edge-flag.ts';
import { edgeQueueSteps } from './edge-queue.ts';
import { edgeRegionSteps } from './edge-region.ts';
import { edgeSecretSteps } from './edge-secret.ts';
import { edgeWatchSteps } from './edge-watch.ts';
import type { StepDefinition } from './step-definition.ts';

/** What lies around the databases when a Region is left: names, caches, secrets, queues, flags, and whether the service is well. */
export const edgeSteps: Readonly<Record<string, StepDefinition>> = { ...edgeDnsSteps, ...edgeCdnSteps, ...edgeSecretSteps, ...edgeQueueSteps, ...edgeFlagSteps, ...edgeWatchSteps, ...edgeRegionSteps };
