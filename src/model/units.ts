import { z } from 'zod';

export const DURATION_PATTERN = /^(\d+(\.\d+)?(ms|s|m|h|d|w))+$/;
export const SIZE_PATTERN = /^\d+(\.\d+)?\s?(B|kB|MB|GB|KiB|MiB|GiB)$/;
const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};
const SIZE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1000,
  MB: 1000 ** 2,
  GB: 1000 ** 3,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
};

/** Milliseconds of `15m`, `1h30m`, `250ms`; undefined when it is no duration. */
export function parseDurationMs(text: string): number | undefined {
  if (!DURATION_PATTERN.test(text)) return undefined;
  let total = 0;
  for (const [, number, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d|w)/g)) {
    total += Number(number) * DURATION_UNITS[unit as string]!;
  }
  return Math.round(total);
}

/** Bytes of `8MiB`, `100MB`, `512B`; undefined when it is no size. */
export function parseSizeBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s?(B|kB|MB|GB|KiB|MiB|GiB)$/.exec(text);
  return match === null ? undefined : Math.round(Number(match[1]) * SIZE_UNITS[match[2] as string]!);
}

/** `1h 02m 03s`, `4.25 s`, `180 ms`. */
export function formatDuration(ms: number): string {
  if (ms < 0) return `-${formatDuration(-ms)}`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(2)} s`;
  const totalSeconds = Math.round(ms / 1000);
  const days = Math.floor(totalSeconds / 86_400);
  const hours = Math.floor((totalSeconds % 86_400) / 3600);
  const minutes = Math.floor((totalSeconds % 3600) / 60);
  const seconds = totalSeconds % 60;
  if (days > 0) return `${days}d ${pad(hours)}h`;
  if (hours > 0) return `${hours}h ${pad(minutes)}m`;
  return `${minutes}m ${pad(seconds)}s`;
}

/** `1.17 GB`, `12.3 MB`: decimal units, as storage is billed. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  for (const [unit, size] of [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]] as const) {
    if (bytes >= size) return `${(bytes / size).toFixed(bytes / size >= 100 ? 0 : bytes / size >= 10 ? 1 : 2)} ${unit}`;
  }
  return `${bytes} B`;
}

function pad(value: number): string {
  return String(value).padStart(2, '0');
}

/** A duration in a document: text such as `15m`; the value is milliseconds. */
export const durationMs = z
  .string()
  .regex(DURATION_PATTERN, 'expected a duration such as 30s, 15m, 1h30m, 7d')
  .meta({ description: 'A duration: digits and a unit, ms, s, m, h, d or w; may be combined (1h30m).' })
  .transform((text) => parseDurationMs(text) ?? 0);

/** A size in a document: text such as `8MiB`; the value is bytes. */
export const sizeBytes = z
  .string()
  .regex(SIZE_PATTERN, 'expected a size such as 8MiB, 100MB, 1GB')
  .meta({ description: 'A size: digits and a unit, B, kB, MB, GB, KiB, MiB or GiB.' })
  .transform((text) => parseSizeBytes(text) ?? 0);
