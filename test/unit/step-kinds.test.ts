import { expect, it } from 'vitest';
import { CATALOGUE } from '../../src/model/catalogue.ts';

/** Kinds that change and do not look at what they did: what shows it instead. */
const SHOWN_BY: Readonly<Record<string, string>> = { 'dynamodb.copy': 'dynamodb.verifyCopy, a step of its own', 'runbook.run': 'the steps of the nested run' };

it('every kind of step that changes something has a look at what it did, or is named here with what shows it', () => {
  const unseen = Object.entries(CATALOGUE).filter(([, { phases }]) => phases.includes('apply') && !phases.includes('verify')).map(([uses]) => uses);
  expect(unseen.sort()).toEqual(Object.keys(SHOWN_BY).sort());
  expect(CATALOGUE['dynamodb.verifyCopy']!.phases).toContain('verify');
});
