import { describe, expect, test } from 'vitest';
import { checksOn, judgeCheck, servicesOf, strictestObjectives } from '../../src/model/proof-check.ts';
import type { ServiceConfig, ServiceCheck } from '../../src/model/config-schema.ts';

describe('the answer of a check', () => {
  const cases: [string, ServiceCheck['expect'], unknown[][], boolean, string][] = [
    ['no row', {}, [], false, 'no row'],
    ['no row although a number is asked for', { atLeast: 0 }, [], false, 'no row'],
    ['a row', {}, [[0]], true, '0'],
    ['true', {}, [[true]], true, 'true'],
    ['false', {}, [[false]], false, 'false'],
    ['null', {}, [[null]], false, 'null'],
    ['null is not zero', { atMost: 5 }, [[null]], false, 'null'],
    ['a count as text', { atLeast: 10 }, [['10']], true, '10'],
    ['a count too low', { atLeast: 10 }, [['9']], false, '9'],
    ['a count beyond 2^53', { atLeast: 10 }, [['9007199254740993']], true, '9007199254740993'],
    ['a decimal too high', { atMost: 1.5 }, [['1.51']], false, '1.51'],
    ['both limits', { atLeast: 1, atMost: 3 }, [['2']], true, '2'],
    ['text where a number is asked for', { atLeast: 0 }, [['many']], false, 'many'],
    ['an empty text is no zero', { equals: 0 }, [['']], false, ''],
    ['an equal number as text', { equals: 5 }, [['5.0']], true, '5.0'],
    ['an equal text', { equals: 'on' }, [['on']], true, 'on'],
    ['another text', { equals: 'on' }, [['off']], false, 'off'],
    ['an equal boolean', { equals: false }, [[false]], true, 'false'],
    ['a text is no boolean', { equals: true }, [['true']], false, 'true'],
    ['only the first value counts', { equals: 1 }, [[1, 2], [3, 4]], true, '1'],
  ];
  test.each(cases)('%s', (_name, expected, rows, ok, found) => {
    expect(judgeCheck({ name: 'x', expect: expected }, rows)).toMatchObject({ ok, found });
  });
  test('says what was expected, and shortens what was found', () => {
    const result = judgeCheck({ name: 'x', expect: { atLeast: 1, atMost: 3 } }, [['y'.repeat(1000)]]);
    expect(result.expected).toBe('at least 1 and at most 3');
    expect(result.found).toHaveLength(203);
  });
});

function service(rto: number, rpo: number, datastores: string[], checks: { name: string; datastore?: string }[] = []): ServiceConfig {
  return { objectives: { rto, rpo }, datastores, checks: checks.map((check) => ({ sql: 'select 1', expect: {}, ...check })) } as unknown as ServiceConfig;
}

test('of several services on a datastore each objective is the strictest; without any there is none', () => {
  const services = { a: service(100, 9, ['x']), b: service(50, 20, ['x', 'y']), c: service(1, 1, ['y']) };
  expect(servicesOf(services, 'x', undefined)).toEqual(['a', 'b']);
  expect(servicesOf(services, 'x', 'b')).toEqual(['b']);
  expect(strictestObjectives([services.a, services.b])).toEqual({ rtoMs: 50, rpoMs: 9 });
  expect(strictestObjectives([])).toBeNull();
});

test("a check without a datastore is about the service's first one", () => {
  const one = service(1, 1, ['x', 'y'], [{ name: 'first' }, { name: 'second', datastore: 'y' }]);
  expect(checksOn(one, 'x').map((check) => check.name)).toEqual(['first']);
  expect(checksOn(one, 'y').map((check) => check.name)).toEqual(['second']);
});
