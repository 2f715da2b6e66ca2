import { z } from 'zod';
import type { Item } from './dynamodb-item.ts';
import { HoldfastError } from './errors.ts';

/**
 * The layout of the service's own export to S3, which ours has as well, so that one importer reads both.
 * Source: DynamoDB developer guide, "DynamoDB table export output format". The guide calls the checksum files `.checksum`; what the service
 * writes ends with `.md5` and holds the MD5 of the file beside it in base64. `md5Checksum` is that of the stored, compressed bytes.
 */
export const EXPORT_ROOT = 'AWSDynamoDB';
export const STARTED = '_started';
export const SUMMARY = 'manifest-summary.json';
export const SUMMARY_MD5 = 'manifest-summary.md5';
export const FILES = 'manifest-files.json';
export const FILES_MD5 = 'manifest-files.md5';
export const DATA = 'data/';

export interface ExportFile {
  readonly itemCount: number;
  /** Base64, of the stored bytes. */
  readonly md5Checksum: string;
  readonly etag: string;
  /** Whole key in the bucket. */
  readonly dataFileS3Key: string;
}

const fileSchema = z.object({ itemCount: z.int().min(0), md5Checksum: z.string().optional(), etag: z.string().optional(), dataFileS3Key: z.string().min(1) });

const summarySchema = z.object({
  version: z.string(),
  exportArn: z.string(),
  startTime: z.string(),
  endTime: z.string(),
  tableArn: z.string(),
  tableId: z.string().nullish(),
  exportTime: z.string(),
  s3Bucket: z.string(),
  s3Prefix: z.string().nullish(),
  s3SseAlgorithm: z.string().nullish(),
  s3SseKmsKeyId: z.string().nullish(),
  manifestFilesS3Key: z.string(),
  billedSizeBytes: z.number(),
  itemCount: z.number(),
  outputFormat: z.string(),
  exportType: z.string().nullish(),
});
export type ExportSummary = z.infer<typeof summarySchema>;

/** `01693685827463-2d8752fd`: milliseconds in 14 digits, and 8 hex digits that keep two exports of one moment apart. */
export function exportId(startedAtMs: number, hex: string): string {
  return `${String(startedAtMs).padStart(14, '0')}-${hex.slice(0, 8)}`;
}

export function summaryText(summary: ExportSummary): string {
  return `${JSON.stringify(summary)}\n`;
}

export function filesText(files: readonly ExportFile[]): string {
  return files.map((file) => `${JSON.stringify({ itemCount: file.itemCount, md5Checksum: file.md5Checksum, etag: file.etag, dataFileS3Key: file.dataFileS3Key })}\n`).join('');
}

function invalid(where: string, why: string, cause?: unknown): HoldfastError {
  return new HoldfastError('export-invalid', `${where}: ${why}`, { next: 'choose another export; nothing was written', ...(cause === undefined ? {} : { cause }) });
}

/** @throws HoldfastError `export-invalid` for what is no full export in DynamoDB JSON. */
export function parseSummary(text: string, where: string): ExportSummary {
  let summary: ExportSummary;
  try {
    summary = summarySchema.parse(JSON.parse(text));
  } catch (error) {
    throw invalid(where, `it is no summary of an export: ${(error as Error).message}`, error);
  }
  if (summary.outputFormat !== 'DYNAMODB_JSON') throw invalid(where, `it is in the format ${summary.outputFormat}; only DYNAMODB_JSON can be imported`);
  if (summary.exportType === 'INCREMENTAL_EXPORT') throw invalid(where, 'it is an incremental export, which holds changes and not the table');
  return summary;
}

export function parseFiles(text: string, where: string): z.infer<typeof fileSchema>[] {
  return text.split('\n').flatMap((line, index) => {
    if (line.trim() === '') return [];
    try {
      return [fileSchema.parse(JSON.parse(line))];
    } catch (error) {
      throw invalid(where, `line ${index + 1} names no data file: ${(error as Error).message}`, error);
    }
  });
}

/** Of the data folder: an export that was copied to another place names keys of its first one. */
export function dataFileName(dataFileS3Key: string): string {
  return dataFileS3Key.slice(dataFileS3Key.lastIndexOf('/') + 1);
}

export function itemLine(item: Item): string {
  return `${JSON.stringify({ Item: item })}\n`;
}

const TYPES = new Set(['S', 'N', 'B', 'BOOL', 'NULL', 'SS', 'NS', 'BS', 'L', 'M']);

/** @throws HoldfastError `export-line`, without the line: it holds customers' data. */
export function parseItemLine(text: string, file: string, line: number): Item {
  const fail = (why: string): HoldfastError => new HoldfastError('export-line', `${file}, line ${line}: ${why}`, { next: 'the data file is damaged or of another format; choose another backup or export' });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw fail('it is no JSON');
  }
  const item = (value as { Item?: unknown } | null)?.Item;
  if (item === null || typeof item !== 'object' || Array.isArray(item)) throw fail('it has no Item');
  for (const attribute of Object.values(item)) {
    const types = attribute === null || typeof attribute !== 'object' ? [] : Object.keys(attribute);
    if (types.length !== 1 || !TYPES.has(types[0]!)) throw fail('an attribute of it has no type of DynamoDB');
  }
  return item as Item;
}
