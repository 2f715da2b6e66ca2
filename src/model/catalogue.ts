import { applicationKinds } from './kinds/application.ts';
import { cacheKinds } from './kinds/cache.ts';
import { controlKinds } from './kinds/control.ts';
import { dynamodbKinds } from './kinds/dynamodb.ts';
import { edgeKinds } from './kinds/edge.ts';
import { kubernetesKinds } from './kinds/kubernetes.ts';
import { postgresKinds } from './kinds/postgres.ts';
import { chaosKinds } from './kinds/chaos.ts';
import { walKinds } from './kinds/wal.ts';
import { s3Kinds } from './kinds/s3.ts';
import { searchKinds } from './kinds/search.ts';
import { streamKinds } from './kinds/stream.ts';
import type { Phase, StepKind } from './step-kind.ts';

export { PHASES, type Phase, type StepKind } from './step-kind.ts';

/**
 * The step kinds: one entry each, by family. The activities `<kind>:<phase>` implement the phases named here; the interpreter,
 * `validate`, JSON Schema and docs/reference/step-kinds.md read this table and nothing else.
 */
export const CATALOGUE: Readonly<Record<string, StepKind>> = {
  ...controlKinds,
  ...postgresKinds,
  ...applicationKinds,
  ...edgeKinds,
  ...cacheKinds,
  ...kubernetesKinds,
  ...walKinds,
  ...s3Kinds,
  ...searchKinds,
  ...chaosKinds,
  ...streamKinds,
  ...dynamodbKinds,
};

export function stepKind(name: string): StepKind | undefined {
  return Object.hasOwn(CATALOGUE, name) ? CATALOGUE[name] : undefined;
}

/** Name of the activity that does a phase of a kind. */
export function phaseActivity(kindName: string, phase: Phase): string {
  return `${kindName}:${phase}`;
}
