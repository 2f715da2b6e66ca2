import { command, databaseOf, fetchSecret, nodeName, psql, run, sh, textOf, waitFor, type ByHand, type ByHandCall, type PatroniController } from './words.ts';

export const controlByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'operator.approval': (call) => {
    const count = typeof call.inputs['count'] === 'number' ? call.inputs['count'] : call.approvals;
    return {
      blocks: [],
      say: [count === 0 ? 'The policy asks for no approval. Say aloud, in the channel where people are, what you are about to do, and wait a moment.' : `${count} other ${count === 1 ? 'person' : 'people'} must agree, none of them the one who does this. Names and times: ____________________________`],
      stop: ['somebody who knows this service says no'],
      broken: 'nobody can be reached: write down whom you tried and when; the decision is yours',
    };
  },
  'operator.wait': (call) => ({ blocks: [run('do', 'Wait.', `sleep ${Math.ceil(Number(call.inputs['duration'] ?? 0) / 1000)}`)], stop: [], broken: 'nothing can break here' }),
  'runbook.run': (call) => {
    const { runbook, service, purpose } = call.inputs;
    const exported = purpose === undefined ? textOf(runbook, 'RUNBOOK') : `${textOf(service, call.service ?? 'SERVICE')} --purpose ${textOf(purpose, 'failover')}`;
    return { blocks: [], say: [`Follow the checklist that \`holdfast plan ${exported} --export FOLDER\` wrote, to its end. It has a point of no return of its own where it promotes.`], stop: ['that checklist says so'], broken: 'see that checklist' };
  },
  'controller.pause': (call) => patroni(call, 'pause'),
  'controller.resume': (call) => patroni(call, 'resume'),
};

function patroni(call: ByHandCall, verb: 'pause' | 'resume'): ByHand {
  const datastore = databaseOf(call);
  const lost = call.mode === 'forced' ? call.roles.primary : null;
  const asked = Object.keys(datastore.nodes).filter((name) => name !== lost);
  const { controller } = datastore;
  if (controller?.type !== 'patroni') {
    return verb === 'resume'
      ? { blocks: [], say: ['No Patroni is configured: nothing was paused.'], stop: [], broken: 'nothing can break here' }
      : {
          blocks: asked.map((name) => run('check', `No Patroni is connected to ${name}.`, psql(call, name, "select count(*) from pg_stat_activity where application_name ilike 'patroni%'"), ['0'])),
          stop: ['it prints anything but 0: a Patroni that nobody configured would fight you. Find it, `patronictl pause --wait`, and look again'],
          broken: 'nothing was changed yet: stop, and ask',
        };
  }
  const curl = (node: string, path: string, ...more: string[]): string => patroniCurl(call, controller, controller.members[node]!.api, path, more);
  const members = Object.keys(controller.members).filter((node) => node !== lost);
  const one = members.find((node) => node === call.roles.candidate) ?? members[0]!;
  const change = (body: string): string => curl(one, '/config', '-o', '/dev/null', '-w', '%{http_code}\\n', '-X', 'PATCH', '-d', body);
  const pausedOf = (node: string): string => `${curl(node, '/patroni')} | tr -d ' ' | grep -c '"pause":true'`;
  if (verb === 'resume') {
    const leader = controller.members[nodeName(call, 'primary')]?.name ?? nodeName(call, 'primary');
    return {
      blocks: [
        run('check', `Patroni itself names ${leader} as its leader (it may take some of its loops).`, waitFor(`${curl(one, '/cluster')} | tr -d ' ' | grep -o '"name":"[^"]*","role":"leader"'`, `"name":"${leader}","role":"leader"`, 300), [`"name":"${leader}","role":"leader"`]),
        run('do', 'Let it act again. Leave it paused where somebody else had paused it before.', change('{"pause":null}'), ['200']),
        ...members.map((node) => run('check', `${node} has read it.`, waitFor(pausedOf(node), '0', 300), ['0'])),
      ],
      stop: [`it does not name ${leader}: leave it paused, it would demote the new primary`],
      broken: 'leave it paused, and say so to whoever comes next',
    };
  }
  return {
    blocks: [
      run('check', 'Is it paused already? (1: somebody else has; leave it paused afterwards.)', pausedOf(one), undefined, '0'),
      run('do', 'Patroni must not act meanwhile.', change('{"pause":true}'), ['200']),
      ...members.map((node) => run('check', `${node} has read it.`, waitFor(pausedOf(node), '1', 300), ['1'])),
      run('undo', 'Let it act again, if it was not paused before.', change('{"pause":null}')),
    ],
    stop: ['a member does not say that it is paused: two controllers would fight. Stop before the first change'],
    broken: '`patronictl pause --wait` on any node does the same',
  };
}

/** The password goes by curl's own configuration on standard input, never as an argument. */
function patroniCurl(call: ByHandCall, controller: PatroniController, api: string, path: string, more: readonly string[]): string {
  const login = controller.username === undefined || controller.password === undefined ? null : `printf 'user = "%s:%s"\\n' ${sh(controller.username)} "$(${fetchSecret(call, controller.password)} | sed 's/[\\\\"]/\\\\&/g')" | `;
  const key = controller.key === undefined ? '' : `(umask 077; ${fetchSecret(call, controller.key)} > "$HF/patroni.key"); `;
  const tls = [...(controller.ca === undefined ? [] : ['--cacert', controller.ca]), ...(controller.certificate === undefined ? [] : ['--cert', controller.certificate])];
  return `${key}${login ?? ''}${command(['curl', '-sS', '-m', '15', ...(login === null ? [] : ['-K', '-']), ...tls, ...more, `${api.replace(/\/$/, '')}${path}`])}${key === '' ? '' : ' --key "$HF/patroni.key"'}`;
}
