import type { DatastoreConfig } from '../config-schema.ts';
import { accountOf } from '../config-words.ts';
import { HoldfastError } from '../errors.ts';
import { run, sh, textOf, word, type ByHand, type ByHandCall } from './words.ts';

type DynamodbDatastore = Extract<DatastoreConfig, { engine: 'dynamodb' }>;

export const dynamodbByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'dynamodb.createTarget': (call) => {
    const [table, target] = tables(call);
    return {
      blocks: [
        run('check', 'Keys and indexes of the source. Write them down.', `${cli(call, 'source')} describe-table --table-name ${sh(table)} --query 'Table.{AttributeDefinitions:AttributeDefinitions,KeySchema:KeySchema,GlobalSecondaryIndexes:GlobalSecondaryIndexes[].{IndexName:IndexName,KeySchema:KeySchema,Projection:Projection},LocalSecondaryIndexes:LocalSecondaryIndexes[].{IndexName:IndexName,KeySchema:KeySchema,Projection:Projection}}' --output json > "$HF/${call.step}.json"; sed -i '/: null/d' "$HF/${call.step}.json"; wc -c < "$HF/${call.step}.json"`, undefined, 'a number'),
        run('do', 'Create the copy from them, on demand, so that no capacity has to be chosen.', `${cli(call, 'datastore')} create-table --table-name ${sh(target)} --billing-mode PAY_PER_REQUEST --cli-input-json "file://$HF/${call.step}.json" --query TableDescription.TableStatus --output text`, ['CREATING', 'ACTIVE']),
        run('check', 'Wait for it.', `${cli(call, 'datastore')} wait table-exists --table-name ${sh(target)} && echo there`, ['there']),
      ],
      stop: ['a table of that name is there already: it is somebody\'s'],
      broken: 'a trailing comma where a null line was taken out: correct the file and repeat',
    };
  },
  'dynamodb.copy': (call) => {
    const [table] = tables(call);
    return {
      blocks: [run('check', 'Whether it has a stream, and of which view.', `${cli(call, 'source')} describe-table --table-name ${sh(table)} --query 'Table.StreamSpecification.StreamViewType' --output text`, ['NEW_IMAGE', 'NEW_AND_OLD_IMAGES'])],
      say: ['A live table cannot be copied exactly by hand: stop the writers first. Then either export it to S3 and import it as a new table (aws dynamodb export-table-to-point-in-time, then import-table), or restore a point in time into the other Region (restore-table-to-point-in-time there, with --source-table-arn). Both need point-in-time recovery.'],
      stop: ['the writers go on'],
      broken: 'begin again, into an empty table',
    };
  },
  'dynamodb.follow': () => nothing('A stream is not followed by hand: the writers stay stopped from before the copy until it is verified.'),
  'dynamodb.verifyCopy': (call) => {
    const [table, target] = tables(call);
    const count = (input: 'source' | 'datastore', name: string): string => `${cli(call, input)} scan --table-name ${sh(name)} --consistent-read --select COUNT --query Count --output text`;
    return {
      blocks: [
        run('check', 'Items of the source, counted by reading all of it; it costs as much as reading it.', count('source', table), undefined, 'a number, or one a page: add them up'),
        run('check', 'Items of the copy. It must be the same.', count('datastore', target), undefined, 'the same'),
      ],
      stop: ['they differ'],
      broken: 'the same count is no proof of the same content: compare some items by get-item',
    };
  },
  'dynamodb.settings': (call) => {
    const [table, target] = tables(call);
    return {
      blocks: [
        run('check', 'Time to live of the source.', `${cli(call, 'source')} describe-time-to-live --table-name ${sh(table)} --query 'TimeToLiveDescription.[TimeToLiveStatus,AttributeName]' --output text`),
        run('do', 'Point-in-time recovery of the copy.', `${cli(call, 'datastore')} update-continuous-backups --table-name ${sh(target)} --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true --query 'ContinuousBackupsDescription.PointInTimeRecoveryDescription.PointInTimeRecoveryStatus' --output text`, ['ENABLED']),
      ],
      say: [`Where time to live is on: aws dynamodb update-time-to-live --table-name ${target} --time-to-live-specification Enabled=true,AttributeName=<attribute>. Tags: list-tags-of-resource and tag-resource. Stream: update-table --stream-specification.`],
      stop: [],
      broken: 'a table takes one change at a time: wait until it is ACTIVE',
    };
  },
  'dynamodb.marker': () => nothing('A marker is left out by hand.'),
  'dynamodb.removeMarker': () => nothing('A marker is left out by hand; what a drill left has the attribute holdfast-marker.'),
  'dynamodb.restoreToMoment': (call) => {
    const table = textOf(call.inputs['table'], '');
    const as = textOf(call.inputs['as'], '');
    const moment = word(call, 'moment');
    return {
      blocks: [
        run('check', 'The moments that can be restored.', `${cli(call, 'datastore')} describe-continuous-backups --table-name ${sh(table)} --query 'ContinuousBackupsDescription.PointInTimeRecoveryDescription.[EarliestRestorableDateTime,LatestRestorableDateTime]' --output text`),
        run('do', 'Restore it as a new table.', `${moment === null ? '' : `moment=${moment}; `}${cli(call, 'datastore')} restore-table-to-point-in-time --source-table-name ${sh(table)} --target-table-name ${sh(as)} ${moment === null ? '--use-latest-restorable-time' : '--restore-date-time "$moment"'} --query TableDescription.TableStatus --output text`, ['CREATING', 'ACTIVE']),
        run('check', 'Wait for it; it takes from twenty minutes to hours.', `${cli(call, 'datastore')} wait table-exists --table-name ${sh(as)} && echo there`, ['there']),
      ],
      stop: ['there is a table of that name'],
      broken: 'time to live, tags, stream, auto scaling and point-in-time recovery are not brought back: set them',
    };
  },
  'dynamodb.removeRestored': () => nothing('A drill is left out by hand; what one left is named holdfast-moment-...'),
};

function nothing(say: string): ByHand {
  return { blocks: [], say: [say], stop: [], broken: 'nothing can break here' };
}

function tables(call: ByHandCall): [string, string] {
  const table = textOf(call.inputs['table'], '');
  return [table, textOf(call.inputs['targetTable'], table)];
}

function cli(call: ByHandCall, input: 'source' | 'datastore'): string {
  const name = textOf(call.inputs[input], '');
  const found = Object.hasOwn(call.config.datastores, name) ? call.config.datastores[name] : undefined;
  if (found?.engine !== 'dynamodb') throw new HoldfastError(found === undefined ? 'unknown-datastore' : 'wrong-engine', found === undefined ? `there is no datastore named "${name}"` : `datastore ${name} is of engine ${found.engine}`, { next: `give the parameter ${input}: one of engine dynamodb` });
  const { region, endpoint, assumeRole }: Pick<DynamodbDatastore, 'region' | 'endpoint' | 'assumeRole'> = found;
  const url = endpoint ?? call.config.aws.endpoint;
  // In our own account there may be a table of the same name.
  const inAccount = assumeRole === undefined ? '' : `{ [ "$(aws sts get-caller-identity --query Account --output text)" = ${accountOf(assumeRole)} ] || { echo ${sh(`first assume ${assumeRole.arn}`)} >&2; false; }; } && `;
  return `${inAccount}aws dynamodb --region ${sh(region ?? call.config.aws.region)}${url === undefined ? '' : ` --endpoint-url ${sh(url)}`}`;
}
