// Starts servers, prints what it started as one line of JSON and waits to be killed. Run by local-stack.test.ts.
import { readFileSync, readdirSync } from 'node:fs';
import { createProcesses, endOnSignals, startPostgres, startToxiproxy } from '../../src/local/stack.ts';
import { processStart, statFields } from '../../src/systems/process-stat.ts';

const processes = createProcesses();
endOnSignals(processes);
await startPostgres({ processes, directory: processes.directory, name: 'a', settings: { fsync: 'off' } });
await startToxiproxy({ processes, directory: processes.directory });
const pids = descendants(process.pid);
const reaper = pids.find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('reaper.js'));
console.log(JSON.stringify({ directory: processes.directory, reaper, pids: pids.filter((pid) => pid !== reaper).map((pid) => ({ pid, start: processStart(pid) })) }));
setInterval(() => {}, 1000);

function descendants(root: number): number[] {
  const children = readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry) && Number(statFields(Number(entry))?.[1]) === root)
    .map(Number);
  return children.flatMap((pid) => [pid, ...descendants(pid)]);
}
