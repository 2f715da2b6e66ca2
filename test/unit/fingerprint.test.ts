import { expect, test } from 'vitest';
import { settleArrayCasts, splitSchema } from '../../src/systems/postgres-fingerprint.ts';
import { checkSelection, patternToRegexes, selectionArguments } from '../../src/systems/postgres-selection.ts';

test.each([
  ['orders', ['^(orders)$']],
  ['Public.ORDERS', ['^(public)$', '^(orders)$']],
  ['"Mixed.Case"."T*?$"', ['^(Mixed\\.Case)$', '^(T\\*\\?\\$)$']],
  ['or?er*', ['^(or.er.*)$']],
  ['a|b', ['^(a|b)$']],
  ['"say ""x"""', ['^(say "x")$']],
])('pattern %s', (pattern, regexes) => {
  expect(patternToRegexes(pattern)).toEqual(regexes);
});

test('an include brings back the large objects and extensions that pg_dump would drop', () => {
  const none = { schemas: [], tables: [] };
  expect(selectionArguments({ include: { schemas: ['a'], tables: [] }, exclude: { ...none, tableData: [] } })).toEqual(['--schema=a', '--strict-names', '--blobs', '--extension=*']);
  expect(selectionArguments({ include: none, exclude: { schemas: [], tables: ['x'], tableData: ['y'] } })).toEqual(['--exclude-table=x', '--exclude-table-data=y']);
  expect(() => checkSelection({ include: { schemas: [], tables: ['x'] }, exclude: { schemas: ['y'], tables: [], tableData: [] } })).toThrow('pg_dump ignores schemas');
});

test('both spellings of a cast array are one', () => {
  const fresh = `CHECK (((s)::text = ANY ((ARRAY['a,b'::character varying, 'b''x]'::character varying])::text[])))`;
  const reread = `CHECK (((s)::text = ANY (ARRAY[('a,b'::character varying)::text, ('b''x]'::character varying)::text])))`;
  expect(settleArrayCasts(fresh)).toBe(reread);
  expect(settleArrayCasts(reread)).toBe(reread);
  expect(settleArrayCasts('(ARRAY[1, 2])')).toBe('(ARRAY[1, 2])');
  expect(settleArrayCasts("x (ARRAY[f(1, '(', 2), 3])::bigint[] y (ARRAY['unfinished")).toBe("x ARRAY[(f(1, '(', 2))::bigint, (3)::bigint] y (ARRAY['unfinished");
});

const header = (name: string, type: string, schema: string, owner = 'o'): string => `--\n-- Name: ${name}; Type: ${type}; Schema: ${schema}; Owner: ${owner}\n--\n\n`;

test('grants are a set, restrict tokens and versions are nothing, owners and bodies count', () => {
  const dump = (version: string, token: string, acl: string, owner = 'o'): string =>
    `--\n-- PostgreSQL database dump\n--\n\n\\restrict ${token}\n\n-- Dumped from database version ${version}\n\nSET x = 1;\n\n${header('t', 'TABLE', 'public', owner)}CREATE TABLE public.t (\n);\n\n${header('TABLE t', 'ACL', 'public')}${acl}\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict ${token}\n`;
  const one = splitSchema(dump('15.1', 'abc', 'GRANT SELECT ON t TO a;\nGRANT SELECT ON t TO b;'), 'd');
  expect(Object.keys(one.objects)).toEqual(['ACL public TABLE t', 'TABLE public t']);
  expect(splitSchema(dump('16.2', 'xyz', 'GRANT SELECT ON t TO b;\nGRANT SELECT ON t TO a;'), 'd')).toEqual(one);
  const lost = splitSchema(dump('15.1', 'abc', 'GRANT SELECT ON t TO a;'), 'd');
  expect(lost.objects['TABLE public t']).toBe(one.objects['TABLE public t']);
  expect(lost.objects['ACL public TABLE t']).not.toBe(one.objects['ACL public TABLE t']);
  expect(lost.sha256).not.toBe(one.sha256);
  expect(splitSchema(dump('15.1', 'abc', 'GRANT SELECT ON t TO a;', 'p'), 'd').objects['TABLE public t']).not.toBe(one.objects['TABLE public t']);
});

test('the database stands under a name of its own, whatever it is called', () => {
  const dump = (name: string): string =>
    `${header(name, 'DATABASE', '-')}CREATE DATABASE ${name} WITH TEMPLATE = template0;\n\n\nALTER DATABASE ${name} OWNER TO o;\n\n\\connect ${name}\n\nSET x = 1;\n\n${header(`DATABASE ${name}`, 'ACL', '-')}GRANT CONNECT ON DATABASE ${name} TO a;\n`;
  const one = splitSchema(dump('shop'), 'shop');
  expect(Object.keys(one.objects)).toEqual(['ACL - DATABASE <database>', 'DATABASE - <database>']);
  expect(splitSchema(dump('drill_1'), 'drill_1')).toEqual(one);
  expect(splitSchema(dump('shop').replace('TO a', 'TO b'), 'shop')).not.toEqual(one);
});

test('two objects of one name are both kept', () => {
  const { objects } = splitSchema(`${header('f(int)', 'FUNCTION', 'a')}one\n\n${header('f(int)', 'FUNCTION', 'a')}two\n`, 'd');
  expect(Object.keys(objects)).toEqual(['FUNCTION a f(int)', 'FUNCTION a f(int) #2']);
});
