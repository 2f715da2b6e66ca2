/** The service's own backups of tables: exports to S3, on-demand backups, restores to a moment. Pure rules about their names, manifests and settings. */
import type { ExportSummary } from './dynamodb-export.ts';
import { HoldfastError } from './errors.ts';

// --- export to S3 --------------------------------------------------------------------------------------------------------------------

export function damaged(where: string, why: string): HoldfastError {
  return new HoldfastError('export-damaged', `${where}: ${why}`, { next: 'nothing was committed; make a new export, and find out who can write to the bucket' });
}

/** The service writes an MD5 of each manifest beside it, in one spelling or the other. */
export function sameMd5(text: string, md5: Buffer): boolean {
  const said = text.trim();
  return said === md5.toString('base64') || said.toLowerCase() === md5.toString('hex');
}

/** A whole key, whether the manifest gives it with the prefix of the export or without. */
export function exportKey(prefix: string, key: string): string {
  const folder = prefix === '' || prefix.endsWith('/') ? prefix : `${prefix}/`;
  return key.startsWith(folder) ? key : `${folder}${key}`;
}

/** `arn:aws:dynamodb:<region>:<account>:table/<table>/export/<id>`; the id names the folder. */
export function exportIdOf(arn: string): string {
  return arn.slice(arn.lastIndexOf('/') + 1);
}

/** What the totals say against each other. Empty: they agree. */
export function exportDisagreements(summary: ExportSummary, files: readonly { readonly itemCount: number; readonly dataFileS3Key: string }[], expected: { readonly arn: string; readonly tableArn: string }): string[] {
  const sum = files.reduce((total, { itemCount }) => total + itemCount, 0);
  const twice = files.filter(({ dataFileS3Key }, index) => files.findIndex((other) => other.dataFileS3Key === dataFileS3Key) !== index);
  return [
    ...(summary.exportArn === expected.arn ? [] : [`the summary is of ${summary.exportArn}, not of ${expected.arn}`]),
    ...(summary.tableArn === expected.tableArn ? [] : [`the summary is of the table ${summary.tableArn}, not of ${expected.tableArn}`]),
    ...(sum === summary.itemCount ? [] : [`the summary says ${summary.itemCount} items, its files hold ${sum}`]),
    ...twice.map(({ dataFileS3Key }) => `${dataFileS3Key} is named twice`),
  ];
}

// --- on-demand backups ---------------------------------------------------------------------------------------------------------------

/** 3 to 255 letters, digits, _ - and . are taken; the id makes it unique, and only what carries this name is ever deleted. */
export function onDemandName(datastore: string, backupId: string): string {
  return `holdfast-${datastore}-${backupId}`.replaceAll(/[^A-Za-z0-9_.-]/g, '-').slice(0, 255);
}

/** null: it is ours; else why it must not be touched. */
export function whyNotOurBackup(found: { readonly name: string; readonly tableArn: string }, expected: { readonly name: string; readonly tableArn: string }): string | null {
  if (found.name !== expected.name) return `it is named ${found.name}, not ${expected.name}`;
  return found.tableArn === expected.tableArn ? null : `it is of the table ${found.tableArn}, not of ${expected.tableArn}`;
}

// --- restore to a moment -------------------------------------------------------------------------------------------------------------

/** Not that of drills of backups, whose tables are known by their tags: a restore carries none. */
export const DRILL_TABLE_PREFIX = 'holdfast-moment-';

export interface RecoveryWindow {
  readonly enabled: boolean;
  readonly earliestMs: number | null;
  readonly latestMs: number | null;
}

/** `wait`: it will be within the window in a few minutes. */
export function momentWithin(window: RecoveryWindow, momentMs: number, nowMs: number): { readonly is: 'within' | 'wait' } | { readonly is: 'outside'; readonly why: string } {
  if (!window.enabled) return { is: 'outside', why: 'point-in-time recovery is off' };
  if (momentMs > nowMs) return { is: 'outside', why: `${iso(momentMs)} lies in the future` };
  if (window.earliestMs !== null && momentMs < window.earliestMs) return { is: 'outside', why: `the earliest moment is ${iso(window.earliestMs)}` };
  return window.latestMs === null || momentMs > window.latestMs ? { is: 'wait' } : { is: 'within' };
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}

/** Why this table must not be deleted as the leftover of a drill; null: it may be. */
export function whyNotDrillTable(table: { readonly name: string; readonly restored: boolean; readonly protected: boolean }): string | null {
  if (!table.name.startsWith(DRILL_TABLE_PREFIX)) return `its name does not begin with ${DRILL_TABLE_PREFIX}`;
  if (!table.restored) return 'the service does not call it restored: somebody made it';
  return table.protected ? 'somebody protected it from being deleted' : null;
}
