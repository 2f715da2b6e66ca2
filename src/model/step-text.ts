import { applicationTexts } from './step-texts/application.ts';
import { cacheTexts } from './step-texts/cache.ts';
import { controlTexts } from './step-texts/control.ts';
import { dynamodbTexts } from './step-texts/dynamodb.ts';
import { edgeTexts } from './step-texts/edge.ts';
import { kubernetesTexts } from './step-texts/kubernetes.ts';
import { managedTexts } from './step-texts/managed.ts';
import { postgresTexts } from './step-texts/postgres.ts';
import { chaosTexts } from './step-texts/chaos.ts';
import { walTexts } from './step-texts/wal.ts';
import { s3Texts } from './step-texts/s3.ts';
import { searchTexts } from './step-texts/search.ts';
import { streamTexts } from './step-texts/stream.ts';
import type { KnownStep, StepText } from './step-texts/words.ts';

/** What each step kind would do, in exact words. One entry a kind; a test holds this table against the catalogue. */
export const STEP_TEXTS: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  ...controlTexts,
  ...postgresTexts,
  ...applicationTexts,
  ...edgeTexts,
  ...kubernetesTexts,
  ...walTexts,
  ...s3Texts,
  ...chaosTexts,
  ...cacheTexts,
  ...searchTexts,
  ...streamTexts,
  ...dynamodbTexts,
};

/** @returns undefined for a kind that nobody described. */
export function stepText(step: KnownStep): StepText | undefined {
  if (step.managed !== undefined && Object.hasOwn(managedTexts, step.uses)) return managedTexts[step.uses]!(step);
  return Object.hasOwn(STEP_TEXTS, step.uses) ? STEP_TEXTS[step.uses]!(step) : undefined;
}
