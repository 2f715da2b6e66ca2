import { defineConfig } from 'vitest/config';

/** Everything but `unit` works against the real servers that test/setup.ts starts once. */
export default defineConfig({
  test: {
    pool: 'forks',
    // The default is one second: a loaded machine does not answer within it.
    expect: { poll: { timeout: 20_000 } },
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/{unit,replay}/**/*.test.ts'], testTimeout: 60_000 } },
      {
        extends: true,
        test: {
          name: 'servers',
          include: ['test/{integration,workflow,cli,fault}/**/*.test.ts'],
          globalSetup: ['test/setup.ts'],
          testTimeout: 360_000,
          hookTimeout: 360_000,
          maxWorkers: 2,
        },
      },
    ],
  },
});
