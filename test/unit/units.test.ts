import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { durationMs, formatBytes, formatDuration, parseDurationMs, parseSizeBytes, sizeBytes } from '../../src/model/units.ts';

describe('durations', () => {
  it.each([['30s', 30_000], ['15m', 900_000], ['1h30m', 5_400_000], ['250ms', 250], ['7d', 604_800_000], ['2w', 1_209_600_000], ['1.5h', 5_400_000], ['0s', 0]])('%s is %i ms', (text, ms) => {
    expect(parseDurationMs(text)).toBe(ms);
    expect(durationMs.parse(text)).toBe(ms);
  });

  it.each(['', '15', '5 minutes', '1h 30m', '-5m', 'm', '1y', '5M', '٣s', '1e3s'])('"%s" is none, and the schema says what one is', (text) => {
    expect(parseDurationMs(text)).toBeUndefined();
    expect(durationMs.safeParse(text).error?.issues[0]?.message).toMatch(/30s, 15m, 1h30m, 7d/);
  });

  it('adds up whatever is combined', () => {
    fc.assert(
      fc.property(fc.nat(99), fc.nat(23), fc.nat(59), fc.nat(59), (d, h, m, s) => {
        expect(parseDurationMs(`${d}d${h}h${m}m${s}s`)).toBe((((d * 24 + h) * 60 + m) * 60 + s) * 1000);
      }),
    );
  });

  it.each([[0, '0 ms'], [180, '180 ms'], [999.6, '1000 ms'], [4250, '4.25 s'], [61_000, '1m 01s'], [3_723_000, '1h 02m'], [90_000_000, '1d 01h'], [-4250, '-4.25 s']])('%d ms is shown as %s', (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });
});

describe('sizes', () => {
  it.each([['8MiB', 8_388_608], ['100MB', 100_000_000], ['512B', 512], ['1.5 GB', 1_500_000_000], ['2KiB', 2048]])('%s is %i bytes', (text, bytes) => {
    expect(parseSizeBytes(text)).toBe(bytes);
    expect(sizeBytes.parse(text)).toBe(bytes);
  });

  it.each(['', '8', '8mb', 'MiB', '-1B', '1TB  x'])('"%s" is none', (text) => {
    expect(sizeBytes.safeParse(text).success).toBe(false);
  });

  it.each([[0, '0 B'], [999, '999 B'], [1170, '1.17 kB'], [12_300_000, '12.3 MB'], [1_170_000_000, '1.17 GB'], [250_000_000_000, '250 GB']])('%d is shown as %s', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });
});
