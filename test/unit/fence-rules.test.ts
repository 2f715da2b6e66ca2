import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { conninfoValue, formatConninfo, parseConninfo, redirectConninfo, settingValue } from '../../src/model/postgres-conninfo.ts';
import { fenceEpoch, fenceWhole, withFence, withoutFence } from '../../src/model/fence-text.ts';
import { refuseStale } from '../../src/systems/postgres-fence.ts';

const RULES = 'local all all peer\nhost all all 0.0.0.0/0 scram-sha-256\nhost replication all all md5\n';
const fence = (hba: string, epoch = 7): string => withFence(hba, { admin: 'holdfast', epoch, execution: 'failover/orders' });
const without = (text: string, line: RegExp): string => text.split('\n').filter((item) => !line.test(item)).join('\n');

describe('the rules of the fence', () => {
  it('come first, name their epoch, and leave nothing behind', () => {
    const fenced = fence(RULES);
    expect(fenced.startsWith('# BEGIN HOLDFAST FENCE epoch=7')).toBe(true);
    expect(fenceEpoch(fenced)).toBe(7);
    expect(fenceWhole(fenced, 'holdfast')).toBe(true);
    expect(withoutFence(fenced)).toBe(RULES);
    expect(withoutFence(fence(fence(RULES), 8))).toBe(RULES);
    expect(fenceEpoch(fence(fence(RULES), 8))).toBe(8);
  });

  it.each([['BEGIN', /^# BEGIN/], ['END', /^# END/], ['both', /^# (BEGIN|END)/], ['a rule', /^host all all all reject/]])('a block that lost %s takes nobody else’s rules along', (_what, line) => {
    expect(withoutFence(without(fence(RULES), line))).toBe(RULES);
  });

  it('a fence of the version before, without marks, is taken away too', () => {
    const old = fence(RULES).replaceAll(' # holdfast fence', '');
    expect(fenceWhole(old, 'holdfast')).toBe(true);
    expect(withoutFence(old)).toBe(RULES);
    expect(withoutFence(without(old, /^# END/))).toBe(RULES);
  });

  it.each([
    ['a rule above it', (text: string) => `host all shop_app all trust\n${text}`],
    ['a rule within it', (text: string) => text.replace('local all all reject', 'host all shop_app all trust\nlocal all all reject')],
    ['a rule of it removed', (text: string) => without(text, /^host all all all reject/)],
    ['a rule of it commented out', (text: string) => text.replace('host all all all reject', '# host all all all reject')],
    ['another administrator in it', (text: string) => text.replaceAll('"holdfast"', '"shop_app"')],
    ['no rules at all', () => ''],
  ])('is not whole with %s', (_what, change) => {
    expect(fenceWhole(change(fence(RULES)), 'holdfast')).toBe(false);
  });

  it('an older epoch has no say', () => {
    const where = { host: 'h', port: 1 };
    expect(() => refuseStale(fence(RULES, 9), 8, where)).toThrow(/epoch 9, which is later than ours \(8\)/);
    refuseStale(fence(RULES, 9), 9, where);
    refuseStale(fence(RULES, 9), 10, where);
    refuseStale(RULES, 1, where);
  });

  it('whatever the rules are, they come back as they were', () => {
    const line = fc.string({ unit: fc.constantFrom('a', ' ', '"', '#', '\\', 'host', 'all', 'reject', '\t') });
    fc.assert(fc.property(fc.array(line), fc.string({ minLength: 1 }).filter((name) => !/[\n\r]/.test(name)), (lines, admin) => {
      const hba = lines.join('\n');
      expect(withoutFence(withFence(hba, { admin, epoch: 3, execution: 'x' }))).toBe(withoutFence(hba));
    }));
  });
});

describe('a connection string', () => {
  it.each([
    ["host=a port=5433 user=rep passfile='/x y/p' application_name=c", { host: 'a', port: '5433', user: 'rep', passfile: '/x y/p', application_name: 'c' }],
    ["user = 'o\\'neil' password='a\\\\b'", { user: "o'neil", password: 'a\\b' }],
    ['postgresql://rep:p%40ss@db-a:5433/postgres?application_name=c', { host: 'db-a', port: '5433', user: 'rep', password: 'p@ss', dbname: 'postgres', application_name: 'c' }],
    ['', {}],
  ])('%s is read', (text, expected) => {
    expect(Object.fromEntries(parseConninfo(text)!)).toEqual(expected);
  });

  it.each(['host', "host='a", 'postgresql://a:1,b:2/x y', '= x'])('%s is not guessed at', (text) => {
    expect(parseConninfo(text)).toBeNull();
  });

  it('goes to another address with the same login', () => {
    const moved = redirectConninfo(parseConninfo("host=a hostaddr=10.0.0.1 port=1 user=rep password='x y'")!, 'b', 5444);
    expect(formatConninfo(moved)).toBe("host=b port=5444 user=rep password='x y'");
  });

  it('is written so that it reads the same', () => {
    fc.assert(fc.property(fc.dictionary(fc.stringMatching(/^[a-z_]{1,8}$/), fc.string({ minLength: 1 })), (values) => {
      expect(Object.fromEntries(parseConninfo(formatConninfo(new Map(Object.entries(values))))!)).toEqual({ ...values });
    }));
  });
});

it('a connection string in postgresql.conf is what it was, quotes and backslashes and all', () => {
  // As GUC_scanstr reads it: '' is a quote, a backslash takes the next character as it is.
  const read = (text: string): string => {
    expect(text).toMatch(/^'([^'\\\n]|\\.|'')*'$/);
    return text.slice(1, -1).replaceAll(/\\(.)|''/g, (_, escaped: string | undefined) => escaped ?? "'");
  };
  for (const user of ['replicator', 'DOM\\user', "o'brien", "it's \\ here"]) {
    const text = `host=a user=${conninfoValue(user)}`;
    expect(parseConninfo(read(settingValue(text)))).toEqual(new Map([['host', 'a'], ['user', user]]));
  }
});
