/**
 * Managed snapshots (RDS): how they are named and tagged, whose they are, what is restored where, and what a drill of one can prove.
 * Pure: whoever asks hands in what was found.
 */
import type { ManagedSnapshot, PostgresManifest, PostgresFingerprint, SequenceFingerprint } from './manifest-postgres.ts';
import { compareFingerprints, type Difference, type Proof } from './proof.ts';

export const TAG_ENVIRONMENT = 'holdfast:environment';
export const TAG_DATASTORE = 'holdfast:datastore';
export const TAG_BACKUP = 'holdfast:backup';
/** On what was committed, before its COMMIT is written: where. */
export const TAG_COMMITTED = 'holdfast:committed';
export const TAG_DRILL = 'holdfast:drill';
export const TAG_DRILL_RUN = 'holdfast:drill-run';

/** Marker rows: written around every managed snapshot and point in time that is to be proved. */
export const MARKER_SCHEMA = 'holdfast';
export const MARKER_TABLE = 'recovery_marker';

export type Tags = Readonly<Record<string, string>>;

/** RDS: letters, digits, single hyphens, first a letter, lower case in every answer. The id makes it unique. */
export function snapshotIdentifier(datastore: string, backupId: string): string {
  return identifier(`holdfast-${datastore}-${backupId}`, 255);
}

/** An instance name has at most 63 characters, so the datastore is cut, never the part that makes it unique. */
export function drillInstanceIdentifier(datastore: string, digest: string): string {
  return identifier(`holdfast-drill-${datastore.slice(0, 63 - 'holdfast-drill--'.length - digest.length)}-${digest}`, 63);
}

function identifier(text: string, length: number): string {
  return text.toLowerCase().replaceAll(/[^a-z0-9-]/g, '-').replaceAll(/-{2,}/g, '-').slice(0, length).replace(/-$/, '');
}

export function snapshotTags(of: { environment: string; datastore: string; backup: string }, more: Tags): Tags {
  return { ...more, [TAG_ENVIRONMENT]: of.environment, [TAG_DATASTORE]: of.datastore, [TAG_BACKUP]: of.backup };
}

/** null when it is ours; else why it must not be touched. */
export function whyNotOurs(tags: Tags, of: { environment: string; datastore: string; backup?: string }): string | null {
  const wrong = ([[TAG_ENVIRONMENT, of.environment], [TAG_DATASTORE, of.datastore], ...(of.backup === undefined ? [] : [[TAG_BACKUP, of.backup]])] as [string, string][]).filter(([name, value]) => tags[name] !== value);
  return wrong.length === 0 ? null : wrong.map(([name, value]) => `its tag ${name} is ${tags[name] === undefined ? 'missing' : `"${tags[name]}"`}, expected "${value}"`).join('; ');
}

export interface ProductionInstance {
  readonly identifier: string;
  readonly region: string;
  readonly address: string | null;
  readonly subnetGroup: string | null;
  readonly securityGroups: readonly string[];
}

/** Why nothing may be restored there: what a drill makes must share no name, subnet group or security group with production. Empty: it may. */
export function refusesTarget(target: { identifier: string; region: string; subnetGroup: string; securityGroups: readonly string[] }, production: readonly ProductionInstance[]): string[] {
  return production.flatMap((instance) => [
    ...(instance.identifier === target.identifier ? [`${target.identifier} is an instance of the datastore itself`] : []),
    // Names of subnet groups are a Region's own.
    ...(instance.region === target.region && instance.subnetGroup?.toLowerCase() === target.subnetGroup.toLowerCase() ? [`subnet group ${target.subnetGroup} is that of ${instance.identifier}`] : []),
    ...target.securityGroups.filter((group) => instance.securityGroups.includes(group)).map((group) => `security group ${group} is also on ${instance.identifier}`),
  ]);
}

/** Why a restored instance is not to be connected to. Empty: it may be. */
export function refusesEndpoint(
  found: { identifier: string; address: string | null; port: number | null; tags: Tags; publiclyAccessible: boolean },
  expected: { workflowId: string; environment: string },
  production: readonly { host: string; port: number; what: string }[],
): string[] {
  const problems = production.filter((one) => one.host === found.address && one.port === found.port).map((one) => `${found.address}:${found.port} is the address of ${one.what}`);
  for (const [tag, wanted] of [[TAG_DRILL, expected.workflowId], [TAG_ENVIRONMENT, expected.environment]] as const) {
    if (found.tags[tag] !== wanted) problems.push(`its tag ${tag} is ${found.tags[tag] === undefined ? 'missing' : `"${found.tags[tag]}"`}, expected "${wanted}"`);
  }
  if (found.publiclyAccessible) problems.push('it can be reached from the internet');
  return problems;
}

// --- what moved while the snapshot was taken ---------------------------------------------------------------------------------------

/** Rows inserted, updated and deleted since the server counts, by table. */
export type ChangeCounters = Readonly<Record<string, string>>;

export interface Reading {
  readonly fingerprint: PostgresFingerprint;
  readonly changes: ChangeCounters;
}

type Moving = ManagedSnapshot['moving'][number];

export function tableKey({ schema, name }: { schema: string; name: string }): string {
  return `${schema}.${name}`;
}

export function isMarkerTable({ schema, name }: { schema: string; name: string }): boolean {
  return schema === MARKER_SCHEMA && name === MARKER_TABLE;
}

/**
 * A managed snapshot exports no MVCC snapshot: what it holds of a table is only known where the table was the same before and after it.
 * Equal content does not suffice (a row may have come and gone), so the server's change counters must be equal too.
 * @returns what must be in the snapshot exactly, and what changed between the two readings.
 */
export function settle(before: Reading, after: Reading): { fingerprint: PostgresFingerprint; moving: Moving[] } {
  const moving: Moving[] = [];
  const [old, now] = [before.fingerprint, after.fingerprint];

  function same<T>(what: Moving['what'], from: readonly T[], to: readonly T[], nameOf: (one: T) => string, equal: (a: T, b: T) => boolean, why: (a: T, b: T) => string): T[] {
    const later = new Map(to.map((one) => [nameOf(one), one]));
    const earlier = new Set(from.map(nameOf));
    const kept = from.filter((one) => {
      const then = later.get(nameOf(one));
      if (then !== undefined && equal(one, then)) return true;
      moving.push({ what, object: nameOf(one), why: then === undefined ? 'gone afterwards' : why(one, then) });
      return false;
    });
    for (const one of to) if (!earlier.has(nameOf(one))) moving.push({ what, object: nameOf(one), why: 'made meanwhile' });
    return kept;
  }
  const text = (one: unknown): string => JSON.stringify(one);
  const tables = same(
    'table', old.tables.filter((table) => !isMarkerTable(table)), now.tables.filter((table) => !isMarkerTable(table)), tableKey,
    (a, b) => a.rows === b.rows && a.sum1 === b.sum1 && a.sum2 === b.sum2 && before.changes[tableKey(a)] === after.changes[tableKey(a)],
    (a, b) => (a.rows === b.rows && a.sum1 === b.sum1 && a.sum2 === b.sum2 ? `the same ${a.rows} rows, but written to meanwhile` : `${a.rows} rows before, ${b.rows} after`),
  );
  // Sequences are compared by range: nothing about one that is drawn from is unknown.
  const sequences = same('sequence', old.sequences, now.sequences, tableKey, () => true, () => '').map((sequence) => ({ ...sequence, after: now.sequences.find((one) => tableKey(one) === tableKey(sequence))!.after }));
  const objects = same('schema', Object.entries(old.schemaObjects), Object.entries(now.schemaObjects), ([name]) => name, ([, a], [, b]) => a === b, () => 'its definition changed');
  const extensions = same('extension', old.extensions, now.extensions, ({ name }) => name, (a, b) => text(a) === text(b), () => 'it changed');
  const roles = same('role', old.roles, now.roles, ({ name }) => name, (a, b) => text(a) === text(b), () => 'it changed');
  const [largeObjects] = same('large-objects', [old.largeObjects], [now.largeObjects], () => 'all', (a, b) => text(a) === text(b), (a, b) => `${a?.count ?? '?'} before, ${b?.count ?? '?'} after`);
  return { fingerprint: { ...old, tables, sequences, schemaObjects: Object.fromEntries(objects), extensions, roles, largeObjects: largeObjects ?? null }, moving };
}

export const NO_FINGERPRINT: PostgresFingerprint = { method: 'hashtextextended-sum/1', tables: [], sequences: [], largeObjects: null, extensions: [], roles: [], schemaObjects: {}, schemaSha256: '' };

// --- the proof of a restore ----------------------------------------------------------------------------------------------------------

/** Marker rows that must be there, must not be there, and may be there in the order they were written. */
export interface MarkerExpectation {
  readonly present: readonly string[];
  readonly between: readonly string[];
  readonly absent: readonly string[];
}

/** Markers are written one after the other, each acknowledged before the next: what is restored must be a beginning of them. */
export function judgeMarkers(expected: MarkerExpectation, found: ReadonlySet<string>): { differences: Difference[]; reached: number } {
  const differences: Difference[] = [];
  const differs = (id: string, wanted: string, is: string): void => void differences.push({ kind: 'rows', object: `marker row ${id}`, expected: wanted, found: is });
  for (const id of expected.present) if (!found.has(id)) differs(id, 'there: it was acknowledged before', 'not there');
  for (const id of expected.absent) if (found.has(id)) differs(id, 'not there: it was written afterwards', 'there');
  const reached = expected.between.filter((id) => found.has(id)).length;
  const gap = expected.between.findIndex((id) => !found.has(id));
  if (gap !== -1 && gap < reached) differs(expected.between[gap]!, 'there: one that was written later is', 'not there: what was restored is of no single moment');
  return { differences, reached };
}

/**
 * What a restored managed snapshot proves. `exact` only when nothing moved while it was taken and nothing differs; `unproved` names the rest.
 * No difference with something unproved verifies the backup as far as it can be verified, and says so.
 */
export function proveManaged(manifest: PostgresManifest, found: PostgresFingerprint, markers: ReadonlySet<string>): Proof {
  const managed = manifest.managed!;
  const moved = (what: Moving['what']): ((name: string) => boolean) => {
    const names = new Set(managed.moving.filter((one) => one.what === what).map((one) => one.object));
    return (name) => !names.has(name);
  };
  const [tables, sequences, extensions, objects] = [moved('table'), moved('sequence'), moved('extension'), moved('schema')];
  const largeObjectsMoved = !moved('large-objects')('all');
  const skipped: string[] = [];
  const content: Proof = managed.fingerprinted
    ? compareFingerprints({ fingerprint: manifest.fingerprint, selection: manifest.selection, objects: [{ role: 'globals' }] }, {
        ...found,
        tables: found.tables.filter((table) => !isMarkerTable(table) && tables(tableKey(table))),
        sequences: found.sequences.filter((one) => sequences(tableKey(one))).map((one) => recovered(one, manifest, skipped)),
        extensions: found.extensions.filter(({ name }) => extensions(name)),
        schemaObjects: Object.fromEntries(Object.entries(found.schemaObjects).filter(([name]) => objects(name))),
        largeObjects: largeObjectsMoved ? null : found.largeObjects,
      })
    : { exact: false, differences: [], compared: { tables: 0, rows: '0', sequences: 0, largeObjects: '0', extensions: 0, roles: 0, schemaObjects: 0 }, notes: [] };
  const unproved = [...managed.moving.map(describeMoving), ...skipped];
  if (!managed.fingerprinted) unproved.push('the content of every table: no fingerprints were read around the snapshot');
  const notes = content.notes.filter((note) => !(largeObjectsMoved && note === 'large objects are not part of this backup'));
  const differences = [...content.differences];
  if (managed.markers === null) {
    unproved.push('the moment it is of: no marker rows were written around it');
  } else {
    const judged = judgeMarkers(managed.markers, markers);
    differences.push(...judged.differences);
    if (judged.differences.length === 0) {
      const { present, between, absent } = managed.markers;
      notes.push(`marker rows: the ${present.length} acknowledged before the snapshot there, the ${absent.length} written after it not${between.length === 0 ? '' : `, of ${between.length} written meanwhile the first ${judged.reached}`}`);
    }
  }
  if (managed.moving.length > 0) notes.push(`changed while the snapshot was taken, so only compared by the checks of the services: ${managed.moving.map(describeMoving).slice(0, 20).join('; ')}${managed.moving.length > 20 ? ` and ${managed.moving.length - 20} more` : ''}`);
  return { ...content, exact: differences.length === 0 && unproved.length === 0, differences, notes, ...(unproved.length === 0 ? {} : { unproved }) };
}

/** PostgreSQL logs sequences this many values ahead, and recovery restores what was logged. */
const LOGGED_AHEAD = 32n;

/** A sequence that stands a little ahead of what was read is as recovery leaves it: named, not a difference. One that stands behind would repeat keys. */
function recovered(found: SequenceFingerprint, manifest: PostgresManifest, skipped: string[]): SequenceFingerprint {
  const read = manifest.fingerprint.sequences.find((one) => tableKey(one) === tableKey(found));
  const step = manifest.managed!.sequenceSteps[tableKey(found)];
  if (read === undefined || step === undefined || JSON.stringify(found.before) !== JSON.stringify(found.after)) return found;
  const sign = BigInt(step.increment) < 0n ? -1n : 1n;
  const ahead = sign * (BigInt(found.after.lastValue) - BigInt(read.after.lastValue));
  if (ahead < 0n || (ahead === 0n && found.after.isCalled === read.after.isCalled) || ahead > sign * BigInt(step.increment) * (LOGGED_AHEAD + BigInt(step.cache))) return found;
  skipped.push(`sequence ${tableKey(found)} (it stands at ${found.after.lastValue}, read as ${read.after.lastValue}: recovery skips up to ${LOGGED_AHEAD} values)`);
  return { ...found, before: read.after, after: read.after };
}

function describeMoving({ what, object, why }: Moving): string {
  return `${what === 'large-objects' ? 'large objects' : what === 'schema' ? object : `${what} ${object}`} (${why})`;
}

/** What a restore to a moment proves: the marker rows on both sides of it. Of the content there is nothing to compare it with. */
export function provePointInTime(of: { at: string; before: string; after: string }, markers: ReadonlySet<string>, read: { tables: number; rows: string }): Proof {
  const { differences } = judgeMarkers({ present: [of.before], between: [], absent: [of.after] }, markers);
  return {
    exact: false, differences, compared: { tables: 0, rows: '0', sequences: 0, largeObjects: '0', extensions: 0, roles: 0, schemaObjects: 0 },
    notes: [...(differences.length === 0 ? [`marker row ${of.before}, the last before ${of.at}, is there; ${of.after}, the first after it, is not`] : []), `every row was read: ${read.rows} rows in ${read.tables} tables`],
    unproved: [`the content of the tables at ${of.at}: only the marker rows and the checks of the services say something of it`],
  };
}
