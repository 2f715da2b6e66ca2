import { addressOf, aws, command, databaseOf, fetchSecret, noEndpoint, nodeName, run, secretAws, secretPoints, sed, sh, showAddress, textOf, texts, word, type ByHand, type ByHandCall } from './words.ts';

export const applicationByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'secret.stage': secretStage,
  'canary.start': (call) => ({
    blocks: [],
    say: [`Left out by hand. Nothing depends on it, but without it the refused-write window and the lost writes are NOT MEASURED. Note the time of the last good write in the log of ${call.service ?? 'the application'} now and after the swap.`],
    stop: [],
    broken: 'nothing can break here',
  }),
  'secret.swap': secretSwap,
  'route53.change': dns,
  'rollout.command': (call) => {
    const argv = texts(call.inputs['argv']);
    if (argv.length === 0) return { blocks: [], say: ['No rollout command is configured. Restart whatever reads the secret only when it starts.'], stop: [], broken: 'nothing can break here' };
    const verify = texts(call.inputs['verify']);
    return {
      blocks: [
        run('do', 'Make the application take the new endpoint.', `HOLDFAST_SERVICE=${sh(call.service ?? '')} HOLDFAST_MODE=${call.mode} HOLDFAST_EPOCH="$(cat "$HF/epoch")" ${command(argv)}; echo "exit $?"`, ['exit 0']),
        ...(verify.length === 0 ? [] : [run('check', 'It has.', `${command(verify)}; echo "exit $?"`, ['exit 0'])]),
      ],
      stop: [],
      broken: 'restart the application by whatever means there is: it reads its secret when it starts',
    };
  },
  'rollout.http': rolloutHttp,
  'canary.verify': () => ({ blocks: [], say: ['Nothing to do by hand: no canary was started. The refused-write window and the lost writes are not measured; write that, and no figure, into the results.'], stop: [], broken: 'nothing can break here' }),
  'notify.send': (call) => ({
    blocks: [],
    say: [`Tell people: "${textOf(call.inputs['title'], 'what was done')}"${textOf(call.inputs['text'], '') === '' ? '' : ` - ${textOf(call.inputs['text'], '')}`}`, ...Object.entries(call.config.notify).map(([name, receiver]) => `${name}: a ${receiver.type} webhook whose address is at ${receiver.url}`)],
    stop: [],
    broken: 'call somebody',
  }),
};

function secretStage(call: ByHandCall): ByHand {
  const datastore = databaseOf(call);
  const secret = datastore.endpoint?.secret;
  if (secret === undefined) return noEndpoint(call);
  const { host, port } = addressOf(datastore.nodes[nodeName(call, 'candidate')]!);
  const [current, staged] = [`"$HF/${call.step}.currentVersion"`, `"$HF/${call.step}.stagedVersion"`];
  return {
    blocks: [
      run('do', 'Read the current version. It holds the password: the file is yours alone and goes at the end.', [
        `${secretAws(call, datastore)} secretsmanager get-secret-value --secret-id ${sh(secret)} --version-stage AWSCURRENT --query SecretString --output text > "$HF/secret.json"`,
        `${secretAws(call, datastore)} secretsmanager get-secret-value --secret-id ${sh(secret)} --version-stage AWSCURRENT --query VersionId --output text | tee ${current}`,
      ].join('\n'), undefined, 'a version id'),
      run('do', `The same with the address of ${nodeName(call, 'candidate')}. Only host and port differ.`, [
        `sed -e 's/\\("host" *: *"\\)[^"]*"/\\1${sed(host)}"/' -e 's/\\("port" *: *"\\{0,1\\}\\)[0-9]*/\\1${port}/' "$HF/secret.json" > "$HF/secret-new.json"`,
        showAddress('"$HF/secret-new.json"'),
      ].join('\n'), [`${host}:${port}`]),
      run('do', 'Put it beside the current version. Applications do not see it.', `${secretAws(call, datastore)} secretsmanager put-secret-value --secret-id ${sh(secret)} --secret-string "file://$HF/secret-new.json" --version-stages HOLDFAST-STAGED --query VersionId --output text | tee ${staged}`, undefined, 'another version id'),
      run('undo', 'Take the label off; the current version was never touched.', `${secretAws(call, datastore)} secretsmanager update-secret-version-stage --secret-id ${sh(secret)} --version-stage HOLDFAST-STAGED --remove-from-version-id "$(cat ${staged})"; rm -f "$HF/secret.json" "$HF/secret-new.json"`),
    ],
    stop: ['the new address is not printed: the secret is not in the usual form; make the new version by hand in the console'],
    broken: 'Secrets Manager does not answer: the database can still be failed over, but the application will not follow by itself. Decide now whether you can tell it the new address another way',
  };
}

function secretSwap(call: ByHandCall): ByHand {
  const datastore = databaseOf(call);
  const secret = datastore.endpoint?.secret;
  if (secret === undefined) return noEndpoint(call);
  const [current, staged] = [word(call, 'currentVersion'), word(call, 'stagedVersion')];
  const { host, port } = addressOf(datastore.nodes[nodeName(call, 'candidate')]!);
  if (current === null || staged === null) return { blocks: [], say: [`Make a version of secret ${secret} with host ${host} and port ${port} current.`], stop: [], broken: 'do it in the console' };
  const id = sh(secret);
  return {
    blocks: [
      run('check', 'Nobody has changed the secret meanwhile.', `[ "$(${secretAws(call, datastore)} secretsmanager get-secret-value --secret-id ${id} --version-stage AWSCURRENT --query VersionId --output text)" = ${current} ] && echo unchanged || echo CHANGED`, ['unchanged']),
      run('do', 'Make the staged version current. Applications read the new address from here.', `${secretAws(call, datastore)} secretsmanager update-secret-version-stage --secret-id ${id} --version-stage AWSCURRENT --move-to-version-id ${staged} --remove-from-version-id ${current} --query Name --output text`, [secret.split(':').at(-1)!, secret]),
      run('do', 'Take our label off again.', `${secretAws(call, datastore)} secretsmanager update-secret-version-stage --secret-id ${id} --version-stage HOLDFAST-STAGED --remove-from-version-id ${staged} --query Name --output text; rm -f "$HF/secret.json" "$HF/secret-new.json"; echo done`, ['done']),
      ...secretPoints(call, datastore, nodeName(call, 'candidate'), 'The application is told the new primary.'),
    ],
    stop: ['it prints CHANGED: somebody rotated the password. Stage again upon the new version, then go on here'],
    broken: 'change host and port of the secret in the console, keep everything else',
  };
}

function dns(call: ByHandCall): ByHand {
  const datastore = databaseOf(call);
  const record = datastore.endpoint?.dns;
  if (record === undefined) return { blocks: [], say: ['No DNS record is configured for this datastore.'], stop: [], broken: 'nothing can break here' };
  const wanted = addressOf(datastore.nodes[nodeName(call, 'candidate')]!).host;
  const name = record.name.endsWith('.') ? record.name : `${record.name}.`;
  const show = `${aws(call)} route53 list-resource-record-sets --hosted-zone-id ${sh(record.hostedZoneId)} --query ${sh(`ResourceRecordSets[?Name=='${name}' && Type=='${record.type}'].ResourceRecords[].Value`)} --output text`;
  const change = (value: string): string => JSON.stringify({ Comment: 'holdfast, by hand', Changes: [{ Action: 'UPSERT', ResourceRecordSet: { Name: name, Type: record.type, TTL: record.ttlSeconds, ResourceRecords: [{ Value: value }] } }] });
  return {
    blocks: [
      run('check', 'What it says now. Write it down.', `${show} | tee "$HF/${call.step}.before"`, undefined, 'the old address'),
      run('do', `Point ${name} to ${wanted}.`, [
        `cat > "$HF/dns.json" <<'JSON'\n${change(wanted)}\nJSON`,
        `${aws(call)} route53 change-resource-record-sets --hosted-zone-id ${sh(record.hostedZoneId)} --change-batch "file://$HF/dns.json" --query ChangeInfo.Id --output text > "$HF/${call.step}.change"`,
        `${aws(call)} route53 wait resource-record-sets-changed --id "$(cat "$HF/${call.step}.change")" && echo INSYNC`,
      ].join('\n'), ['INSYNC']),
      run('check', 'It says the new address. Resolvers may keep the old one for the TTL.', show, [wanted]),
    ],
    stop: [],
    broken: 'whatever reads the secret works without DNS; change the record in the console',
  };
}

function rolloutHttp(call: ByHandCall): ByHand {
  const url = textOf(call.inputs['url'], '');
  if (url === '') return { blocks: [], say: ['No rollout URL is configured.'], stop: [], broken: 'nothing can break here' };
  const method = textOf(call.inputs['method'], 'POST');
  const authorization = call.inputs['authorization'];
  const body = { service: call.service, mode: call.mode, ...(call.inputs['body'] as object | undefined) };
  const header = typeof authorization === 'string' ? `{ printf 'authorization: '; ${fetchSecret(call, authorization)}; } > "$HF/header"\n` : '';
  const curl = ['curl', '-sS', '-o', '/dev/null', '-w', '%{http_code}\\n', '-X', method, '-H', 'content-type: application/json', ...(method === 'GET' ? [] : ['-d', JSON.stringify(body)]), url];
  const verify = textOf(call.inputs['verifyUrl'], '');
  return {
    blocks: [
      run('do', 'Make the application take the new endpoint.', `${header}${command(curl)}${header === '' ? '' : ' -H @"$HF/header"; rm -f "$HF/header"'}`, ['200', '201', '202', '204']),
      ...(verify === '' ? [] : [run('check', 'It has.', command(['curl', '-sS', '-o', '/dev/null', '-w', '%{http_code}\\n', verify]), ['200', '204'])]),
    ],
    stop: [],
    broken: 'restart the application: it reads its secret when it starts',
  };
}
