import { z } from 'zod';
import type { Difference } from './proof.ts';

/** What is kept of a table besides its items. `null`: the server does not say (DynamoDB Local knows no tags, for one). */
const keySchema = z.array(z.strictObject({ name: z.string(), kind: z.enum(['HASH', 'RANGE']) }));
const units = z.strictObject({ read: z.number(), write: z.number() });
const projection = z.strictObject({ type: z.string(), attributes: z.array(z.string()) });
const globalIndex = z.strictObject({ name: z.string(), key: keySchema, projection, provisioned: units.nullable(), maximum: units.nullable() });
const localIndex = z.strictObject({ name: z.string(), key: keySchema, projection });

export const tableSettingsSchema = z.strictObject({
  key: keySchema,
  attributes: z.array(z.strictObject({ name: z.string(), type: z.enum(['S', 'N', 'B']) })),
  globalIndexes: z.array(globalIndex),
  localIndexes: z.array(localIndex),
  billing: z.enum(['provisioned', 'on-demand']),
  provisioned: units.nullable(),
  /** Of an on-demand table; -1: none. */
  maximum: units.nullable(),
  tableClass: z.string(),
  encryption: z.strictObject({ type: z.enum(['owned-by-service', 'KMS']), kmsKeyArn: z.string().nullable() }),
  deletionProtection: z.boolean(),
  /** View type of the stream. */
  stream: z.string().nullable(),
  timeToLive: z.string().nullable(),
  tags: z.record(z.string(), z.string()).nullable(),
  pointInTime: z.strictObject({ enabled: z.boolean(), days: z.number().nullable() }).nullable(),
  /** What the table has that is not kept, in words. */
  notKept: z.array(z.string()),
});
export type TableSettings = z.infer<typeof tableSettingsSchema>;

/** Of a description of the service what is needed here; the SDK's types fit it. */
export interface DescribedTable {
  readonly KeySchema?: readonly DescribedKey[] | undefined;
  readonly AttributeDefinitions?: readonly { readonly AttributeName?: string | undefined; readonly AttributeType?: string | undefined }[] | undefined;
  readonly GlobalSecondaryIndexes?: readonly (DescribedIndex & { readonly ProvisionedThroughput?: DescribedUnits | undefined; readonly OnDemandThroughput?: DescribedMaximum | undefined })[] | undefined;
  readonly LocalSecondaryIndexes?: readonly DescribedIndex[] | undefined;
  readonly BillingModeSummary?: { readonly BillingMode?: string | undefined } | undefined;
  readonly ProvisionedThroughput?: DescribedUnits | undefined;
  readonly OnDemandThroughput?: DescribedMaximum | undefined;
  readonly TableClassSummary?: { readonly TableClass?: string | undefined } | undefined;
  readonly SSEDescription?: { readonly Status?: string | undefined; readonly SSEType?: string | undefined; readonly KMSMasterKeyArn?: string | undefined } | undefined;
  readonly DeletionProtectionEnabled?: boolean | undefined;
  readonly StreamSpecification?: { readonly StreamEnabled?: boolean | undefined; readonly StreamViewType?: string | undefined } | undefined;
  readonly Replicas?: readonly { readonly RegionName?: string | undefined }[] | undefined;
}
interface DescribedKey {
  readonly AttributeName?: string | undefined;
  readonly KeyType?: string | undefined;
}
interface DescribedUnits {
  readonly ReadCapacityUnits?: number | undefined;
  readonly WriteCapacityUnits?: number | undefined;
}
interface DescribedMaximum {
  readonly MaxReadRequestUnits?: number | undefined;
  readonly MaxWriteRequestUnits?: number | undefined;
}
interface DescribedIndex {
  readonly IndexStatus?: string | undefined;
  readonly IndexName?: string | undefined;
  readonly KeySchema?: readonly DescribedKey[] | undefined;
  readonly Projection?: { readonly ProjectionType?: string | undefined; readonly NonKeyAttributes?: readonly string[] | undefined } | undefined;
}

export function settingsOf(table: DescribedTable, beside: Pick<TableSettings, 'timeToLive' | 'tags' | 'pointInTime'>): TableSettings {
  const onDemand = table.BillingModeSummary?.BillingMode === 'PAY_PER_REQUEST';
  const key = (schema: readonly DescribedKey[] | undefined): TableSettings['key'] =>
    (schema ?? []).map(({ AttributeName = '', KeyType }) => ({ name: AttributeName, kind: KeyType === 'RANGE' ? ('RANGE' as const) : ('HASH' as const) })).sort((a, b) => a.kind.localeCompare(b.kind));
  const index = ({ IndexName = '', KeySchema, Projection }: DescribedIndex): TableSettings['localIndexes'][number] => ({ name: IndexName, key: key(KeySchema), projection: { type: Projection?.ProjectionType ?? 'ALL', attributes: [...(Projection?.NonKeyAttributes ?? [])].sort() } });
  const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1);
  const kms = table.SSEDescription?.SSEType === 'KMS' && table.SSEDescription.Status !== 'DISABLED';
  const replicas = (table.Replicas ?? []).map(({ RegionName }) => RegionName ?? 'unknown');
  return {
    key: key(table.KeySchema),
    attributes: (table.AttributeDefinitions ?? []).map(({ AttributeName = '', AttributeType }) => ({ name: AttributeName, type: AttributeType as 'S' | 'N' | 'B' })).sort(byName),
    globalIndexes: (table.GlobalSecondaryIndexes ?? []).filter(({ IndexStatus }) => IndexStatus !== 'DELETING').map((one) => ({ ...index(one), provisioned: onDemand ? null : unitsOf(one.ProvisionedThroughput), maximum: maximumOf(one.OnDemandThroughput) })).sort(byName),
    localIndexes: (table.LocalSecondaryIndexes ?? []).map(index).sort(byName),
    billing: onDemand ? 'on-demand' : 'provisioned',
    provisioned: onDemand ? null : unitsOf(table.ProvisionedThroughput),
    maximum: maximumOf(table.OnDemandThroughput),
    tableClass: table.TableClassSummary?.TableClass ?? 'STANDARD',
    encryption: kms ? { type: 'KMS', kmsKeyArn: table.SSEDescription?.KMSMasterKeyArn ?? null } : { type: 'owned-by-service', kmsKeyArn: null },
    deletionProtection: table.DeletionProtectionEnabled === true,
    stream: table.StreamSpecification?.StreamEnabled === true ? (table.StreamSpecification.StreamViewType ?? null) : null,
    ...beside,
    notKept: ['auto scaling policies, resource policy, Kinesis destination and contributor insights, if it has any', ...(replicas.length === 0 ? [] : [`replicas of a global table in ${replicas.join(', ')}`])],
  };
}

function unitsOf(described: DescribedUnits | undefined): { read: number; write: number } | null {
  return described === undefined ? null : { read: described.ReadCapacityUnits ?? 0, write: described.WriteCapacityUnits ?? 0 };
}

function maximumOf(described: DescribedMaximum | undefined): { read: number; write: number } | null {
  return described === undefined ? null : { read: described.MaxReadRequestUnits ?? -1, write: described.MaxWriteRequestUnits ?? -1 };
}

export interface CreateOptions {
  /** Instead of the source's: a drill and a first filling cost no reserved capacity. */
  readonly onDemand?: boolean;
  /** The key of the source's Region cannot be used elsewhere. */
  readonly keepEncryption: boolean;
  readonly tags: Readonly<Record<string, string>>;
}

/** What CreateTable takes: keys, indexes, capacity, class and encryption. What makes items come or go (TTL, stream) is set after a restore. */
export function createInput(table: string, settings: TableSettings, { onDemand = false, keepEncryption, tags }: CreateOptions) {
  const demand = onDemand || settings.billing === 'on-demand';
  const key = (schema: TableSettings['key']) => schema.map(({ name, kind }) => ({ AttributeName: name, KeyType: kind }));
  const projected = ({ type, attributes }: TableSettings['localIndexes'][number]['projection']) => ({ ProjectionType: type as 'ALL', ...(attributes.length === 0 ? {} : { NonKeyAttributes: attributes }) });
  const capacity = (provisioned: { read: number; write: number } | null, maximum: { read: number; write: number } | null) => {
    if (!demand) return { ProvisionedThroughput: { ReadCapacityUnits: Math.max(1, provisioned?.read ?? 1), WriteCapacityUnits: Math.max(1, provisioned?.write ?? 1) } };
    return onDemand || maximum === null ? {} : { OnDemandThroughput: { MaxReadRequestUnits: maximum.read, MaxWriteRequestUnits: maximum.write } };
  };
  return {
    TableName: table,
    KeySchema: key(settings.key),
    AttributeDefinitions: settings.attributes.map(({ name, type }) => ({ AttributeName: name, AttributeType: type })),
    BillingMode: demand ? ('PAY_PER_REQUEST' as const) : ('PROVISIONED' as const),
    ...capacity(settings.provisioned, settings.maximum),
    ...(settings.globalIndexes.length === 0 ? {} : { GlobalSecondaryIndexes: settings.globalIndexes.map((index) => ({ IndexName: index.name, KeySchema: key(index.key), Projection: projected(index.projection), ...capacity(index.provisioned, index.maximum) })) }),
    ...(settings.localIndexes.length === 0 ? {} : { LocalSecondaryIndexes: settings.localIndexes.map((index) => ({ IndexName: index.name, KeySchema: key(index.key), Projection: projected(index.projection) })) }),
    ...(settings.tableClass === 'STANDARD' || onDemand ? {} : { TableClass: settings.tableClass as 'STANDARD_INFREQUENT_ACCESS' }),
    ...(keepEncryption && settings.encryption.type === 'KMS' ? { SSESpecification: { Enabled: true, SSEType: 'KMS' as const, ...(settings.encryption.kmsKeyArn === null ? {} : { KMSMasterKeyId: settings.encryption.kmsKeyArn }) } } : {}),
    ...(Object.keys(tags).length === 0 ? {} : { Tags: Object.entries(tags).map(([Key, Value]) => ({ Key, Value })) }),
  };
}

/** Why items of the one cannot go into the other; undefined: they can. */
export function keyMismatch(expected: Pick<TableSettings, 'key' | 'attributes'>, found: Pick<TableSettings, 'key' | 'attributes'>): string | undefined {
  const words = ({ key, attributes }: Pick<TableSettings, 'key' | 'attributes'>): string => key.map(({ name, kind }) => `${name} (${kind}, ${attributes.find((one) => one.name === name)?.type ?? '?'})`).join(', ');
  return words(expected) === words(found) ? undefined : `its key is ${words(found)}, that of the items is ${words(expected)}`;
}

type Shape = Pick<TableSettings, 'key' | 'attributes' | 'globalIndexes' | 'localIndexes'>;

/** Key, attributes and indexes by name, as texts that can be compared. */
function shapeTexts(table: string, { key, attributes, globalIndexes, localIndexes }: Shape): Map<string, string> {
  const keyText = (schema: TableSettings['key']): string => schema.map(({ name, kind }) => `${name} ${kind}`).join(', ');
  const indexText = ({ key: its, projection: { type, attributes: projected } }: TableSettings['localIndexes'][number]): string => `key ${keyText(its)}; projects ${type}${projected.length === 0 ? '' : ` ${projected.join(', ')}`}`;
  return new Map([
    [`${table} key`, keyText(key)],
    [`${table} attributes`, attributes.map(({ name, type }) => `${name} ${type}`).join(', ')],
    ...globalIndexes.map((index): [string, string] => [`${table} global index ${index.name}`, indexText(index)]),
    ...localIndexes.map((index): [string, string] => [`${table} local index ${index.name}`, indexText(index)]),
  ]);
}

/** What of a table's shape a restore did not bring back as it was. @returns also how many parts were compared. */
export function compareShapes(table: string, expected: Shape, found: Shape): { readonly differences: Difference[]; readonly compared: number } {
  const wanted = shapeTexts(table, expected);
  const there = shapeTexts(table, found);
  const differences: Difference[] = [];
  for (const [object, text] of wanted) {
    const other = there.get(object);
    if (other === undefined) differences.push({ kind: 'schema-missing', object, expected: text, found: 'not there' });
    else if (other !== text) differences.push({ kind: 'schema-changed', object, expected: text, found: other });
  }
  for (const [object, text] of there) if (!wanted.has(object)) differences.push({ kind: 'schema-unexpected', object, expected: 'not in the backup', found: text });
  return { differences, compared: wanted.size };
}
