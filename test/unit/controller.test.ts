import { describe, expect, it } from 'vitest';
import { judge } from '../../activities/controller.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import { checkConfig } from '../../src/model/config.ts';
import { clusterOf, settingsOf, signsOf } from '../../src/systems/patroni.ts';

const PATRONI_OPTIONS = '/usr/lib/postgresql/15/bin/postgres "-D" "/data" "--config-file=/data/postgresql.conf" "--listen_addresses=127.0.0.1" "--port=5432" "--cluster_name=shop" "--wal_level=replica" "--hot_standby=on" "--max_connections=100" "--track_commit_timestamp=off"';
const nothing = { sessions: [], dynamic: false, base: false, options: '/usr/lib/postgresql/15/bin/postgres "-D" "/data" "-c" "config_file=/etc/postgresql/15/main/postgresql.conf"' };

describe('what shows that Patroni is at work', () => {
  it("a session of its own is live; files and the server's command line are traces; a packaged server shows nothing", () => {
    expect(signsOf('a', nothing)).toEqual({ node: 'a', live: [], traces: [], silent: null });
    expect(signsOf('a', { sessions: ['Patroni (postgres)'], dynamic: true, base: true, options: PATRONI_OPTIONS })).toEqual({
      node: 'a', live: ['a session of Patroni (postgres)'], silent: null,
      traces: ['patroni.dynamic.json in its data directory', 'postgresql.base.conf beside its postgresql.conf', "a server started with Patroni's command line (postmaster.opts)"],
    });
    expect(signsOf('a', { ...nothing, options: null }).traces).toEqual([]);
    // cluster_name alone is what Debian sets too.
    expect(signsOf('a', { ...nothing, options: 'postgres "--cluster_name=15/main"' }).traces).toEqual([]);
  });

  it('traces count unless they are declared to mean nothing; a live one counts always', () => {
    const [plain, traced, live] = [signsOf('a', nothing), signsOf('b', { ...nothing, dynamic: true }), signsOf('b', { ...nothing, sessions: ['Patroni heartbeat (p)'] })];
    expect(judge([plain, plain], false)).toMatchObject({ kind: 'none', summary: expect.stringMatching(/^no controller found: looked for sessions named Patroni, /) });
    expect(judge([plain, traced], false)).toEqual({ kind: 'undeclared', facts: ['b: patroni.dynamic.json in its data directory'], declaredNone: false });
    expect(judge([plain, traced], true)).toMatchObject({ kind: 'none', summary: expect.stringMatching(/left behind, and declared to mean nothing: b: patroni\.dynamic\.json/) });
    expect(judge([plain, live], true)).toEqual({ kind: 'undeclared', facts: ['b: a session of Patroni heartbeat (p)'], declaredNone: true });
  });

  it('says which node could not be asked', () => {
    expect(judge([signsOf('a', nothing), { node: 'b', live: [], traces: [], silent: 'no answer' }], false)).toMatchObject({ kind: 'none', summary: expect.stringMatching(/; b could not be asked by SQL$/) });
  });
});

describe('what Patroni answers', () => {
  it('its settings: a pause of ours carries our mark, one by hand none, whatever its form', () => {
    expect(settingsOf({ ttl: 20, loop_wait: 5, pause: true, holdfast: { execution: 'failover/orders', epoch: 7 } })).toEqual({ paused: true, mark: { execution: 'failover/orders', epoch: 7 }, loopWaitMs: 5000, ttlMs: 20_000 });
    expect(settingsOf({ pause: 'on' })).toEqual({ paused: true, mark: null, loopWaitMs: 10_000, ttlMs: 30_000 });
    expect(settingsOf({ pause: false, holdfast: 'what is this' })).toMatchObject({ paused: false, mark: null });
    expect(settingsOf({})).toMatchObject({ paused: false });
  });

  it('its members: the leader by role, none when nobody holds the key', () => {
    const members = [{ name: 'a', role: 'leader', state: 'running', timeline: 3 }, { name: 'b', role: 'replica', state: 'stopped' }];
    expect(clusterOf({ members, pause: true })).toEqual({ leader: 'a', paused: true, scheduledSwitchover: null, members: [{ name: 'a', role: 'leader', state: 'running', timeline: 3 }, { name: 'b', role: 'replica', state: 'stopped', timeline: null }] });
    expect(clusterOf({ members: [members[1]], scheduled_switchover: { at: '2030-01-01T00:00:00+00:00' } })).toMatchObject({ leader: null, paused: false, scheduledSwitchover: '2030-01-01T00:00:00+00:00' });
    expect(clusterOf({})).toEqual({ leader: null, paused: false, scheduledSwitchover: null, members: [] });
  });
});

describe('the configuration of a controller', () => {
  const config = (controller: object): ReturnType<typeof checkConfig> =>
    checkConfig(configSchema.parse({
      version: 1, environment: 'test', services: {}, stores: {},
      datastores: { shop: { engine: 'postgres', database: 'shop', admin: { username: 'x', password: 'env:X' }, nodes: { a: { host: 'a', dataDirectory: '/d' }, b: { host: 'b', dataDirectory: '/e' } }, controller } },
    }));
  const both = { a: { api: 'http://a:8008' }, b: { api: 'https://b:8008' } };

  it('is taken with a Patroni for every node', () => {
    expect(config({ type: 'patroni', members: both, username: 'u', password: 'env:P' })).toEqual([]);
    expect(config({ type: 'none' })).toEqual([]);
  });

  it.each([
    ['a node without one', { type: 'patroni', members: { a: both.a }, username: 'u', password: 'env:P' }, /Patroni of node "b" is missing/],
    ['one of no node', { type: 'patroni', members: { ...both, c: both.a }, username: 'u', password: 'env:P' }, /no node of this name/],
    ['a password in the address', { type: 'patroni', members: { ...both, a: { api: 'http://u:p@a:8008' } }, username: 'u', password: 'env:P' }, /a password does not belong into the address/],
    ['half a login', { type: 'patroni', members: both, username: 'u' }, /username and password belong together/],
    ['a certificate without its key', { type: 'patroni', members: both, username: 'u', password: 'env:P', certificate: '/c.pem' }, /certificate and key belong together/],
  ])('is refused with %s', (_, controller, message) => {
    const errors = config(controller).filter((issue) => issue.level === 'error');
    expect(errors).toHaveLength(1);
    expect(errors[0]!.message).toMatch(message);
    expect(JSON.stringify(errors)).not.toContain('u:p@');
  });
});
