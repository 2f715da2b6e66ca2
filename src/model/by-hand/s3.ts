import type { DatastoreConfig } from '../config-schema.ts';
import { HoldfastError } from '../errors.ts';
import { joinPrefix } from '../manifest.ts';
import { run, sh, textOf, word, type ByHand, type ByHandCall } from './words.ts';

type S3Datastore = Extract<DatastoreConfig, { engine: 's3' }>;

export const s3ByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  's3.check': (call) => {
    const of = (what: string, query: string): string => `${cli(call)} ${what} --bucket ${sh(bucketOf(call).bucket)} --query ${sh(query)} --output text`;
    return {
      blocks: [
        run('check', 'Versioning is on. Without it nothing can be restored.', of('get-bucket-versioning', 'Status'), ['Enabled']),
        run('check', 'What object lock holds by default; an error that says "not found" means: nothing.', `${of('get-object-lock-configuration', 'ObjectLockConfiguration.Rule.DefaultRetention')} 2>&1`),
        run('check', 'Where it replicates to; an error that says "not found" means: nowhere.', `${of('get-bucket-replication', 'ReplicationConfiguration.Rules[].[ID,Status,Destination.Bucket]')} 2>&1`),
      ],
      stop: ['versioning is not on'],
      broken: 'an error that says "NotImplemented" means that this store does not have it: nobody can say whether it is so',
    };
  },
  's3.planPrefix': (call) => ({ blocks: planned(call), stop: ['the plan deletes or copies keys that you do not expect: is the moment in UTC?'], broken: 'restore single objects instead' }),
  's3.restoreObject': (call) => {
    const { bucket } = bucketOf(call);
    const key = word(call, 'key');
    const version = word(call, 'versionId');
    if (key === null) return { blocks: [], say: ['Which object is to be restored comes out of an earlier step.'], stop: [], broken: 'nothing can break here' };
    const [k, v] = [`key=${key}`, `version=${version}`];
    return {
      blocks: [
        run('check', 'Its versions, newest first, and its delete markers.', `${k}; ${cli(call)} list-object-versions --bucket ${sh(bucket)} --prefix "$key" --query '[Versions[].[LastModified,VersionId,Size],DeleteMarkers[].[LastModified,VersionId,\`deleted\`]][]' --output text`),
        ...(version === null ? [] : [run('do', 'Copy that version over it. No version is lost.', `${k}; ${v}; ${cli(call)} copy-object --bucket ${sh(bucket)} --key "$key" --copy-source ${sh(`${bucket}/`)}"$key?versionId=$version" --metadata-directive COPY --tagging-directive COPY --query CopyObjectResult.ETag --output text`)]),
      ],
      ...(version === null ? { say: [`Then: aws s3api copy-object --bucket ${bucket} --key <key> --copy-source '${bucket}/<key>?versionId=<VersionId>' --metadata-directive COPY --tagging-directive COPY. Choose the newest version not after ${textOf(call.inputs['moment'], 'the moment')}.`] } : {}),
      stop: ['the version is in GLACIER or DEEP_ARCHIVE: aws s3api restore-object first, which takes hours'],
      broken: 'larger than 5 GB: aws s3 cp copies in parts, from a presigned URL or by way of a disk; characters beyond letters, digits, / - _ . in the key must be URL-encoded in --copy-source',
    };
  },
  's3.restorePrefix': (call) => {
    const { bucket } = bucketOf(call);
    return {
      blocks: [
        ...planned(call),
        run('do', 'Carry it out. Deletions only put delete markers; no version is lost. It may be repeated.', [
          `while IFS="$(printf '\\t')" read -r what key version; do`,
          `  case "$what" in`,
          `    copy) ${cli(call)} copy-object --bucket ${sh(bucket)} --key "$key" --copy-source ${sh(`${bucket}/`)}"$key?versionId=$version" --metadata-directive COPY --tagging-directive COPY > /dev/null || echo "FAILED $key" ;;`,
          `    delete) ${cli(call)} delete-object --bucket ${sh(bucket)} --key "$key" > /dev/null || echo "FAILED $key" ;;`,
          `  esac`,
          `done < "$HF/${call.step}.plan"; echo done`,
        ].join('\n'), ['done']),
      ],
      stop: ['the plan deletes or copies keys that you do not expect', 'writers are still active: stop them first'],
      broken: 'lines that begin with FAILED: keys over 5 GB, in an archive class, or with characters that must be URL-encoded in --copy-source; restore these one by one',
    };
  },
  's3.drillMarker': nothingByHand('A drill is left out by hand.'),
  's3.proveMarker': nothingByHand('A drill is left out by hand.'),
  's3.removeMarker': nothingByHand('A drill is left out by hand; what one left lies below .holdfast-drill/.'),
  's3.lifecycle': nothingByHand('Lifecycle rules can wait: nothing is recovered by them. Replacing the document by hand drops every rule that is not in the new one.'),
};

function nothingByHand(say: string): () => ByHand {
  return () => ({ blocks: [], say: [say], stop: [], broken: 'nothing can break here' });
}

/** Every key with what was newest before the moment, into a file: `copy <key> <version>` or `delete <key>`. */
function planned(call: ByHandCall): ReturnType<typeof run>[] {
  const config = bucketOf(call);
  const moment = textOf(call.inputs['moment'], '');
  const utc = Number.isNaN(Date.parse(moment)) ? '<moment in UTC, 2026-11-21T03:15:00>' : new Date(Date.parse(moment)).toISOString().slice(0, 19);
  const list = `${cli(call)} list-object-versions --bucket ${sh(config.bucket)} --prefix ${sh(`${joinPrefix(config.prefix)}${textOf(call.inputs['prefix'], '')}`)} --query '[Versions[].[Key,LastModified,VersionId,\`copy\`],DeleteMarkers[].[Key,LastModified,VersionId,\`delete\`]][]' --output text`;
  return [
    run('do', 'Every version there is; many pages for a large prefix.', `${list} > "$HF/${call.step}.versions"; wc -l < "$HF/${call.step}.versions"`, undefined, 'a number'),
    run('do', `What was newest before ${utc} for each key. Entries of that very second count as later.`, [
      `awk -F'\\t' -v m=${sh(utc)} '{ seen[$1] = 1; t = substr($2, 1, 19); if (t < m && t > at[$1]) { at[$1] = t; version[$1] = $3; what[$1] = $4 } }`,
      `  END { for (key in seen) print (what[key] == "copy" ? "copy" : "delete") "\\t" key "\\t" version[key] }' "$HF/${call.step}.versions" | sort > "$HF/${call.step}.plan"`,
      `cut -f 1 "$HF/${call.step}.plan" | sort | uniq -c; grep '^delete' "$HF/${call.step}.plan" | head -20`,
    ].join('\n')),
  ];
}

function bucketOf(call: ByHandCall): S3Datastore {
  const name = textOf(call.inputs['datastore'], '');
  const found = Object.hasOwn(call.config.datastores, name) ? call.config.datastores[name] : undefined;
  if (found?.engine !== 's3') throw new HoldfastError(found === undefined ? 'unknown-datastore' : 'wrong-engine', found === undefined ? `there is no datastore named "${name}"` : `datastore ${name} is of engine ${found.engine}`, { next: 'give the parameter datastore: one of engine s3' });
  return found;
}

function cli(call: ByHandCall): string {
  const { region, endpoint } = bucketOf(call);
  const url = endpoint ?? call.config.aws.endpoint;
  return `aws s3api --region ${sh(region ?? call.config.aws.region)}${url === undefined ? '' : ` --endpoint-url ${sh(url)}`}`;
}
