import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { configOf, type ConfigSurroundings } from '../../src/model/config.ts';
import { nearest, parseDocument } from '../../src/model/document.ts';
import { ConfigError, type Finding } from '../../src/model/errors.ts';
import { runbookSchema } from '../../src/model/runbook-schema.ts';
import { secretShape } from '../../src/model/secret-shape.ts';
import { loadConfig } from '../../src/systems/config-file.ts';
import { postgresOf } from '../../src/systems/context.ts';

const GOOD = `version: 1
stores:
  main: {type: folder, path: ./backups}
datastores:
  orders-db:
    engine: postgres
    database: orders
    store: main
    admin: {username: holdfast, password: "env:PASSWORD"}
    nodes:
      a: {host: db-a, dataDirectory: /data/a}
      b: {host: db-b, dataDirectory: /data/b}
    endpoint: {secret: orders/database}
    retention: {daily: 7}
services:
  orders:
    objectives: {rto: 15m, rpo: 1h}
    datastores: [orders-db]
`;

function findings(text: string, surroundings: ConfigSurroundings = {}): Finding[] {
  return configOf(parseDocument('holdfast.yaml', text), surroundings).findings;
}

/** The only finding that an edit of the good file causes. */
function onlyFinding(edit: (text: string) => string, surroundings?: ConfigSurroundings): Finding {
  const text = edit(GOOD);
  expect(text).not.toBe(GOOD);
  const found = findings(text, surroundings);
  expect(found).toHaveLength(1);
  return found[0]!;
}

function replace(from: string, to: string): (text: string) => string {
  return (text) => text.replace(from, () => to);
}

function append(more: string): (text: string) => string {
  return (text) => text + more;
}

const SCHEDULES = 'notify:\n  team: {type: slack, url: "env:HOOK"}\nschedules:\n  backup: {run: backup, datastore: orders-db, every: 1h}\n  drill: {run: restoreDrill, datastore: orders-db, every: 7d}\n';

describe('parse', () => {
  it('takes the good file without a finding, defaults and units filled in', () => {
    const { config, findings: found } = configOf(parseDocument('holdfast.yaml', GOOD));
    expect(found).toEqual([]);
    expect(config?.services['orders']?.objectives).toEqual({ rto: 900_000, rpo: 3_600_000, lostWrites: 0 });
    expect(postgresOf(config!, 'orders-db').nodes['a']?.port).toBe(5432);
  });

  it.each([
    ['a key that stands twice', GOOD.replace('    database: orders\n', '    database: orders\n    database: other\n'), 8, /stands twice/],
    ['a tab', GOOD.replace('    database', '\tdatabase'), 7, /./],
    ['an open quote', GOOD.replace('database: orders', 'database: "orders'), 7, /./],
    ['two documents', `${GOOD}---\nversion: 1\n`, 19, /more than one document/],
    ['an alias without an anchor', GOOD.replace('database: orders', 'database: *orders'), 7, /alias/],
    ['a tag', GOOD.replace('database: orders', 'database: !secret orders'), 7, /tags/],
  ])('says the line of %s', (_, text, line, message) => {
    const [first] = findings(text);
    expect(first).toMatchObject({ level: 'error', file: 'holdfast.yaml' });
    expect(first!.message).toMatch(message);
    // A structural error may show where the structure breaks, at the earliest on its own line.
    expect(first!.line).toBeGreaterThanOrEqual(line);
  });

  it.each([['empty', ''], ['a comment', '# nothing\n'], ['a text', 'hello'], ['a list', '- 1\n- 2\n'], ['a number', '7']])('refuses a file that is %s', (_, text) => {
    const found = findings(text);
    expect(found).not.toEqual([]);
    expect(found[0]).toMatchObject({ level: 'error', path: '(document)' });
    expect(found[0]!.allowed).toMatch(/a mapping with the keys version, /);
  });

  it('bounds aliases that multiply, nesting, size and aliases in themselves', () => {
    const laughs = ['a: &a0 [x, x, x, x, x, x, x, x, x, x]', ...Array.from({ length: 9 }, (_, n) => `b${n}: &a${n + 1} [${Array.from({ length: 10 }, () => `*a${n}`).join(', ')}]`)].join('\n');
    for (const text of [laughs, `a: ${'['.repeat(20_000)}`, `a: ${'['.repeat(300)}${']'.repeat(300)}`, 'a: &a [*a, *a]', 'a: &a {b: *a}', `a: ${'x'.repeat(1_000_001)}`]) {
      const found = findings(text);
      expect(found.some((finding) => finding.level === 'error')).toBe(true);
      expect(found.map((finding) => finding.message).join()).toMatch(/alias|nested|characters|parts|not belong|missing/);
    }
  });

  it('refuses names that mean something to JavaScript', () => {
    for (const name of ['__proto__', 'constructor', 'prototype']) {
      const found = findings(GOOD.replace('  main: {type', `  ${name}: {type: folder, path: x}\n  main: {type`));
      expect(found).toContainEqual(expect.objectContaining({ level: 'error', line: 3, message: `the name "${name}" is reserved and cannot be used` }));
    }
    expect(({} as Record<string, unknown>)['type']).toBeUndefined();
  });
});

describe('shape', () => {
  it('names the nearest key and lists the allowed ones, on the line of the key', () => {
    expect(onlyFinding(replace('    database: orders\n', '    database: orders\n    databse: x\n'))).toMatchObject({
      line: 8, path: 'datastores.orders-db.databse', message: 'there is no key "databse" here; did you mean "database"?', allowed: expect.stringMatching(/^engine, database, store, /),
    });
  });

  it.each([
    ['a duration', replace('rto: 15m', 'rto: 15 minutes'), 17, 'services.orders.objectives.rto', '"15 minutes"', /30s, 15m, 1h30m, 7d/],
    ['a missing key', replace('rto: 15m, ', ''), 17, 'services.orders.objectives.rto', 'nothing', /duration/],
    ['a number out of range', replace('host: db-a', 'host: db-a, port: 99999'), 11, 'datastores.orders-db.nodes.a.port', '99999', /from 1 to 65535/],
    ['a kind', replace('type: folder', 'type: foldr'), 3, 'stores.main.type', '"foldr"', /s3, folder/],
    ['an engine', replace('engine: postgres', 'engine: mysql'), 6, 'datastores.orders-db.engine', '"mysql"', /postgres/],
    ['a name', replace('  orders:\n', '  Orders!:\n'), 16, 'services.(a name of 7 characters)', '(a name of 7 characters)', /lower-case/],
    ['an empty value', replace('{daily: 7}', ''), 14, 'datastores.orders-db.retention', 'null (an empty value)', /mapping with the keys last, /],
    ['a list for a text', replace('database: orders', 'database: [orders]'), 7, 'datastores.orders-db.database', 'a list of 1', /a text/],
    ['another version', replace('version: 1', 'version: 2'), 1, 'version', '2', /1/],
    ['no datastore at all', replace('datastores: [orders-db]', 'datastores: []'), 18, 'services.orders.datastores', 'a list of 0', /list/],
  ])('says what is wrong with %s', (_, edit, line, path, found, allowed) => {
    const finding = onlyFinding(edit);
    expect(finding).toMatchObject({ level: 'error', line, path, found });
    expect(finding.allowed).toMatch(allowed);
  });

  it('takes one question a check, in the words of its engine, which only reads what was restored', () => {
    const carts = (check: string): string => `${GOOD}  carts:\n    objectives: {rto: 1h, rpo: 1d}\n    datastores: [carts-db]\n    checks:\n      - {name: c, ${check}}\n`.replace('datastores:\n', 'datastores:\n  carts-db: {engine: dynamodb, tables: [carts], store: main}\n');
    const problems = (check: string): string[] => findings(carts(check)).filter(({ level }) => level === 'error').map(({ message }) => message);
    expect(problems(`dynamodb: {table: carts, statement: 'SELECT id FROM "{table}" WHERE id = 1'}`)).toEqual([]);
    for (const statement of ['SELECT id FROM "carts"', 'DELETE FROM "{table}" WHERE id = 1', 'UPDATE "carts" SET a = 1', 'SELECT id FROM "carts" WHERE note = \'"{table}"\'']) expect(problems(`dynamodb: {table: carts, statement: ${JSON.stringify(statement)}}`)).toEqual(['a check only reads, and only what was restored']);
    expect(problems('sql: SELECT 1')).toEqual(['the datastore is of engine dynamodb']);
    expect(problems(`sql: SELECT 1, dynamodb: {table: carts, statement: 'SELECT id FROM "{table}"'}`)).toEqual(['a check asks one thing']);
    expect(problems('expect: {equals: 1}')).toEqual(['a check asks one thing']);
  });

  it('reports shape, references and rules of all parts at once', () => {
    const text = GOOD.replace('rto: 15m', 'rto: soon').replace('store: main', 'store: mian').replace('password: "env:PASSWORD"', 'password: hunter2') +
      'schedules:\n  n: {run: backup, datastore: ordersdb, cron: "61 * * * *"}\n  r: {run: readiness, service: oders, every: 1h}\n';
    const paths = findings(text).filter((finding) => finding.level === 'error').map((finding) => finding.path);
    expect(paths).toEqual(['datastores.orders-db.store', 'datastores.orders-db.admin.password', 'services.orders.objectives.rto', 'schedules.n.cron', 'schedules.n.datastore', 'schedules.r.service']);
  });
});

describe('rules', () => {
  it.each([
    ['a store', replace('store: main', 'store: mian'), 'datastores.orders-db.store', /did you mean "main"/, '"mian"'],
    ['a datastore', replace('[orders-db]', '[order-db]'), 'services.orders.datastores[0]', /did you mean "orders-db"/, '"order-db"'],
    ['an evidence store', append('evidence: {store: nowhere}\n'), 'evidence.store', /no store of this name/, '"nowhere"'],
    ['a reserved name that exists on every object', replace('store: main', 'store: valueof'), 'datastores.orders-db.store', /no store/, '"valueof"'],
    ['no nodes', replace('    nodes:\n      a: {host: db-a, dataDirectory: /data/a}\n      b: {host: db-b, dataDirectory: /data/b}\n', '    nodes: {}\n'), 'datastores.orders-db.nodes', /at least one node/, 'none'],
    ['two nodes at one address', replace('host: db-b', 'host: db-a'), 'datastores.orders-db.nodes.b', /same address/, 'db-a:5432'],
    ['two nodes that applications reach by one address', replace('{host: db-b,', '{host: db-b, applicationHost: db-a,'), 'datastores.orders-db.nodes.b.applicationHost', /which is the primary/, 'db-a:5432'],
    ['two nodes with the same files', replace('/data/b', '/data/a/'), 'datastores.orders-db.nodes.b.dataDirectory', /would hit the other/, '/data/a/'],
    ['an empty policy', replace('{daily: 7}', '{minVerified: 2}'), 'datastores.orders-db.retention', /keeps nothing/, undefined],
    ['a time zone', replace('{daily: 7}', '{daily: 7, timezone: Asia/Seul}'), 'datastores.orders-db.retention.timezone', /unknown/, '"Asia/Seul"'],
    ['a check that writes', append('    checks: [{name: x, sql: DELETE FROM orders}]\n'), 'services.orders.checks[0].sql', /only reads/, '"DELETE"'],
    ['bounds that exclude each other', append('    checks: [{name: x, sql: SELECT 1, expect: {atLeast: 5, atMost: 2}}]\n'), 'services.orders.checks[0].expect', /no value/, '5 and 2'],
    ['part sizes S3 refuses', replace('{type: folder, path: ./backups}', '{type: s3, bucket: b, partSize: 1MiB}'), 'stores.main.partSize', /does not take/, '1048576 bytes'],
    ['AWS credentials from AWS', append('aws: {credentials: {accessKeyId: "aws-sm:x#y", secretAccessKey: "env:X"}}\n'), 'aws.credentials.accessKeyId', /cannot come from/, undefined],
  ])('finds %s', (_, edit, path, message, found) => {
    const finding = onlyFinding(edit);
    expect(finding).toMatchObject({ level: 'error', path });
    expect(finding.message).toMatch(message);
    expect(finding.found).toBe(found);
    expect(finding.line).toBeGreaterThan(0);
  });

  it.each([
    ['neither cron nor every', '{run: readiness, service: orders}', 'schedules.x', /never runs/],
    ['both', '{run: readiness, service: orders, every: 1h, cron: "0 * * * *"}', 'schedules.x.every', /exclude/],
    ['a wrong cron', '{run: readiness, service: orders, cron: "0 24 * * *"}', 'schedules.x.cron', /hour: 24/],
    ['a day that never comes', '{run: readiness, service: orders, cron: "0 0 30 2 *"}', 'schedules.x.cron', /never runs/],
    ['a time zone', '{run: readiness, service: orders, every: 1h, timezone: Nowhere/Land}', 'schedules.x.timezone', /unknown/],
    ['jitter as long as the interval', '{run: readiness, service: orders, cron: "*/15 * * * *", jitter: 15m}', 'schedules.x.jitter', /smaller/],
    ['no interval', '{run: readiness, service: orders, every: 0s}', 'schedules.x.every', /too short/],
    ['a service', '{run: readiness, service: order, every: 1h}', 'schedules.x.service', /did you mean "orders"/],
    ['drills that are always overdue', '{run: restoreDrill, datastore: orders-db, every: 60d}', 'schedules.x', /overdue/],
  ])('finds schedules with %s', (_, schedule, path, message) => {
    const finding = onlyFinding(append(`${SCHEDULES}  x: ${schedule}\n`));
    expect(finding).toMatchObject({ level: 'error', path, line: 24 });
    expect(finding.message).toMatch(message);
  });

  it('finds schedules of backups that cannot be', () => {
    const text = `${GOOD.replace('    store: main\n', '').replace('    retention: {daily: 7}\n', '')}${SCHEDULES}  clean: {run: retention, datastore: orders-db, every: 1d}\n`;
    expect(findings(text).map(({ path, message }) => `${path}: ${message}`)).toEqual([
      'schedules.backup.datastore: datastore "orders-db" has no store, so it has no backups',
      'schedules.drill.datastore: datastore "orders-db" has no store, so it has no backups',
      'schedules.clean.datastore: datastore "orders-db" has no store, so it has no backups',
      'schedules.clean.datastore: datastore "orders-db" has no retention policy',
    ]);
  });

  it('warns when nobody is told, nothing is backed up, nothing is drilled, or the RPO cannot be met', () => {
    const text = `${GOOD.replace('      b: {host: db-b, dataDirectory: /data/b}\n', '')}schedules:\n  x: {run: backup, datastore: orders-db, every: 6h}\n`;
    expect(findings(text).map(({ level, path }) => `${level} ${path}`).sort()).toEqual(['warning schedules', 'warning services.orders.datastores', 'warning services.orders.objectives.rpo']);
    expect(configOf(parseDocument('x', text)).config).toBeDefined();
  });

  it('checks runbooks by name and parameters', () => {
    const runbook = runbookSchema.parse({
      name: 'move', title: 't', summary: 's',
      parameters: { datastore: { type: 'string', description: 'which one', required: true }, wait: { type: 'duration', description: 'how long', default: '5s' } },
      steps: [{ id: 'a', title: 't', uses: 'operator.wait', narrative: 'n', with: { duration: '${parameters.wait}' } }],
    });
    const runbooks = new Map([['move', runbook]]);
    const service = (lines: string): string => `${GOOD}${lines}`;
    expect(findings(service('    runbooks: {failover: mvoe}\n'), { runbooks })).toMatchObject([{ path: 'services.orders.runbooks.failover', allowed: 'move', message: 'there is no runbook of this name; did you mean "move"?' }]);
    expect(findings(service('    runbooks: {failover: move}\n    parameters: {datastore: orders-db}\n'), { runbooks })).toEqual([]);
    expect(findings(service('    runbooks: {failover: move}\n    parameters: {datastore: 7, wiat: 5s}\n'), { runbooks }).map(({ level, path }) => `${level} ${path}`)).toEqual([
      'error services.orders.parameters.datastore', 'warning services.orders.parameters.wiat',
    ]);
    // The one datastore of a service need not be said; anything else that is required must be known before the night it is needed.
    expect(findings(service('    runbooks: {failover: move}\n'), { runbooks })).toEqual([]);
    const asking = new Map([['move', { ...runbook, parameters: { ...runbook.parameters, ticket: { type: 'string' as const, description: 'which ticket', required: true } } }]]);
    expect(findings(service('    runbooks: {failover: move}\n'), { runbooks: asking })).toMatchObject([{ level: 'warning', path: 'services.orders.runbooks.failover', message: expect.stringContaining('"ticket"') }]);
    expect(findings(service(`${SCHEDULES}  x: {run: runbook, runbook: move, every: 1d, parameters: {wait: soon}}\n`), { runbooks }).map(({ level, path }) => `${level} ${path}`)).toEqual([
      'error schedules.x.parameters', 'error schedules.x.parameters.wait',
    ]);
  });

  it('knows which Kubernetes clusters there are before a step asks for one', () => {
    const runbook = runbookSchema.parse({ name: 'restart', title: 't', summary: 's', steps: [{ id: 'rollout', title: 't', uses: 'kubernetes.rollout', narrative: 'n', with: { cluster: 'eu', workloads: ['deployment/web'] } }] });
    const messages = (kubernetes: string): string[] => findings(`${GOOD}    runbooks: {restart: restart}\n${kubernetes}`, { runbooks: new Map([['restart', runbook]]) }).map(({ level, message, allowed }) => `${level} ${message} (${allowed})`);
    expect(messages('kubernetes: {eu: {}}\n')).toEqual([]);
    expect(messages('kubernetes: {eus: {}}\n')).toEqual(['error runbook "restart", step "rollout": there is no kubernetes cluster of this name; did you mean "eus"? (eus)']);
    expect(messages('')).toEqual(['error runbook "restart", step "rollout": there is no kubernetes cluster of this name (none; add one under kubernetes)']);
  });

  it('looks through the steps with the service\'s own parameters: inputs, datastores, nodes', () => {
    const runbook = runbookSchema.parse({
      name: 'move', title: 't', summary: 's',
      parameters: { datastore: { type: 'string', description: 'which one' }, candidate: { type: 'string', description: 'whom' }, wait: { type: 'string', description: 'how long', default: '5s' } },
      steps: [
        { id: 'wait', title: 't', uses: 'operator.wait', narrative: 'n', with: { duration: '${parameters.wait}' } },
        { id: 'promote', title: 't', uses: 'postgres.promote', narrative: 'n', with: { datastore: '${parameters.datastore}', candidate: '${parameters.candidate}' } },
      ],
    });
    const messages = (parameters: string): string[] => findings(`${GOOD}    runbooks: {failover: move}\n    parameters: ${parameters}\n`, { runbooks: new Map([['move', runbook]]) }).map(({ level, message }) => `${level} ${message}`);
    expect(messages('{candidate: b}')).toEqual([]);
    expect(messages('{candidate: bb}')).toEqual(['error runbook "move", step "promote": datastore "orders-db" has no node of this name; did you mean "b"?']);
    expect(messages('{datastore: orderdb, candidate: b}')).toEqual(['error runbook "move", step "promote": there is no datastore of this name; did you mean "orders-db"?']);
    expect(messages('{wait: a while}')).toEqual(['error runbook "move", wait.with.duration: it has the wrong form']);
  });

  it('asks for a second node where a failover is planned', () => {
    const finding = onlyFinding((text) => `${text.replace('      b: {host: db-b, dataDirectory: /data/b}\n', '')}    runbooks: {failover: any}\n`);
    expect(finding).toMatchObject({ level: 'error', path: 'services.orders.runbooks.failover' });
  });
});

describe('secrets', () => {
  const SECRET = 'hunter2-very-secret';
  it.each([
    ['a password for a reference', replace('"env:PASSWORD"', SECRET)],
    ['a list for a password', replace('"env:PASSWORD"', `[${SECRET}]`)],
    ['a tagged text', replace('"env:PASSWORD"', `!${SECRET}`)],
    ['an alias', replace('"env:PASSWORD"', `*${SECRET}`)],
    ['an open quote', replace('"env:PASSWORD"', `"${SECRET}`)],
    ['a wrong escape', replace('"env:PASSWORD"', `"\\${SECRET}"`)],
    ['a colon', replace('"env:PASSWORD"', `${SECRET}: x: ${SECRET}`)],
    ['a password in a URL', append(`aws: {endpoint: "https://user:${SECRET}@host"}\n`)],
    ['a password in a command', replace('dataDirectory: /data/a', `exec: [sh, -c, "PGPASSWORD=${SECRET} psql"]`)],
    ['an age identity', replace('"env:PASSWORD"', `AGE-SECRET-KEY-1${SECRET}`)],
    ['a private key', append(`evidence:\n  signingKey: |\n    -----BEGIN PRIVATE KEY-----\n    ${SECRET}\n    -----END PRIVATE KEY-----\n`)],
    ['a webhook', append(`notify: {t: {type: slack, url: "https://hooks.slack.com/services/${SECRET}"}}\n`)],
    ['a password as a key', replace('password: "env:PASSWORD"', `password: "env:X", "${SECRET} with a blank": x`)],
    ['a block scalar header', replace('"env:PASSWORD"}', `"env:X"}\n    other: |${SECRET}`)],
  ])('never shows %s, and refuses the file', (_, edit) => {
    const found = findings(edit(GOOD));
    expect(found.some((finding) => finding.level === 'error')).toBe(true);
    expect(JSON.stringify(found)).not.toContain('hunter2');
    expect(new ConfigError(found).describe()).not.toContain('hunter2');
  });

  it.each(['aws-sm:orders/db#password', 'env:PASSWORD', 'file:/etc/password', 'postgres://user@host/db', 'https://host/path', '${PASSWORD}', 'PGPASSWORD=$PGPASSWORD', 'password=env:X', 'SELECT token FROM x'])('takes "%s" for no secret', (text) => {
    expect(secretShape(text)).toBeUndefined();
  });
});

describe('nearest', () => {
  it.each([['bukcet', 'bucket'], ['databse', 'database'], ['rpp', 'rpo'], ['zzz', undefined], ['', undefined]])('%s -> %s', (name, expected) => {
    expect(nearest(name, ['bucket', 'database', 'rpo', 'store'])).toBe(expected);
  });
});

describe('file', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'holdfast-config-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  it('resolves paths of this host against the folder of the file, and leaves those of nodes alone', async () => {
    const file = join(folder, 'holdfast.yaml');
    const text = GOOD.replace('"env:PASSWORD"', '"file:secrets/pw"').replace('/data/a}', 'data/a}') + 'evidence: {directory: proof, signingKey: "file:/keys/k"}\nworkDirectory: work\n';
    await writeFile(file, text);
    const { config, warnings } = await loadConfig(file);
    expect(warnings).toEqual([]);
    expect(config).toMatchObject({ workDirectory: join(folder, 'work'), evidence: { directory: join(folder, 'proof'), signingKey: 'file:/keys/k' }, stores: { main: { path: join(folder, 'backups') } } });
    expect(config.datastores['orders-db']).toMatchObject({ admin: { password: `file:${join(folder, 'secrets/pw')}` }, nodes: { a: { dataDirectory: 'data/a' } } });
  });

  it('throws one ConfigError with everything, and keeps the default of a missing file apart', async () => {
    const file = join(folder, 'holdfast.yaml');
    await writeFile(file, GOOD.replace('rto: 15m', 'rto: soon').replace('store: main', 'store: mian'));
    const error = await loadConfig(file).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).findings).toHaveLength(2);
    expect((error as ConfigError).describe()).toContain(`${file}:17 services.orders.objectives.rto`);
    await expect(loadConfig(join(folder, 'none.yaml'))).rejects.toMatchObject({ code: 'config-missing', next: expect.stringContaining('holdfast.example.yaml') });
    await expect(loadConfig(folder)).rejects.toMatchObject({ code: 'config-unreadable' });
  });

  it('refuses bytes that are no text', async () => {
    const file = join(folder, 'holdfast.yaml');
    await writeFile(file, Buffer.from([0x76, 0xff, 0xfe, 0x00]));
    await expect(loadConfig(file)).rejects.toBeInstanceOf(ConfigError);
    await writeFile(file, `\uFEFF${GOOD}`);
    expect((await loadConfig(file)).warnings).toEqual([]);
  });
});
