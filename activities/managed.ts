import { PHASES } from '../src/model/step-kind.ts';
import { HoldfastError } from '../src/model/errors.ts';
import { datastoreFor, type PhaseRun, type StepDefinition } from './step-definition.ts';

export type StepTable = Readonly<Record<string, StepDefinition>>;

/** How the same step kinds are done on a datastore that a cloud runs. A kind that is missing here is done as on any other server. */
export interface ManagedTables {
  readonly rds: StepTable;
  readonly aurora: StepTable;
}

/** One step kind, one activity: which way it goes is said by the datastore's configuration, not by the runbook. */
export function byManagement(own: StepTable, managed: ManagedTables): StepTable {
  return Object.fromEntries(
    Object.entries(own).map(([kind, definition]) => {
      const ways = { rds: managed.rds[kind] ?? definition, aurora: managed.aurora[kind] ?? definition };
      const dispatched: Partial<Record<(typeof PHASES)[number], PhaseRun>> = {};
      for (const phase of PHASES) {
        const run = definition[phase];
        for (const [type, way] of Object.entries(ways)) if ((run === undefined) !== (way[phase] === undefined)) throw new HoldfastError('catalogue-mismatch', `step kind ${kind}: phase ${phase} differs between a server of one's own and ${type}`);
        if (run === undefined) continue;
        dispatched[phase] = (step) => {
          const type = datastoreFor(step).managed?.type;
          return (type === undefined ? run : ways[type === 'rds' ? 'rds' : 'aurora'][phase]!)(step);
        };
      }
      return [kind, dispatched];
    }),
  );
}
