import { describe, expect, it } from 'vitest';
import { judgeRegion, regionDownChecks, regionHealthyChecks, type ApiSaw, type RegionSeen } from '../../src/model/region-down.ts';

const api = (how: ApiSaw['how']): ApiSaw => ({ how, detail: how });
const WELL: RegionSeen = {
  region: 'a', other: 'b',
  checkers: [{ id: 'hc-1', how: 'healthy', detail: '8 of 8' }],
  endpoints: [{ url: 'http://a', how: 'good', detail: 'HTTP 200' }],
  otherEndpoints: [{ url: 'http://b', how: 'good', detail: 'HTTP 200' }],
  api: api('answers'), otherApi: api('answers'),
};
const LOST: RegionSeen = { ...WELL, checkers: [{ id: 'hc-1', how: 'failing', detail: '0 of 8' }], endpoints: [{ url: 'http://a', how: 'silent', detail: 'no answer' }], api: api('silent') };
const forced = (seen: RegionSeen): string[] => regionDownChecks(seen, judgeRegion(seen)).filter((check) => !check.ok).map((check) => check.name);
const places = (seen: RegionSeen): string[] => judgeRegion(seen).facts.map((fact) => fact.place);

describe('a Region that is said to be lost', () => {
  it('is, by every place that can say so', () => {
    expect(places(LOST)).toEqual(['Route 53', 'worker', 'API of a']);
    expect(forced(LOST)).toEqual([]);
  });
  it('needs two places, and facts of one place are one', () => {
    expect(forced({ ...LOST, checkers: [], api: api('answers') })).toEqual(['two independent facts']);
    expect(forced({ ...LOST, checkers: [], api: api('answers'), endpoints: [LOST.endpoints[0]!, { url: 'http://a2', how: 'silent', detail: '' }] })).toEqual(['two independent facts']);
    expect(forced({ ...LOST, checkers: [] })).toEqual([]);
    expect(forced({ ...LOST, api: api('answers') })).toEqual([]);
  });
  it('is not lost with one sign of life, whatever else fails', () => {
    expect(forced({ ...LOST, endpoints: WELL.endpoints })).toEqual(['Region is down']);
    expect(forced({ ...LOST, checkers: WELL.checkers })).toEqual(['Region is down']);
    expect(forced({ ...LOST, endpoints: [...LOST.endpoints, ...WELL.endpoints] })).toContain('Region is down');
    expect(forced(WELL)).toEqual(['Region is down', 'Region is down', 'a sign that it is down', 'two independent facts']);
  });
  it('the worker that reaches nothing at all, near or far, is no fact: its own network may be down', () => {
    const alone: RegionSeen = { ...LOST, checkers: [], otherEndpoints: [{ url: 'http://b', how: 'silent', detail: 'no answer' }], otherApi: api('silent') };
    expect(judgeRegion(alone).facts).toEqual([]);
    expect(forced(alone)).toEqual(expect.arrayContaining(['a sign that it is down', 'two independent facts', 'endpoint in b', 'API of b']));
    // What answers badly was reached: the network works.
    expect(places({ ...alone, endpoints: [{ url: 'http://a', how: 'bad', detail: 'HTTP 503' }] })).toEqual(['worker']);
  });
  it('an API that answers is no sign of life of the service, and says that planned may do', () => {
    expect(judgeRegion({ ...LOST, api: api('answers') }).unclear.join()).toMatch(/the API of a answers/);
    expect(judgeRegion({ ...LOST, api: api('refuses') }).facts.map((fact) => fact.place)).toEqual(['Route 53', 'worker']);
  });
  it('checkers that say nothing are no fact, and only some that fail are none either', () => {
    expect(places({ ...LOST, checkers: [{ id: 'hc-1', how: 'unclear', detail: 'disabled' }] })).toEqual(['worker', 'API of a']);
    const some = { ...LOST, checkers: [LOST.checkers[0]!, { id: 'hc-2', how: 'unclear' as const, detail: 'inverted' }] };
    expect(places(some)).toEqual(['worker', 'API of a']);
    expect(judgeRegion(some).unclear.join()).toMatch(/only 1 of 2 health checks fail/);
  });
  it('is not left for one that is not ready', () => {
    expect(forced({ ...LOST, otherEndpoints: [{ url: 'http://b', how: 'bad', detail: 'HTTP 503' }] })).toEqual(['endpoint in b']);
    expect(forced({ ...LOST, otherApi: api('refuses') })).toEqual(['API of b']);
    expect(forced({ ...LOST, api: api('not-asked'), otherApi: api('not-asked') })).toEqual([]);
  });
  it('with nothing to look at there is nothing to decide on', () => {
    expect(forced({ ...WELL, checkers: [], endpoints: [], otherEndpoints: [], api: api('not-asked'), otherApi: api('not-asked') })).toEqual(['a sign that it is down', 'two independent facts']);
  });
  it('only the number of facts is a rule that can be broken on purpose', () => {
    const checks = regionDownChecks(WELL, judgeRegion(WELL)).filter((check) => !check.ok);
    expect(checks.filter((check) => check.rule !== undefined).map((check) => [check.name, check.rule])).toEqual([['two independent facts', 'two-facts']]);
  });
});

describe('a planned failover', () => {
  it('wants both Regions well', () => {
    const failing = (seen: RegionSeen): string[] => regionHealthyChecks(seen).filter((check) => !check.ok).map((check) => check.name);
    expect(failing(WELL)).toEqual([]);
    expect(failing(LOST)).toEqual(['health check hc-1', 'endpoint in a', 'API of a']);
    expect(failing({ ...WELL, checkers: [{ id: 'hc-1', how: 'unclear', detail: '' }] })).toEqual(['health check hc-1']);
    expect(failing({ ...WELL, otherEndpoints: [{ url: 'http://b', how: 'silent', detail: '' }] })).toEqual(['endpoint in b']);
  });
});
