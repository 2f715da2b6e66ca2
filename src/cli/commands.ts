import type { Command } from 'commander';
import type { OperatorAction } from '../model/execution.ts';
import type { Io } from './io.ts';

export interface CommandModule {
  /** Adds arguments, options and the action; `command` is made by main.ts with its name and summary. */
  define(command: Command, io: Io): void;
}

export interface CommandEntry {
  readonly name: string;
  readonly group: string;
  readonly summary: string;
  readonly load: () => Promise<CommandModule>;
}

/** Every command. Only the one that was asked for is loaded, so that `--help` and `status` start fast. */
export const COMMANDS: readonly CommandEntry[] = [
  { group: 'Set up', name: 'validate', summary: 'check holdfast.yaml and the runbooks; every error at once', load: () => import('./commands/validate.ts') },
  { group: 'Set up', name: 'doctor', summary: 'check tools, versions, permissions and connections of this host', load: () => import('./commands/doctor.ts') },
  { group: 'Set up', name: 'permissions', summary: 'IAM policies for the roles of the workers, narrowed to what is configured', load: () => import('./commands/permissions.ts') },
  { group: 'Set up', name: 'worker', summary: 'run what executes backups, drills and failovers', load: () => import('./commands/worker.ts') },
  { group: 'Set up', name: 'schedules', summary: 'make the schedules of the configuration, list and trigger them', load: () => import('./commands/schedules.ts') },
  { group: 'Set up', name: 'manifests', summary: 'print Kubernetes CronJobs of the schedules, and a Deployment of workers', load: () => import('./commands/manifests.ts') },

  { group: 'Back up and prove', name: 'backup', summary: 'back up a datastore now', load: () => import('./commands/backup.ts') },
  { group: 'Back up and prove', name: 'backups', summary: 'list the committed backups of a datastore', load: () => import('./commands/backups.ts') },
  { group: 'Back up and prove', name: 'verify', summary: 'read a backup back in full and check every checksum', load: () => import('./commands/verify.ts') },
  { group: 'Back up and prove', name: 'restore', summary: 'restore a backup, or parts of it, into a server', load: () => import('./commands/restore.ts') },
  { group: 'Back up and prove', name: 'import', summary: 'write an export of DynamoDB to S3 into a table', load: () => import('./commands/import.ts') },
  { group: 'Back up and prove', name: 'retention', summary: 'plan, explain and delete what the keep rules no longer hold', load: () => import('./commands/retention.ts') },
  { group: 'Back up and prove', name: 'rehearsals', summary: 'the calendar of rehearsals: when each was held, when it is due, what is overdue', load: () => import('./commands/rehearsals.ts') },
  { group: 'Back up and prove', name: 'drill', summary: 'restore a backup into an isolated target, prove and time it', load: () => import('./commands/drill.ts') },
  { group: 'Back up and prove', name: 'lifecycle', summary: "what a bucket's lifecycle rules are, and what the configuration makes of them", load: () => import('./commands/lifecycle.ts') },

  { group: 'Recover', name: 'readiness', summary: 'could this service be recovered right now, and how do we know', load: () => import('./commands/readiness.ts') },
  { group: 'Recover', name: 'plan', summary: 'what a failover or runbook would do, against live state; or as a break-glass checklist', load: () => import('./commands/plan.ts') },
  { group: 'Recover', name: 'failover', summary: 'fail a service over: planned or forced', load: () => import('./commands/failover.ts') },
  { group: 'Recover', name: 'failback', summary: 'return to the first primary by what the last failover generated', load: () => import('./commands/failback.ts') },
  { group: 'Recover', name: 'run', summary: 'execute any other runbook', load: () => import('./commands/run.ts') },
  { group: 'Recover', name: 'status', summary: 'what is running, or one execution live', load: () => import('./commands/status.ts') },

  { group: 'Operate a running execution', name: 'approve', summary: 'approve what waits for approval', load: () => operator('approve') },
  { group: 'Operate a running execution', name: 'reject', summary: 'reject what waits for approval', load: () => operator('reject') },
  { group: 'Operate a running execution', name: 'retry', summary: 'try a parked step again', load: () => operator('retry') },
  { group: 'Operate a running execution', name: 'skip', summary: 'go on without a parked step that may be skipped', load: () => operator('skip') },
  { group: 'Operate a running execution', name: 'mark-done', summary: 'say that a parked step was done by hand, with evidence', load: () => operator('markDone') },
  { group: 'Operate a running execution', name: 'pause', summary: 'hold before the next step', load: () => operator('pause') },
  { group: 'Operate a running execution', name: 'resume', summary: 'go on after a pause', load: () => operator('resume') },
  { group: 'Operate a running execution', name: 'switch-to-forced', summary: 'go on in forced mode when the primary was lost under a planned failover', load: () => operator('switchToForced') },
  { group: 'Operate a running execution', name: 'override', summary: 'break one named rule on purpose, for a step that waits because of it', load: () => operator('override') },
  { group: 'Operate a running execution', name: 'abort', summary: 'stop and undo; refused after the point of no return', load: () => operator('abort') },

  { group: 'Locks', name: 'locks', summary: 'who holds which datastore, since when, and what cools down', load: () => import('./commands/locks.ts') },
  { group: 'Locks', name: 'lock', summary: 'free a lock whose holder ended without releasing it', load: () => import('./commands/lock.ts') },
  { group: 'Locks', name: 'acknowledge', summary: 'say that a failover was understood, so that the next one may begin', load: () => import('./commands/acknowledge.ts') },

  { group: 'Look back', name: 'audit', summary: 'what ran, who asked, who decided, how it ended: from workflow history', load: () => import('./commands/audit.ts') },
  { group: 'Look back', name: 'compliance', summary: 'of the backups that the schedules required, how many succeeded', load: () => import('./commands/compliance.ts') },
  { group: 'Look back', name: 'cost', summary: 'what the objectives of a service cost, and what a cheaper tier would lose', load: () => import('./commands/cost.ts') },
  { group: 'Look back', name: 'evidence', summary: 'list and verify signed evidence, without a network', load: () => import('./commands/evidence.ts') },
];

async function operator(action: OperatorAction): Promise<CommandModule> {
  return (await import('./commands/operator.ts')).operatorCommand(action);
}
