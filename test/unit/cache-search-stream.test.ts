import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { byHand } from '../../src/model/by-hand.ts';
import { configOf } from '../../src/model/config.ts';
import { parseDocument } from '../../src/model/document.ts';
import { runbookSchema } from '../../src/model/runbook-schema.ts';
import { stepKind } from '../../src/model/catalogue.ts';
import { parseInfo } from '../../src/systems/redis.ts';

const GOOD = `version: 1
stores:
  main: {type: folder, path: ./backups}
datastores:
  cache:
    engine: redis
    nodes:
      east: {host: cache-east}
      west: {host: cache west, port: 6380}
    username: ops
    password: "env:CACHE_PASSWORD"
    tls: {ca: ./ca.pem}
    snapshots: {store: main, prefix: cache}
  search:
    engine: opensearch
    clusters:
      east: {url: "https://search-east:9200"}
      west: {url: "https://search-west:9200", repository: restored}
    indices: [products, reviews]
    repository: nightly
    username: ops
    password: "file:/etc/holdfast/search password"
services:
  shop:
    objectives: {rto: 15m, rpo: 1h}
    datastores: [cache, search]
    runbooks: {region: lost}
kafka:
  main: {brokers: ["broker-1:9092"], sasl: {mechanism: PLAIN, username: ops, password: "env:KAFKA_PASSWORD"}}
`;

const runbook = (steps: readonly { uses: string; with: Record<string, unknown> }[]): Map<string, ReturnType<typeof runbookSchema.parse>> =>
  new Map([['lost', runbookSchema.parse({ name: 'lost', title: 'Lost', summary: 'A test.', steps: steps.map((step, index) => ({ id: `s${index}`, title: 'T', narrative: 'N', ...step })) })]]);

function findings(edit: (text: string) => string, steps: Parameters<typeof runbook>[0] = []): string[] {
  const runbooks = steps.length === 0 ? runbook([{ uses: 'redis.substitute', with: { datastore: 'cache', node: 'west' } }]) : runbook(steps);
  return configOf(parseDocument('holdfast.yaml', edit(GOOD)), { runbooks }).findings.map(({ message, found, allowed }) => [message, found, allowed].filter((part) => part !== undefined).join(' | '));
}

describe('the configuration of caches, search and streams', () => {
  it('is taken as it stands, and what is wrong in it is said where it is', () => {
    expect(findings((text) => text)).toEqual([]);
    expect(findings((text) => text.replace('{store: main,', '{store: mian,'))).toEqual([expect.stringContaining('there is no store of this name; did you mean "main"?')]);
    expect(findings((text) => text.replace('"env:CACHE_PASSWORD"', 'hunter2'))).toEqual([expect.stringContaining('never the secret itself')]);
    expect(findings((text) => text.replace('[products, reviews]', '["products*"]'))).toEqual([expect.stringContaining('no wildcard')]);
    expect(findings((text) => text.replace('"broker-1:9092"', 'broker-1'))).toEqual([expect.stringContaining('host:port')]);
    expect(findings((text) => text.replace('{host: cache-east}', '{host: cache-east, prot: 1}'))).toEqual([expect.stringContaining('prot')]);
  });

  it('says when a step is meant for another engine, or names a node or cluster that is not there', () => {
    expect(findings((text) => text, [{ uses: 'redis.substitute', with: { datastore: 'search', node: 'west' } }])).toEqual([expect.stringMatching(/step "s0": redis\.substitute is done to redis only, and datastore "search" is of engine opensearch .* cache$/)]);
    expect(findings((text) => text, [{ uses: 'redis.substitute', with: { datastore: 'cache', node: 'wets' } }])).toEqual([expect.stringContaining('has no node of this name; did you mean "west"?')]);
    expect(findings((text) => text, [{ uses: 'search.restore', with: { datastore: 'search', cluster: 'north' } }])).toEqual([expect.stringContaining('has no cluster of this name')]);
    expect(findings((text) => `${text}schedules:\n  nightly: {run: backup, datastore: cache, every: 1d}\nnotify:\n  team: {type: slack, url: "env:HOOK"}\n`)).toEqual([expect.stringContaining('datastore "cache" is of engine redis, which has no backups here: backup')]);
  });

  it.each([
    ['redis.warmUp', { url: 'http://app/{item}' }, 'exactly one of'],
    ['redis.warmUp', { url: 'http://app/', items: ['a'] }, 'no `{item}`'],
    ['redis.warmUp', { minimumKeys: 5 }, 'needs `datastore` and `node`'],
    ['search.reindex', { datastore: 'search', into: 'x' }, 'give either'],
    ['search.verify', { datastore: 'search' }, 'nothing to compare with'],
    ['kafka.lagGate', { groups: [] }, 'groups'],
  ])('%s with %j is refused', (uses, input, why) => {
    const parsed = stepKind(uses)!.input.safeParse(input);
    expect(parsed.success).toBe(false);
    expect(JSON.stringify(parsed.error!.issues)).toContain(why);
  });
});

describe('by hand', () => {
  const config = configOf(parseDocument('holdfast.yaml', GOOD)).config!;
  const steps: readonly [string, Record<string, unknown>][] = [
    ['redis.snapshot', { datastore: 'cache', node: 'east' }],
    ['redis.substitute', { datastore: 'cache', node: 'west' }],
    ['redis.substitute', { datastore: 'cache', node: 'west', from: 'cold' }],
    ['redis.promote', { datastore: 'cache', primary: 'east', candidate: 'west' }],
    ['redis.warmUp', { urls: ["https://shop/it's?a=1&b=2"], url: 'https://shop/{item}', query: 'select 1' }],
    ['search.snapshot', { datastore: 'search', cluster: 'east' }],
    ['search.restore', { datastore: 'search', cluster: 'west', as: 'renamed' }],
    ['search.restore', { datastore: 'search', cluster: 'west', snapshot: "by 'hand'" }],
    ['search.reindex', { datastore: 'search', cluster: 'west', into: 'b', fromIndex: 'a' }],
    ['search.reindex', { datastore: 'search', cluster: 'west', into: 'b', query: 'select 1' }],
    ['search.alias', { datastore: 'search', cluster: 'west', alias: 'live' }],
    ['search.verify', { datastore: 'search', cluster: 'west' }],
    ['kafka.lagGate', { groups: ["it's"], maxLag: 3 }],
  ];

  it.each(steps.flatMap(([uses, inputs]) => (['planned', 'forced'] as const).map((mode) => [uses, mode, inputs] as const)))('%s, %s, is sound shell with no password in an argument', (uses, mode, inputs) => {
    process.env['CACHE_PASSWORD'] = 'correct-horse';
    const made = byHand({ step: 'x', uses, mode, service: 'shop', inputs, kept: {}, roles: { primary: null, candidate: null }, approvals: 0, readOnlyDeadlineMs: 1, config })!;
    expect(made.blocks.length + (made.say?.length ?? 0)).toBeGreaterThan(0);
    for (const block of made.blocks) {
      execFileSync('sh', ['-n'], { input: block.sh, stdio: ['pipe', 'pipe', 'pipe'] });
      expect(block.sh).not.toMatch(/undefined|\[object|NaN|correct-horse| -a |--pass/);
    }
  });
});

describe('INFO of a Redis', () => {
  it('is read as one moment: keys of all databases, replicas, what it follows', () => {
    const state = parseInfo('# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:down\r\nmaster_link_down_since_seconds:12\r\nslave_repl_offset:99\r\nslave0:ip=10.0.0.3,port=6379,state=online,offset=90,lag=0\r\nexpired_keys:4\r\ndb0:keys=10,expires=3,avg_ttl=1\r\ndb7:keys=5,expires=0,avg_ttl=0\r\n');
    expect(state).toMatchObject({ role: 'replica', version: '7.0.15', keys: 15, expiring: 3, expiredKeys: 4, masterHost: '10.0.0.1', linkUp: false, linkDownSeconds: 12, offset: 99, replicas: [{ host: '10.0.0.3', port: 6379, online: true, offset: 90 }] });
  });
});
