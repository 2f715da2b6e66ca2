/** The end of a server as when its machine is gone, on its own host: SIGKILL to the postmaster and all its children at once. */
import { posix } from 'node:path';
import type { NodeConfig } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import { hostState, runOnNode } from './postgres-node.ts';

type Host = NodeConfig & { readonly dataDirectory: string };

const MARK = 'holdfast-chaos';
const WAIT_MS = 100;

export interface Killed {
  readonly atMs: number;
  readonly processes: number;
}

/** What an earlier attempt under this key did. The file is written before the kill: a server that runs all the same is started anew, or was never killed. */
export async function killedBefore(node: Host, key: string, signal: AbortSignal): Promise<Killed | null> {
  const answer = await runOnNode(node, ['cat', posix.join(node.dataDirectory, MARK)], { allowFailure: true, signal });
  const [atMs, processes, ...rest] = answer.stdout.trim().split(' ');
  return answer.code === 0 && rest.join(' ') === key && Number(atMs) > 0 ? { atMs: Number(atMs), processes: Number(processes) } : null;
}

/**
 * By a script on standard input, so that no shell on the way (ssh) touches it. The postmaster is stopped first: it starts no child
 * between the look at them and their end. What works in another data directory is never touched.
 */
export async function killServer(node: Host, key: string, signal: AbortSignal): Promise<Killed> {
  const quoted = `'${node.dataDirectory.replaceAll("'", `'\\''`)}'`;
  const script = `d=${quoted}
p="$(head -n 1 "$d/postmaster.pid" 2>/dev/null)"
case "$p" in ''|*[!0-9]*) echo 'no server: there is no postmaster.pid' >&2; exit 3;; esac
[ "$p" -gt 1 ] || { echo 'no server: postmaster.pid names none' >&2; exit 3; }
[ "$(readlink -f "/proc/$p/cwd")" = "$(readlink -f "$d")" ] || { echo "no server: process $p does not work in $d" >&2; exit 3; }
kill -STOP "$p" || exit 4
kids="$(sed -n 's/^\\([0-9]*\\) (.*) [A-Za-z] \\([0-9]*\\) .*/\\1 \\2/p' /proc/[0-9]*/stat 2>/dev/null | while read -r pid parent; do [ "$parent" = "$p" ] && echo "$pid"; done)"
set -- "$p" $kids
at="$(date +%s%3N)"
case "$at" in *[!0-9]*) at="$(date +%s)000";; esac
printf '%s %s %s\\n' "$at" "$#" ${`'${key.replaceAll("'", `'\\''`)}'`} > "$d/${MARK}" || { kill -CONT "$p"; exit 5; }
kill -KILL "$@"
echo "$at $#"
`;
  const answer = await runOnNode(node, ['sh', '-s'], { input: script, allowFailure: true, signal });
  const [atMs, processes] = answer.stdout.trim().split(' ').map(Number);
  if (answer.code === 3) throw new HoldfastError('chaos-no-server', `nothing was killed: ${answer.stderr.trim()}`, { next: 'the server does not run; look at its host' });
  if (!(atMs! > 0)) throw new HoldfastError('chaos-kill', `the server in ${node.dataDirectory} could not be killed (${answer.code ?? answer.signal}): ${answer.stderr.trim().slice(-500)}`, { next: 'the command of exec must run as the OS user of the server, on Linux', retryable: true });
  for (;;) {
    if ((await hostState(node, signal)) === 'stopped') return { atMs: atMs!, processes: processes! };
    await new Promise((resolve) => {
      setTimeout(resolve, WAIT_MS);
    });
    signal.throwIfAborted();
  }
}

export async function forgetKill(node: Host, signal: AbortSignal): Promise<void> {
  await runOnNode(node, ['rm', '-f', posix.join(node.dataDirectory, MARK)], { allowFailure: true, signal });
}
