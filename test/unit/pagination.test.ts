import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..', '..');

/**
 * Commands that list and answer in pages. Each use stands near something that goes on to the next page: a paginator or the token.
 * Those that ask for one thing by its name have one page.
 */
const TOKENS = /paginate\w+|NextToken|nextToken|NextMarker|ContinuationToken|NextKeyMarker|nextKey|NextContinuationToken|NextRecordName|IsTruncated|NextPartNumberMarker|LastEvaluated(?:TableName|BackupArn|ShardId)/;
const BY_NAME = /DBInstanceIdentifier|DBSnapshotIdentifier|DBClusterIdentifier|GlobalClusterIdentifier|GroupIds|SecretId|MaxItems|Filters|ParameterFilters|\bTableName\b|BackupArn\b|ExportArn\b/;
/** Asks whether there is an answer, not for what is listed. */
const ANSWERS_ONLY = new Set(['activities/edge-region.ts']);
/** Commands that begin so and give no pages. */
const NO_PAGES = new Set(['DescribeSecretCommand', 'DescribeDBSnapshotAttributesCommand', 'ListMessageMoveTasksCommand', 'ListBucketsCommand']);

function usesIn(folder: string): { file: string; line: number; command: string; around: string }[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .flatMap((name) => {
      const lines = readFileSync(join(ROOT, folder, name), 'utf8').split('\n');
      return lines.flatMap((text, index) =>
        [...text.matchAll(/new (?:\w+\.)?((?:List|Describe)\w+Command)\(/g)].map(([, command]) => ({ file: `${folder}/${name}`, line: index + 1, command: command!, around: lines.slice(Math.max(0, index - 4), index + 14).join('\n') })),
      );
    });
}

it('every call that lists goes on to the next page, or asks for one thing by its name', () => {
  const uses = ['src/systems', 'src/engine', 'activities'].flatMap(usesIn);
  expect(uses.length).toBeGreaterThan(8);
  const once = uses.filter(({ file, command, around }) => !NO_PAGES.has(command) && !ANSWERS_ONLY.has(file) && !TOKENS.test(around) && !BY_NAME.test(around));
  expect(once.map(({ file, line, command }) => `${file}:${line} ${command}`)).toEqual([]);
});

it('finds a listing that takes the first page for all', () => {
  const around = 'const { DBSnapshots } = await client.send(new DescribeDBSnapshotsCommand({ SnapshotType: "manual" }));';
  expect(TOKENS.test(around) || BY_NAME.test(around)).toBe(false);
});
