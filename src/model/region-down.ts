import type { CheckResult } from './api.ts';

/** What Route 53's checkers, all over the world, say of one health check. */
export interface CheckerSaw {
  readonly id: string;
  /** `unclear`: disabled, inverted, without a recent observation, or it could not be asked. */
  readonly how: 'healthy' | 'failing' | 'unclear';
  readonly detail: string;
}

/** What the worker got from an endpoint, all its attempts together. */
export interface EndpointSaw {
  readonly url: string;
  readonly how: 'good' | 'bad' | 'silent';
  readonly detail: string;
}

/** Whether the control plane (the RDS API) of a Region answered. */
export interface ApiSaw {
  readonly how: 'answers' | 'silent' | 'refuses' | 'not-asked';
  readonly detail: string;
}

export interface RegionSeen {
  /** The Region that is said to be lost, or to be left. */
  readonly region: string;
  /** The Region to go to. */
  readonly other: string;
  readonly checkers: readonly CheckerSaw[];
  readonly endpoints: readonly EndpointSaw[];
  readonly otherEndpoints: readonly EndpointSaw[];
  readonly api: ApiSaw;
  readonly otherApi: ApiSaw;
}

export interface RegionVerdict {
  /** At most one fact a place. */
  readonly facts: readonly { readonly place: string; readonly says: string }[];
  /** Signs of life of the service there. One is enough to refuse. */
  readonly alive: readonly string[];
  readonly unclear: readonly string[];
}

/**
 * What the observations amount to. Places: Route 53's checkers; the worker; the Region's own API. The API is asked by the worker as
 * well, so its silence counts by itself only when the worker's network is shown to work: the other Region answered it meanwhile.
 */
export function judgeRegion(seen: RegionSeen): RegionVerdict {
  const { region, other } = seen;
  const facts: { place: string; says: string }[] = [];
  const alive: string[] = [];
  const unclear: string[] = [];

  const failing = seen.checkers.filter((one) => one.how === 'failing');
  for (const one of seen.checkers) {
    if (one.how === 'healthy') alive.push(`Route 53's checkers reach ${one.id} (${one.detail})`);
    if (one.how === 'unclear') unclear.push(`health check ${one.id} says nothing (${one.detail})`);
  }
  if (failing.length > 0 && failing.length === seen.checkers.length) facts.push({ place: 'Route 53', says: `Route 53's checkers do not reach ${failing.map((one) => `${one.id} (${one.detail})`).join(', ')}` });
  else if (failing.length > 0) unclear.push(`only ${failing.length} of ${seen.checkers.length} health checks fail`);

  for (const one of seen.endpoints) if (one.how === 'good') alive.push(`${one.url} answers the worker (${one.detail})`);
  const bad = seen.endpoints.filter((one) => one.how !== 'good');
  const worked = seen.otherApi.how === 'answers' || seen.otherApi.how === 'refuses' || seen.otherEndpoints.some((one) => one.how !== 'silent');
  const all = bad.length > 0 && bad.length === seen.endpoints.length;
  const answered = bad.some((one) => one.how === 'bad');
  // Silence of everything, near and far, is the worker's own network as likely as the Region's.
  if (all && (worked || answered)) facts.push({ place: 'worker', says: `the worker gets nothing good from ${bad.map((one) => `${one.url} (${one.detail})`).join(', ')}` });
  else if (all) unclear.push(`the worker reaches neither ${region} nor ${other}: its own network may be down`);

  switch (seen.api.how) {
    case 'silent':
      if (worked) facts.push({ place: `API of ${region}`, says: `the API of ${region} does not answer (${seen.api.detail}), while ${other} answers` });
      else unclear.push(`the API of ${region} does not answer (${seen.api.detail}), and nothing of ${other} answers either`);
      break;
    case 'answers':
      // The control plane may live on while the service does not, and the other way round.
      unclear.push(`the API of ${region} answers: its databases can be asked and changed`);
      break;
    case 'refuses':
      unclear.push(`the API of ${region} answers with a refusal (${seen.api.detail})`);
      break;
    case 'not-asked':
      break;
    default:
      seen.api.how satisfies never;
  }
  return { facts, alive, unclear };
}

/** Forced: as with a lost primary, two facts from different places, and no sign of life whatever anybody overrides. */
export function regionDownChecks(seen: RegionSeen, verdict: RegionVerdict): CheckResult[] {
  const unclear = verdict.unclear.length === 0 ? '' : `; unclear: ${verdict.unclear.join('; ')}`;
  const found = verdict.facts.map((fact) => fact.says).join('; ') || 'none';
  const checks: CheckResult[] = verdict.alive.map((sign) => ({ name: 'Region is down', ok: false, expected: `no sign of life of the service in ${seen.region}`, found: sign, next: 'use a planned failover; if it must go, take it out of service there first' }));
  if (verdict.facts.length === 0) checks.push({ name: 'a sign that it is down', ok: false, expected: 'at least one fact', found: `none${unclear}`, next: 'look at the Region: nothing says that it is down' });
  const enough = new Set(verdict.facts.map((fact) => fact.place)).size >= 2;
  checks.push({ name: 'two independent facts', ok: enough, expected: `at least two facts, from different places, that ${seen.region} is down`, found: enough ? found : `${found}${unclear}`, rule: 'two-facts', ...(enough ? {} : { next: 'wait, or look at the Region by another way' }) });
  return [...checks, ...targetChecks(seen)];
}

/** Whoever goes there must find something. */
function targetChecks(seen: RegionSeen): CheckResult[] {
  const checks: CheckResult[] = seen.otherEndpoints.map((one) => ({ name: `endpoint in ${seen.other}`, ok: one.how === 'good', expected: `${one.url} answers 2xx`, found: one.detail, ...(one.how === 'good' ? {} : { next: `make ${seen.other} ready first: a failover would go nowhere` }) }));
  if (seen.otherApi.how !== 'not-asked') checks.push({ name: `API of ${seen.other}`, ok: seen.otherApi.how === 'answers', expected: 'answers', found: seen.otherApi.how === 'answers' ? 'answers' : seen.otherApi.detail, ...(seen.otherApi.how === 'answers' ? {} : { next: "check the Region's name, the worker's rights and its network" }) });
  return checks;
}

/** Planned: both Regions are well; one that is not is a reason to stop and look, or for a forced run. */
export function regionHealthyChecks(seen: RegionSeen): CheckResult[] {
  return [
    ...seen.checkers.map((one): CheckResult => ({ name: `health check ${one.id}`, ok: one.how === 'healthy', expected: 'healthy', found: one.detail, ...(one.how === 'healthy' ? {} : { next: 'a planned failover leaves a Region that is well: use a forced one if it is lost' }) })),
    ...seen.endpoints.map((one): CheckResult => ({ name: `endpoint in ${seen.region}`, ok: one.how === 'good', expected: `${one.url} answers 2xx`, found: one.detail, ...(one.how === 'good' ? {} : { next: 'a planned failover leaves a Region that is well: use a forced one if it is lost' }) })),
    ...(seen.api.how === 'not-asked' ? [] : [{ name: `API of ${seen.region}`, ok: seen.api.how === 'answers', expected: 'answers', found: seen.api.how === 'answers' ? 'answers' : seen.api.detail, ...(seen.api.how === 'answers' ? {} : { next: "check the Region's name, the worker's rights and its network" }) }]),
    ...targetChecks(seen),
  ];
}
