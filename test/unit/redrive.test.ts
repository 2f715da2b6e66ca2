import { expect, it } from 'vitest';
import { addToReport, beginRedrive, leftBehind, takeOver, type RedriveReport } from '../../src/model/redrive.ts';

const message = (id: string, more: Partial<Parameters<typeof leftBehind>[1]> = {}) => ({ id, sentAtMs: 500, source: null, target: 'arn:queue', fifo: false, nowMs: 2000, ...more });

it('counts a message once it is sent and deleted, in whatever pieces that is heard', () => {
  let report = addToReport(beginRedrive(1000), { sending: ['a', 'b', 'c'] });
  report = addToReport(report, { sending: [], sent: ['a', 'b'], refused: ['c: too large'] });
  expect(report).toMatchObject({ moved: 0, sending: [], sent: ['a', 'b'] });
  report = addToReport(report, { deleted: ['b'] });
  expect(report).toMatchObject({ moved: 1, sent: ['a'] });
  // What was deleted and never sent is not counted.
  expect(addToReport(report, { deleted: ['c', 'a'] })).toMatchObject({ moved: 2, sent: [] });
});

it('whatever moment a worker is lost at, each message is known: sent, in doubt, or untouched', () => {
  const moments: RedriveReport[] = [beginRedrive(1000)];
  moments.push(addToReport(moments[0]!, { sending: ['a', 'b'] }));
  moments.push(addToReport(moments[1]!, { sending: [], sent: ['a', 'b'] }));
  moments.push(addToReport(moments[2]!, { deleted: ['a'] }));
  const known = moments.map((moment) => {
    const next = takeOver(JSON.parse(JSON.stringify(moment)))!;
    return ['a', 'b', 'c'].map((id) => (next.sent.includes(id) ? 'delete' : (leftBehind(next, message(id)) ?? 'move')));
  });
  expect(known).toEqual([['move', 'move', 'move'], ['in doubt', 'in doubt', 'move'], ['delete', 'delete', 'move'], ['move', 'delete', 'move']]);
  expect(takeOver(null)).toBeNull();
  expect(takeOver({ changeId: 'x' })).toBeNull();
});

it('a FIFO queue takes what is in doubt again while it knows the message, and not later', () => {
  const lost = takeOver(addToReport(addToReport(beginRedrive(0), { atMs: 10_000 }), { sending: ['a'] }))!;
  expect(leftBehind(lost, message('a', { sentAtMs: -1, fifo: true, nowMs: 200_000 }))).toBeNull();
  expect(leftBehind(lost, message('a', { sentAtMs: -1, fifo: true, nowMs: 260_000 }))).toBe('in doubt');
  expect(leftBehind(lost, message('a', { sentAtMs: -1, nowMs: 11_000 }))).toBe('in doubt');
});

it('leaves what came since, and what is of another queue', () => {
  const report = beginRedrive(1000);
  expect(leftBehind(report, message('a', { sentAtMs: 1001 }))).toBe('sent since this began');
  expect(leftBehind(report, message('a', { source: 'arn:other' }))).toBe('of another queue');
  expect(leftBehind(report, message('a', { source: 'arn:queue' }))).toBeNull();
});

it('stays small', () => {
  let report = beginRedrive(0);
  for (let batch = 0; batch < 10_000; batch += 1) {
    const ids = Array.from({ length: 10 }, (_, index) => `00000000-0000-0000-0000-${batch}-${index}`);
    report = addToReport(addToReport(addToReport(report, { sending: ids }), { sending: [], sent: ids, refused: ['x: y'] }), { deleted: ids, left: 'of another queue' });
  }
  expect(report.moved).toBe(100_000);
  expect(JSON.stringify(report).length).toBeLessThan(1000);
});
