// Records the histories that replay.test.ts replays: runs every workflow type on real servers. See README.md.
import { fileURLToPath } from 'node:url';
import { startVitest } from 'vitest/node';

const root = fileURLToPath(new URL('../..', import.meta.url));
const vitest = await startVitest('test', [], {
  root,
  config: false,
  watch: false,
  pool: 'forks',
  include: ['test/replay/recordings.ts'],
  globalSetup: ['test/setup.ts'],
  testTimeout: 300_000,
  hookTimeout: 300_000,
});
await vitest.close();
