import { describe, expect, it } from 'vitest';
import { configSchema } from '../../src/model/config-schema.ts';
import { followStates, type ScanState } from '../../src/model/scan-state.ts';
import { consumedOf } from '../../src/systems/dynamodb.ts';
import { dataFileName, exportId, filesText, itemLine, parseFiles, parseItemLine, parseSummary, summaryText, type ExportSummary } from '../../src/model/dynamodb-export.ts';
import { compareShapes, createInput, keyMismatch, settingsOf, type DescribedTable } from '../../src/model/dynamodb-settings.ts';

const summary: ExportSummary = {
  version: '2020-06-30', exportArn: 'arn:aws:dynamodb:us-east-1:123456789012:table/orders/export/01693685827463-2d8752fd', startTime: '2023-09-02T20:17:07.463Z', endTime: '2023-09-02T20:22:07.463Z', tableArn: 'arn:aws:dynamodb:us-east-1:123456789012:table/orders',
  tableId: null, exportTime: '2023-09-02T20:17:07.463Z', s3Bucket: 'bucket', s3Prefix: 'shop/orders', s3SseAlgorithm: 'AES256', s3SseKmsKeyId: null, manifestFilesS3Key: 'shop/orders/AWSDynamoDB/01693685827463-2d8752fd/manifest-files.json', billedSizeBytes: 0, itemCount: 8, outputFormat: 'DYNAMODB_JSON', exportType: 'FULL_EXPORT',
};

describe('the layout of an export', () => {
  it('is written as it is read, one file a line', () => {
    expect(parseSummary(summaryText(summary), 'x')).toEqual(summary);
    const file = { itemCount: 8, md5Checksum: 'sQMSpEILNgoQmarvDFonGQ==', etag: 'af83d6f217c19b8b0fff8023d8ca4716-1', dataFileS3Key: 'a/AWSDynamoDB/1/data/asdl123dasas.json.gz' };
    expect(filesText([file, file]).split('\n')).toHaveLength(3);
    expect(parseFiles(filesText([file, file]), 'x')).toEqual([file, file]);
    expect(dataFileName(file.dataFileS3Key)).toBe('asdl123dasas.json.gz');
    expect(exportId(1_693_685_827_463, '2d8752fdff')).toBe('01693685827463-2d8752fd');
  });

  it('is refused when it holds changes, another format or no summary, and a line is never shown', () => {
    for (const [text, why] of [[summaryText({ ...summary, exportType: 'INCREMENTAL_EXPORT' }), 'incremental'], [summaryText({ ...summary, outputFormat: 'ION' }), 'ION'], ['{}', 'no summary'], ['x', 'no summary']] as const) expect(() => parseSummary(text, 'x')).toThrow(why);
    expect(() => parseFiles('{"itemCount":1}\n', 'files')).toThrow('line 1');
    const item = { id: { S: 'secret' }, n: { N: '1' } };
    expect(parseItemLine(itemLine(item), 'f', 1)).toEqual(item);
    for (const text of ['{"Item":{"id":{"S":"secret"}', '{"id":{"S":"secret"}}', '{"Item":{"id":"secret"}}', '{"Item":{"id":{"X":"secret"}}}', 'null']) {
      expect(() => parseItemLine(text, 'file.json.gz', 7)).toThrow('file.json.gz, line 7');
      expect(() => parseItemLine(text, 'file.json.gz', 7)).not.toThrow('secret');
    }
  });
});

const table: DescribedTable = {
  KeySchema: [{ AttributeName: 'day', KeyType: 'RANGE' }, { AttributeName: 'id', KeyType: 'HASH' }],
  AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }, { AttributeName: 'day', AttributeType: 'N' }, { AttributeName: 'who', AttributeType: 'B' }],
  ProvisionedThroughput: { ReadCapacityUnits: 10, WriteCapacityUnits: 5 },
  GlobalSecondaryIndexes: [{ IndexName: 'by-who', KeySchema: [{ AttributeName: 'who', KeyType: 'HASH' }], Projection: { ProjectionType: 'INCLUDE', NonKeyAttributes: ['b', 'a'] }, ProvisionedThroughput: { ReadCapacityUnits: 1, WriteCapacityUnits: 2 } }],
  LocalSecondaryIndexes: [{ IndexName: 'local', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }, { AttributeName: 'who', KeyType: 'RANGE' }], Projection: { ProjectionType: 'KEYS_ONLY' } }],
  SSEDescription: { Status: 'ENABLED', SSEType: 'KMS', KMSMasterKeyArn: 'arn:aws:kms:us-east-1:1:key/k' }, DeletionProtectionEnabled: true, StreamSpecification: { StreamEnabled: true, StreamViewType: 'NEW_IMAGE' }, TableClassSummary: { TableClass: 'STANDARD_INFREQUENT_ACCESS' }, Replicas: [{ RegionName: 'eu-west-1' }],
};
const beside = { timeToLive: 'until', tags: { team: 'shop' }, pointInTime: { enabled: true, days: 35 } };

describe('the settings of a table', () => {
  it('are kept and made again: keys, indexes, capacity, class, encryption', () => {
    const settings = settingsOf(table, beside);
    expect(settings).toMatchObject({ key: [{ name: 'id' }, { name: 'day' }], billing: 'provisioned', provisioned: { read: 10, write: 5 }, stream: 'NEW_IMAGE', deletionProtection: true, timeToLive: 'until', tags: { team: 'shop' } });
    expect(settings.notKept.join()).toContain('eu-west-1');
    const input = createInput('orders', settings, { keepEncryption: true, tags: { a: 'b' } });
    expect(input).toMatchObject({ BillingMode: 'PROVISIONED', ProvisionedThroughput: { ReadCapacityUnits: 10 }, TableClass: 'STANDARD_INFREQUENT_ACCESS', SSESpecification: { KMSMasterKeyId: 'arn:aws:kms:us-east-1:1:key/k' }, Tags: [{ Key: 'a', Value: 'b' }] });
    // What was made by it is described as it was.
    expect(compareShapes('orders', settings, settingsOf(input as DescribedTable, beside))).toEqual({ differences: [], compared: 4 });
    const drilled = createInput('orders', settings, { onDemand: true, keepEncryption: false, tags: {} });
    expect(drilled).toMatchObject({ BillingMode: 'PAY_PER_REQUEST' });
    expect(JSON.stringify(drilled)).not.toMatch(/Provisioned|KMS|TableClass|Tags|"DeletionProtection/);
  });

  it('that are not the same are named: a missing, another and an unexpected index, another key', () => {
    const settings = settingsOf(table, beside);
    const { differences } = compareShapes('orders', settings, { ...settings, globalIndexes: [], localIndexes: [{ ...settings.localIndexes[0]!, projection: { type: 'ALL', attributes: [] } }, { ...settings.localIndexes[0]!, name: 'more' }] });
    expect(differences.map(({ kind, object }) => `${kind} ${object}`).sort()).toEqual(['schema-changed orders local index local', 'schema-missing orders global index by-who', 'schema-unexpected orders local index more']);
    expect(keyMismatch(settings, settings)).toBeUndefined();
    expect(keyMismatch(settings, { ...settings, attributes: settings.attributes.map((one) => (one.name === 'day' ? { ...one, type: 'S' as const } : one)) })).toContain('day (RANGE, N)');
    expect(keyMismatch(settings, { ...settings, key: settings.key.slice(0, 1) })).toBeDefined();
  });
});

describe('a DynamoDB datastore', () => {
  const parsed = (datastore: object) => configSchema.safeParse({ version: 1, stores: {}, services: {}, datastores: { shop: { engine: 'dynamodb', tables: ['orders'], ...datastore } } });
  it('reads within a quarter of the capacity unless it is told otherwise', () => {
    expect(parsed({}).data?.datastores['shop']).toMatchObject({ backup: { method: 'scan', readShare: 0.25, segments: 4, fileSize: 64 * 1024 * 1024 }, drill: { prefix: 'holdfast-drill-', drift: true }, restore: { writeShare: 0.5 } });
  });
  it('is refused with a share above one or of nothing, a table named twice, or a name that no table has', () => {
    for (const wrong of [{ backup: { readShare: 1.5 } }, { backup: { readShare: 0 } }, { tables: ['orders', 'orders'] }, { tables: ['a b'] }, { tables: [] }, { drill: { prefix: '' } }]) expect(parsed(wrong).success).toBe(false);
  });
});

describe('the notes of a scan', () => {
  const note = (after: string | null, end = false): ScanState => ({ format: 1, segment: 0, after, file: null, lastKey: end ? null : { id: { S: 'k' } }, consumedUnits: 1, fromMs: 0, toMs: 1 });

  it('are followed by their longest whole chain, finished ones first, also when there are very many', () => {
    const many = new Map<string, ScanState>();
    for (let at = 0; at < 20_000; at += 1) many.set(`n${at}`, note(at === 0 ? null : `n${at - 1}`));
    const chain = followStates(many);
    expect(chain).toHaveLength(20_000);
    expect([chain[0]!.name, chain.at(-1)!.name]).toEqual(['n0', 'n19999']);
    // A shorter branch that has reached the end is the better one.
    many.set('end', note('n9', true));
    expect(followStates(many).map(({ name }) => name)).toEqual([...Array.from({ length: 10 }, (_, at) => `n${at}`), 'end']);
  });

  it('whose beginning is missing, or that run in a circle, prove nothing', () => {
    expect(followStates(new Map([['b', note('a')], ['c', note('b', true)], ['x', note('y')], ['y', note('x')]]))).toEqual([]);
    expect(followStates(new Map([['a', note(null)], ['c', note('b', true)], ['d', note('c')]])).map(({ name }) => name)).toEqual(['a']);
  });
});

describe('what a call has consumed', () => {
  it('counts local indexes to the table, whose capacity they use, and global ones for themselves', () => {
    const units = (CapacityUnits: number) => ({ CapacityUnits });
    expect(consumedOf([{ CapacityUnits: 85, Table: units(25), LocalSecondaryIndexes: { a: units(25), b: units(25) }, GlobalSecondaryIndexes: { g: units(10) } }])).toEqual({ table: 75, indexes: new Map([['g', 10]]) });
    expect(consumedOf([units(3), units(4)])).toEqual({ table: 7, indexes: new Map() });
  });
});
