// Every workflow type there is; the names exported here are the public API (see src/model/api.ts), but for resourceLock, which is our own.
export { backup } from './backup.ts';
export { retention } from './retention.ts';
export { failover, runbook } from './failover.ts';
export { imported } from './imported.ts';
export { readiness } from './readiness.ts';
export { restoreDrill } from './restoreDrill.ts';
export { resourceLock } from './resourceLock.ts';
