import { aws, run, sh, textOf, texts, type ByHand, type ByHandCall } from './words.ts';

const WORLDWIDE = 'us-east-1';

export const edgeByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'region.health': regionHealth,
  'route53.weights': weights,
  'route53.failoverRecord': failoverRecord,
  'cloudfront.origin': origin,
  'secret.replicate': (call) => {
    const [secret, from, to] = [required(call, 'secret'), fromOf(call), required(call, 'region')];
    return {
      blocks: [
        run('do', `Keep a replica of ${secret} in ${to}.`, `${awsIn(call, from)} secretsmanager replicate-secret-to-regions --secret-id ${sh(secret)} --add-replica-regions Region=${sh(to)} --query Name --output text`, undefined, secret),
        run('check', 'It is in sync (wait, and ask again).', statusOf(call, secret, from, to), ['InSync']),
        run('undo', 'Take it away again, if it was not there before.', `${awsIn(call, from)} secretsmanager remove-regions-from-replication --secret-id ${sh(secret)} --remove-replica-regions ${sh(to)} --query Name --output text`),
      ],
      stop: ['it prints Failed: another secret of that name stands there, or the key is not allowed'],
      broken: `make the secret in ${to} by hand, with the same content`,
    };
  },
  'secret.verifyReplica': (call) => {
    const [secret, from, to] = [required(call, 'secret'), fromOf(call), required(call, 'region')];
    return {
      blocks: [
        ...(call.mode === 'forced' ? [] : [run('check', 'The replica is in sync.', statusOf(call, secret, from, to), ['InSync'])]),
        run('check', `${to} has a current version.`, `${awsIn(call, to)} secretsmanager get-secret-value --secret-id ${sh(secret)} --version-stage AWSCURRENT --query VersionId --output text`, undefined, 'a version id'),
      ],
      ...(call.mode === 'forced' ? { say: ['Whether the replica has the last change nobody can tell while the other Region is lost: if a password was changed in the last minutes, try it.'] } : {}),
      stop: [`${to} has no secret of that name`],
      broken: `make the secret in ${to} by hand`,
    };
  },
  'secret.promoteReplica': (call) => {
    const [secret, to] = [required(call, 'secret'), required(call, 'region')];
    return {
      blocks: [run('do', `Make it a secret of its own. NOTHING UNDOES THIS.`, `${awsIn(call, to)} secretsmanager stop-replication-to-replica --secret-id ${sh(secret)} --query ARN --output text`, undefined, 'its ARN'), run('check', 'It is no replica any more.', `${awsIn(call, to)} secretsmanager describe-secret --secret-id ${sh(secret)} --query PrimaryRegion --output text`, ['None', to])],
      stop: [],
      broken: `make a secret of another name in ${to} and tell the application its name`,
    };
  },
  'sqs.redrive': redrive,
  'sqs.verifyEmpty': (call) => ({ blocks: [run('check', 'Nothing waits, nothing is in flight. The counts are approximate: ask three times.', `${queueUrl(call, 'queue')}\n${awsIn(call, regionOf(call))} sqs get-queue-attributes --queue-url "$url" --attribute-names ApproximateNumberOfMessages ApproximateNumberOfMessagesNotVisible --query 'Attributes.[ApproximateNumberOfMessages,ApproximateNumberOfMessagesNotVisible]' --output text | tr '\\t' ' '`, ['0 0'])], stop: [], broken: 'look at what is in it: it does not hold up the recovery' }),
  'flag.set': (call) => {
    const [name, value] = [required(call, 'name'), required(call, 'value')];
    const old = `"$HF/${call.step}.flag"`;
    return {
      blocks: [
        run('check', 'What it is now (empty: it is not there). Write it down.', `${parameter(call)} --query Parameter.Value --output text 2>/dev/null | tee ${old}`, undefined, 'the value'),
        run('do', 'Set it.', `${awsIn(call, regionOf(call))} ssm put-parameter --name ${sh(name)} --type String --overwrite --value ${sh(value)} --query Version --output text`, undefined, 'a number'),
        run('check', 'It is set.', `${parameter(call)} --query Parameter.Value --output text`, [value]),
        run('undo', 'Put it back; delete it if it was not there.', `if [ -s ${old} ]; then ${awsIn(call, regionOf(call))} ssm put-parameter --name ${sh(name)} --type String --overwrite --value "$(cat ${old})" --query Version --output text; else ${awsIn(call, regionOf(call))} ssm delete-parameter --name ${sh(name)}; fi`),
      ],
      stop: ['it is a SecureString: it is no flag'],
      broken: 'degrade the application in its own way',
    };
  },
  'flag.restore': (call) => {
    const name = required(call, 'name');
    return { blocks: [run('do', 'Put back what you wrote down when it was set (VALUE), or delete it if it was not there.', `: "\${VALUE?set VALUE to what it was; empty: it was not there}"; if [ -n "$VALUE" ]; then ${awsIn(call, regionOf(call))} ssm put-parameter --name ${sh(name)} --type String --overwrite --value "$VALUE" --query Version --output text; else ${awsIn(call, regionOf(call))} ssm delete-parameter --name ${sh(name)}; fi`)], stop: ['somebody else has changed it since: ask'], broken: 'the application stays degraded: say so' };
  },
  'service.watch': (call) => {
    const http = call.inputs['http'] as { url?: string; authorization?: string } | undefined;
    return {
      blocks: http?.url === undefined ? [] : [run('check', `Sixty samples, one a second: how many were good, and the slowest tenth.${http.authorization === undefined ? '' : ' It wants an Authorization header: add it.'}`, `i=0; while [ $i -lt 60 ]; do curl -s -m 5 -o /dev/null -w '%{http_code} %{time_total}\\n' ${sh(http.url)}; i=$((i+1)); sleep 1; done > "$HF/${call.step}.samples"; sort -k2 -n "$HF/${call.step}.samples" | tail -6; grep -c '^2' "$HF/${call.step}.samples"`, undefined, '60')],
      say: [`Look at the service for as long as the runbook says. Write down how many samples were good, of how many; without samples write "not measured".`],
      stop: ['it is worse than before the failover'],
      broken: 'ask those who use the service',
    };
  },
};

function required(call: ByHandCall, name: string): string {
  return textOf(call.inputs[name], name.toUpperCase());
}

function regionOf(call: ByHandCall): string {
  return textOf(call.inputs['region'], call.config.aws.region);
}

function fromOf(call: ByHandCall): string {
  return textOf(call.inputs['from'], call.config.aws.region);
}

function awsIn(call: ByHandCall, region: string): string {
  return aws(call, region);
}

function statusOf(call: ByHandCall, secret: string, from: string, to: string): string {
  return `${awsIn(call, from)} secretsmanager describe-secret --secret-id ${sh(secret)} --query ${sh(`ReplicationStatus[?Region=='${to}'].Status`)} --output text`;
}

function parameter(call: ByHandCall): string {
  return `${awsIn(call, regionOf(call))} ssm get-parameter --name ${sh(required(call, 'name'))}`;
}

/** Leaves a queue's URL in $url. */
function queueUrl(call: ByHandCall, input: string): string {
  const name = required(call, input);
  return /^https?:/.test(name) ? `url=${sh(name)}` : `url="$(${awsIn(call, regionOf(call))} sqs get-queue-url --queue-name ${sh(name)} --query QueueUrl --output text)"`;
}

function regionHealth(call: ByHandCall): ByHand {
  const [lost, other] = [required(call, 'region'), required(call, 'other')];
  const planned = call.mode === 'planned';
  const code = (url: string): string => `curl -s -m 5 -o /dev/null -w '%{http_code}\\n' ${sh(url)}`;
  return {
    blocks: [
      ...texts(call.inputs['healthChecks']).map((id) => run('check', `Place 1: Route 53's checkers. How many ${planned ? 'succeed' : 'fail'}.`, `${awsIn(call, WORLDWIDE)} route53 get-health-check-status --health-check-id ${sh(id)} --query 'HealthCheckObservations[].StatusReport.Status' --output text | tr '\\t' '\\n' | grep -c ${planned ? '' : '-v '}'^Success'`, undefined, planned ? 'all of them' : 'more than 4 of 5')),
      ...texts(call.inputs['endpoints']).map((url) => run('check', `Place 2: what you get yourself.`, code(url), planned ? ['200', '204'] : undefined, planned ? undefined : '000 or 5xx')),
      ...texts(call.inputs['otherEndpoints']).map((url) => run('check', `${other} is ready.`, code(url), ['200', '204'])),
      run('check', `Place 3: the API of ${lost}.`, `${awsIn(call, lost)} rds describe-db-instances --max-records 20 --query 'length(DBInstances)' --output text; echo "exit $?"`, planned ? ['exit 0'] : undefined, planned ? undefined : 'exit 255, while the same with the other Region answers'),
      run('check', `The API of ${other} answers.`, `${awsIn(call, other)} rds describe-db-instances --max-records 20 --query 'length(DBInstances)' --output text; echo "exit $?"`, ['exit 0']),
    ],
    stop: planned ? ['one of them is not well: use the checklist for a forced failover, or wait'] : ['fewer than two places say that it is down', `an endpoint in ${lost} answers well: it is alive`, `nothing of ${other} answers either: it may be your own network`],
    broken: 'nothing was changed yet: stop, and ask',
  };
}

function weights(call: ByHandCall): ByHand {
  const [zone, name, type] = [required(call, 'hostedZoneId'), required(call, 'name'), textOf(call.inputs['type'], 'A')];
  const wanted = Object.entries((call.inputs['weights'] ?? {}) as Record<string, number>);
  const dotted = name.endsWith('.') ? name : `${name}.`;
  const client = awsIn(call, WORLDWIDE);
  const old = `"$HF/${call.step}.sets.json"`;
  const select = `ResourceRecordSets[?Name=='${dotted}' && Type=='${type}']`;
  const batch = (file: string, program: string): string => `python3 -c ${sh(program)} ${old} > "$HF/${file}"\n${client} route53 change-resource-record-sets --hosted-zone-id ${sh(zone)} --change-batch "file://$HF/${file}" --query ChangeInfo.Id --output text`;
  const change = `import json,sys; sets=json.load(open(sys.argv[1])); w=${JSON.stringify(Object.fromEntries(wanted))}; print(json.dumps({"Changes":[{"Action":"DELETE","ResourceRecordSet":s} for s in sets if s["SetIdentifier"] in w]+[{"Action":"CREATE","ResourceRecordSet":dict(s,Weight=w[s["SetIdentifier"]])} for s in sets if s["SetIdentifier"] in w]}))`;
  const back = `import json,sys; sets=json.load(open(sys.argv[1])); w=${JSON.stringify(Object.fromEntries(wanted))}; print(json.dumps({"Changes":[{"Action":"DELETE","ResourceRecordSet":dict(s,Weight=w[s["SetIdentifier"]])} for s in sets if s["SetIdentifier"] in w]+[{"Action":"CREATE","ResourceRecordSet":s} for s in sets if s["SetIdentifier"] in w]}))`;
  return {
    blocks: [
      run('check', 'The sets as they are. Keep the file: it holds what goes back.', `${client} route53 list-resource-record-sets --hosted-zone-id ${sh(zone)} --query ${sh(select)} --output json > ${old}; ${client} route53 list-resource-record-sets --hosted-zone-id ${sh(zone)} --query ${sh(`${select}.[SetIdentifier,Weight]`)} --output text`, undefined, wanted.map(([set]) => `${set} and its weight`).join('; ')),
      run('do', `Set ${wanted.map(([set, weight]) => `${set} to ${weight}`).join(', ')}. Each set is deleted as it was and created anew in one batch: Route 53 refuses it if somebody changed one meanwhile.`, batch(`${call.step}.change.json`, change), undefined, '/change/C0123456789'),
      run('check', 'The weights are there.', `${client} route53 list-resource-record-sets --hosted-zone-id ${sh(zone)} --query ${sh(`${select}.[SetIdentifier,Weight]`)} --output text`, undefined, wanted.map(([set, weight]) => `${set} ${weight}`).join('; ')),
      run('undo', 'The weights as they were.', batch(`${call.step}.back.json`, back)),
    ],
    stop: ['InvalidChangeBatch: somebody changed the sets; read them again'],
    broken: 'change the weights in the console. Route 53 is changed through us-east-1: when that Region is lost, records cannot be changed, only its health checks go on',
  };
}

function failoverRecord(call: ByHandCall): ByHand {
  const [zone, name, type] = [required(call, 'hostedZoneId'), required(call, 'name'), textOf(call.inputs['type'], 'A')];
  const dotted = name.endsWith('.') ? name : `${name}.`;
  const client = awsIn(call, WORLDWIDE);
  const id = `"$HF/${call.step}.check"`;
  const away = textOf(call.inputs['to'], 'secondary') === 'secondary';
  const set = (on: boolean): string => `${client} route53 update-health-check --health-check-id "$(cat ${id})" --health-check-version "$(${client} route53 get-health-check --health-check-id "$(cat ${id})" --query HealthCheck.HealthCheckVersion --output text)" ${on ? '--disabled --inverted' : '--no-disabled --no-inverted'} --query 'HealthCheck.HealthCheckConfig.[Disabled,Inverted]' --output text | tr '\\t' ' '`;
  return {
    blocks: [
      run('check', 'The health check of the PRIMARY set.', `${client} route53 list-resource-record-sets --hosted-zone-id ${sh(zone)} --query ${sh(`ResourceRecordSets[?Name=='${dotted}' && Type=='${type}' && Failover=='PRIMARY'].HealthCheckId`)} --output text | tee ${id}`, undefined, 'an id'),
      run('do', away ? 'Disabled counts as healthy, inverted turns that round: unhealthy whatever the endpoint does. Inverted alone would send everybody to an endpoint that is down.' : 'Enabled, not inverted: Route 53 decides by itself.', set(away), [away ? 'True True' : 'False False']),
      run('undo', 'As it was (this is: enabled, not inverted).', set(!away)),
      run('check', 'What DNS answers (resolvers keep the old answer for the TTL).', `dig +short ${sh(name)} ${sh(type)}`, undefined, away ? 'the address of the secondary' : 'the address of the primary'),
    ],
    stop: ['it prints None: the PRIMARY set has no health check'],
    broken: 'change the record itself in the console. Route 53 is changed through us-east-1: when that Region is lost, only its health checks go on by themselves',
  };
}

function origin(call: ByHandCall): ByHand {
  const id = required(call, 'distributionId');
  const group = call.inputs['originGroup'] as { id?: string; first?: string } | undefined;
  const wanted = textOf(call.inputs['origin'], 'ORIGIN');
  const behaviors = texts(call.inputs['behaviors']).length === 0 ? ['default'] : texts(call.inputs['behaviors']);
  const client = awsIn(call, WORLDWIDE);
  const file = (kind: string): string => `"$HF/${call.step}.${kind}.json"`;
  const change = group === undefined
    ? `import json,sys; a=json.load(open(sys.argv[1])); c=a["DistributionConfig"]; names=${JSON.stringify(behaviors)}; o=${JSON.stringify(wanted)}\nif "default" in names: c["DefaultCacheBehavior"]["TargetOriginId"]=o\nfor b in c.get("CacheBehaviors",{}).get("Items",[]):\n  if b["PathPattern"] in names: b["TargetOriginId"]=o\nprint(json.dumps(c))`
    : `import json,sys; c=json.load(open(sys.argv[1]))["DistributionConfig"]\nfor g in c["OriginGroups"]["Items"]:\n  if g["Id"]==${JSON.stringify(group.id ?? '')}: g["Members"]["Items"].sort(key=lambda m: m["OriginId"]!=${JSON.stringify(group.first ?? '')})\nprint(json.dumps(c))`;
  const plain = 'import json,sys; print(json.dumps(json.load(open(sys.argv[1]))["DistributionConfig"]))';
  const update = (config: string, etag: string): string => `${client} cloudfront update-distribution --id ${sh(id)} --if-match ${etag} --distribution-config "file://$HF/${call.step}.${config}.json" --query ETag --output text`;
  const etagNow = `"$(${client} cloudfront get-distribution-config --id ${sh(id)} --query ETag --output text)"`;
  return {
    blocks: [
      run('check', 'The configuration as it is. Keep the file: it holds what goes back.', `${client} cloudfront get-distribution-config --id ${sh(id)} --output json > ${file('before')}; python3 -c ${sh('import json,sys; print(json.load(open(sys.argv[1]))["ETag"])')} ${file('before')} | tee "$HF/${call.step}.etag"`, undefined, 'an ETag'),
      run('do', group === undefined ? `Origin ${wanted} for ${behaviors.join(', ')}; everything else stays. Refused if somebody changed the distribution meanwhile.` : `${group.first} first in group ${group.id}; everything else stays. Refused if somebody changed the distribution meanwhile.`, `python3 -c ${sh(change)} ${file('before')} > ${file('after')}\n${update('after', `"$(cat "$HF/${call.step}.etag")"`)}`, undefined, 'another ETag'),
      run('check', 'Deployed (minutes: ask again).', `${client} cloudfront get-distribution --id ${sh(id)} --query Distribution.Status --output text`, ['Deployed']),
      ...(texts(call.inputs['invalidate']).length === 0 ? [] : [run('do', 'Take the paths out of the caches, now that every edge has the new origin.', `${client} cloudfront create-invalidation --distribution-id ${sh(id)} --paths ${texts(call.inputs['invalidate']).map((path) => sh(path)).join(' ')} --query Invalidation.Id --output text`, undefined, 'an id')]),
      run('undo', 'The configuration as it was. Only if nobody changed it since.', `python3 -c ${sh(plain)} ${file('before')} > ${file('back')}\n${update('back', etagNow)}`),
    ],
    stop: ['PreconditionFailed: somebody changed the distribution; read it again'],
    broken: 'change the origin in the console',
  };
}

function redrive(call: ByHandCall): ByHand {
  const client = awsIn(call, regionOf(call));
  const arn = (input: string): string => `${queueUrl(call, input)}; ${client} sqs get-queue-attributes --queue-url "$url" --attribute-names QueueArn --query Attributes.QueueArn --output text`;
  const [from, to] = [`"$HF/${call.step}.from"`, `"$HF/${call.step}.to"`];
  return {
    blocks: [
      run('check', 'The ARNs of both queues.', `{ ${arn('deadLetterQueue')}; } > ${from}; { ${arn('queue')}; } > ${to}; cat ${from} ${to}`, undefined, 'two ARNs'),
      run('check', 'The queue really names this dead-letter queue.', `${queueUrl(call, 'queue')}\n${client} sqs get-queue-attributes --queue-url "$url" --attribute-names RedrivePolicy --query Attributes.RedrivePolicy --output text | grep -c "$(cat ${from})"`, ['1']),
      run('do', 'Have SQS move them.', `${client} sqs start-message-move-task --source-arn "$(cat ${from})" --destination-arn "$(cat ${to})"${typeof call.inputs['perSecond'] === 'number' ? ` --max-number-of-messages-per-second ${call.inputs['perSecond']}` : ''} --query TaskHandle --output text`, undefined, 'a handle'),
      run('check', 'It is done, and how many about.', `${client} sqs list-message-move-tasks --source-arn "$(cat ${from})" --max-results 1 --query 'Results[0].[Status,ApproximateNumberOfMessagesMoved]' --output text`, undefined, 'COMPLETED and a number'),
    ],
    stop: ['the redrive policy names another queue'],
    broken: 'leave the messages where they are: they are kept (14 days at most), and hold up nothing',
  };
}
