import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cronGaps, parseCron } from '../../src/model/schedule.ts';

const HOUR_MS = 3_600_000;

function cronOf(text: string) {
  const parsed = parseCron(text);
  if ('problem' in parsed) throw new Error(parsed.problem);
  return parsed.cron;
}

function problemOf(text: string): string {
  const parsed = parseCron(text);
  return 'problem' in parsed ? parsed.problem : '';
}

describe('cron', () => {
  it('reads lists, ranges, steps and names as Temporal does', () => {
    expect(cronOf('*/20 8-10,23 1 jan,Febr MON-fri')).toEqual({ minutes: [0, 20, 40], hours: [8, 9, 10, 23], daysOfMonth: [1], months: [1, 2], daysOfWeek: [1, 2, 3, 4, 5], bothDays: true });
    // x/y runs to the end of the field; 7 is Sunday too.
    expect(cronOf('50/5 1-9/4 * * 0,7')).toMatchObject({ minutes: [50, 55], hours: [1, 5, 9], daysOfWeek: [0], bothDays: false });
  });

  it.each([
    ['0 25 * * *', /hour: 25 is not within 0-23/], ['60 * * * *', /minute: 60/], ['0 0 0 * *', /day of month: 0/], ['0 0 * 13 *', /month: 13/], ['0 0 * * 8', /day of week: 8/],
    ['0 0 * * mondya', /"mondya" is no day of week; did you mean "mon"/], ['* * * *', /it has 4 fields; five/], ['* * * * * *', /it has 6 fields/], ['', /it has no fields/], ['@daily', /shorthands/],
    ['*/0 * * * *', /steps by 0/], ['10-5 * * * *', /ends before it begins/], ['a-b-c * * * *', /is none of/], ['*-5 * * * *', /is none of/], ['1,,2 * * * *', /is none of/],
  ])('refuses "%s" in words', (text, problem) => {
    expect(problemOf(text)).toMatch(problem);
  });

  it.each([
    ['0 3 * * *', 24, 24], ['0 * * * *', 1, 1], ['0 3 * * 1-5', 24, 72], ['0 3 1 * *', 28 * 24, 31 * 24], ['0 3,4 * * *', 1, 23], ['0 0 29 2 *', 1461 * 24, 1461 * 24], ['0 0 1 1 *', 365 * 24, 366 * 24],
  ])('runs of "%s" are %d to %d hours apart', (text, shortest, longest) => {
    expect(cronGaps(cronOf(text))).toEqual({ shortestMs: shortest * HOUR_MS, longestMs: longest * HOUR_MS });
  });

  it('knows days that never come', () => {
    expect(cronGaps(cronOf('0 0 31 feb,apr *'))).toBeUndefined();
  });

  it('never fails, whatever the text', () => {
    fc.assert(fc.property(fc.oneof(fc.string({ maxLength: 40 }), fc.stringMatching(/^[0-9*,/a-f -]{0,24}$/)), (text) => {
      const parsed = parseCron(text);
      expect('cron' in parsed || parsed.problem.length > 0).toBe(true);
    }));
  });
});
