import { z } from 'zod';
import { kind, type Permission, type StepKind } from '../step-kind.ts';
import { durationMs } from '../units.ts';

/**
 * Not called `datastore`: that input takes the datastore's lock for the whole execution, and a rehearsal of hours must never keep a
 * failover from beginning. Nothing here changes what an application sees.
 */
const source = z.string().meta({ description: 'Datastore whose walArchive is meant. Its lock is not taken: a rehearsal never keeps a failover waiting.' });
const moment = z.string().optional();
/** Who is asked is the primary that the application's secret points to; the archive's own credentials are among the datastore's secrets. */
const secrets: readonly Permission[] = ['databaseSecrets', 'endpointSecret'].map((on) => ({ action: 'secretsmanager:GetSecretValue', on }));

export const walKinds: Readonly<Record<string, StepKind>> = {
  'wal.check': kind({
    summary: 'Checks the WAL archive: the server archives and nothing waits or fails, a young enough base backup is there, the archive belongs to this cluster; then has the tool prove it with a WAL file of its own.',
    input: z.strictObject({ source, maxWalAge: durationMs.optional(), maxBackupAge: durationMs.optional() }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    permissions: secrets,
    applyMs: 300_000,
    facts: { primary: 'node that was asked', backup: 'newest base backup', backupAt: 'when it was finished (ISO 8601)', backups: 'number of base backups', newestWal: 'newest WAL file in the archive', archivedWal: 'last WAL file the server archived' },
  }),
  'wal.mark': kind({
    summary: 'Commits two rows on the primary around a moment, switches the WAL and waits until it is archived. With a moment given it marks nothing.',
    input: z.strictObject({ source, time: z.string().default('').meta({ description: 'A past moment with its time zone; empty: now.' }), wait: durationMs.prefault('5m').meta({ description: 'How long the WAL may take to be archived.' }) }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    permissions: secrets,
    applyMs: 120_000,
    verifyMs: 3_600_000,
    facts: { moment: 'the moment, ISO 8601 with microseconds', marks: 'key of the two rows; empty when the moment was given', wal: 'WAL file that holds the second row', archivedMs: 'milliseconds until it was archived' },
  }),
  'wal.restoreToTime': kind({
    summary: 'Restores a base backup and WAL to a moment into an isolated server, proves that the last row before it is there and the first after it is not, asks the checks of the service, and destroys the server in every outcome.',
    input: z.strictObject({
      source,
      moment: moment.meta({ description: 'With its time zone: 2026-11-21T09:30:00Z.' }),
      marks: moment.meta({ description: "Key of the rows that wal.mark made; without one the datastore's walArchive.proof is asked." }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    permissions: secrets,
    applyMs: 24 * 3_600_000,
    facts: {
      moment: 'the moment it was restored to',
      backup: 'base backup it began with',
      rtoMs: 'milliseconds from the start of the restore to proved',
      restoreMs: 'milliseconds for the base backup',
      recoverMs: 'milliseconds until the moment was reached',
      proveMs: 'milliseconds for the proof',
      walFiles: 'WAL files replayed',
      lastWal: 'the last of them',
      lastCommit: 'time of the last transaction that was replayed',
      stoppedAt: "where recovery stopped, in the server's words",
      isolation: 'how the drill server was kept apart',
      proof: 'every check of the proof',
    },
  }),
};
