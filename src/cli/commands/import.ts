import type { Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import { openExport } from '../../systems/dynamodb-export-read.ts';
import type { Io } from '../io.ts';
import { openTarget, restoreTables } from '../restore-dynamodb.ts';

export const summary = 'write an export of DynamoDB to S3 into a table';

export function define(command: Command, io: Io): void {
  command
    .description(`${summary}: the service's own, or one of a backup here that is not encrypted. The table must be there: an export does not say how to make it.`)
    .argument('<export>', 's3://bucket/prefix/AWSDynamoDB/<export id>/')
    .requiredOption('--datastore <name>', 'a DynamoDB datastore: its credentials, endpoint and write share are used')
    .requiredOption('--to <url>', 'dynamodb://<region>/<prefix of the table>')
    .option('--table <name>', 'name of the table behind the prefix; default: as in the export')
    .option('--allow-non-empty', 'although the table holds items: those of the same key are replaced')
    .action(async (url: string, flags: { datastore: string; to: string; table?: string; allowNonEmpty?: boolean }) => {
      const context = await io.context();
      const { tables, prefix } = await openTarget(context, flags.datastore, flags.to);
      const source = await openExport(context, url, io.interrupted);
      if (flags.table === '') throw new HoldfastError('usage', '--table is empty', { next: 'leave it out, or name a table' });
      await restoreTables(io, context, { label: `the ${source.describe}`, datastore: flags.datastore, id: url }, [{ ...source, table: flags.table ?? source.table }], tables, prefix, { allowNonEmpty: flags.allowNonEmpty === true }, true);
    });
}
