import { readFileSync } from 'node:fs';

/** Fields of /proc/PID/stat from the state on; undefined when it is gone. */
export function statFields(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/** Field 22 of /proc/PID/stat: tells a process from a later one with the same pid. */
export function processStart(pid: number): string | undefined {
  return statFields(pid)?.[19];
}
