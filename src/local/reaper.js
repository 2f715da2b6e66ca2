// Ends the local stack's servers when the process that started them is gone, however it went.
//
// It reads lines of JSON on stdin and acts at end of file, which comes even when the other side was killed with SIGKILL:
//   {"add": {"pid", "start", "name"}}   a process and its start time (field 22 of /proc/PID/stat), so that a reused pid is never hit
//   {"remove": PID}                     it ended and was waited for
//   {"cluster": DATA_DIRECTORY}         a PostgreSQL data directory: whoever runs on it then, also one started again by somebody else
//   {"directory": PATH, "keep": BOOL}   a folder to remove after everything ended
// Plain JavaScript without dependencies: it must start at once and outlive everything.
import { readFileSync, readdirSync, readlinkSync, realpathSync, rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import process from 'node:process';

const GRACE_MS = 8000;
const POLL_MS = 25;

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {});

const processes = new Map();
const clusters = new Set();
const directories = new Map();

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const message = JSON.parse(line);
    if (message.add) processes.set(message.add.pid, message.add);
    if (message.remove) processes.delete(message.remove);
    if (message.cluster) clusters.add(message.cluster);
    if (message.directory) directories.set(message.directory, message.keep === true);
  })
  .on('close', () => {
    endEverything().then(
      (left) => process.exit(left === 0 ? 0 : 1),
      (error) => {
        process.stderr.write(`reaper: ${error?.stack ?? error}\n`);
        process.exit(1);
      },
    );
  });

async function endEverything() {
  const keepAny = [...directories.values()].some(Boolean);
  // Programs first, the newest first, since the older ones serve the newer; then the databases below them.
  const left = await Promise.all([...processes.values()].reverse().map((entry) => endProcess(entry)));
  const postmasters = [...clusters].map(postmasterOf).filter((entry) => entry !== undefined);
  // A cluster whose folder is about to be removed needs no shutdown checkpoint.
  left.push(...(await Promise.all(postmasters.map((entry) => endPostmaster(entry, keepAny)))));
  const lost = left.filter((ended) => !ended).length;
  if (lost === 0) {
    for (const [directory, keep] of directories) {
      if (!keep) rmSync(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    }
  }
  return lost;
}

async function endProcess(entry) {
  if (!alive(entry)) return true;
  signal(entry, 'SIGTERM', true);
  if (await gone([entry], GRACE_MS)) return true;
  signal(entry, 'SIGKILL', true);
  return gone([entry], GRACE_MS);
}

async function endPostmaster(entry, orderly) {
  // Backends put themselves into groups of their own, so they are found as children, not by group.
  const children = childrenOf(entry.pid);
  signal(entry, orderly ? 'SIGINT' : 'SIGQUIT', false);
  if ((await gone([entry, ...children], GRACE_MS))) return true;
  const all = [entry, ...children, ...childrenOf(entry.pid)];
  for (const one of all) signal(one, 'SIGKILL', false);
  return gone(all, GRACE_MS);
}

/** The server that runs on a data directory now, if its process really works there. */
function postmasterOf(directory) {
  try {
    const pid = Number(readFileSync(`${directory}/postmaster.pid`, 'utf8').split('\n', 1)[0]);
    if (!(pid > 1) || readlinkSync(`/proc/${pid}/cwd`) !== realpathSync(directory)) return undefined;
    const start = startOf(pid);
    return start === undefined ? undefined : { pid, start, name: directory };
  } catch {
    return undefined;
  }
}

function childrenOf(parent) {
  const found = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const fields = statOf(Number(name));
    if (fields !== undefined && Number(fields[1]) === parent) found.push({ pid: Number(name), start: fields[19], name: 'backend' });
  }
  return found;
}

/** Fields of /proc/PID/stat from the state on (the third of all), undefined when it is gone. */
function statOf(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

function startOf(pid) {
  return statOf(pid)?.[19];
}

function alive(entry) {
  const fields = statOf(entry.pid);
  return fields !== undefined && fields[19] === entry.start && fields[0] !== 'Z';
}

function signal(entry, name, group) {
  if (!alive(entry)) return;
  try {
    process.kill(group ? -entry.pid : entry.pid, name);
  } catch {
    try {
      process.kill(entry.pid, name);
    } catch {
      // Gone meanwhile.
    }
  }
}

async function gone(entries, withinMs) {
  const deadline = Date.now() + withinMs;
  while (entries.some(alive)) {
    if (Date.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return true;
}
