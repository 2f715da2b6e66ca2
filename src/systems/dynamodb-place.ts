import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { roleOfDrill } from '../model/config-dynamodb.ts';
import type { DynamoDatastore } from '../model/config-schema.ts';
import type { DynamoPlace } from './aws.ts';
import { engineOf, type Context } from './context.ts';

/** Clients of one place: tables, and items as they stand on the wire. */
export interface Tables {
  readonly client: DynamoDBClient;
  readonly items: DynamoDBClient;
  readonly place: DynamoPlace;
  /** For people. */
  readonly where: string;
}

export function dynamoOf(context: Pick<Context, 'config'>, datastore: string): DynamoDatastore {
  return engineOf(context.config, datastore, 'dynamodb');
}

export async function openTables(context: Context, place: DynamoPlace): Promise<Tables> {
  const { aws } = context.config;
  return { client: await context.aws.dynamo(place), items: await context.aws.dynamoItems(place), place, where: `${place.region ?? aws.region}${(place.endpoint ?? aws.endpoint) === undefined ? '' : ` at ${place.endpoint ?? aws.endpoint}`}` };
}

/** As a manifest says it. */
export function placeText({ config }: Pick<Context, 'config'>, { place }: Pick<Tables, 'place'>): { region: string; endpoint: string | null } {
  return { region: place.region ?? config.aws.region, endpoint: place.endpoint ?? config.aws.endpoint ?? null };
}

/** Where the datastore's own tables are. */
export async function sourceTables(context: Context, datastore: string): Promise<Tables> {
  const { region, endpoint, credentials, assumeRole } = dynamoOf(context, datastore);
  return openTables(context, { region, endpoint, credentials, assumeRole });
}

/** Where its drills restore to. */
export async function drillTables(context: Context, datastore: string): Promise<Tables> {
  const source = dynamoOf(context, datastore);
  const { drill } = source;
  return openTables(context, { region: drill.region ?? source.region, endpoint: drill.endpoint ?? source.endpoint, credentials: drill.credentials ?? source.credentials, assumeRole: roleOfDrill(source) });
}
