import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { formatDuration } from '../src/model/units.ts';
import { countDocuments, existing, segment, shardRows, stepHash, type SearchCluster } from '../src/systems/opensearch.ts';
import { aliasesOf, chooseSnapshot, findSnapshots, markRestored, repositoryOf, restoredBy, restoredFrom, restoreProgress, unfit, type SearchSnapshot } from '../src/systems/opensearch-snapshots.ts';
import { answersCheck, inCluster, shardChecks } from './search-cluster.ts';
import { reindexSteps } from './search-reindex.ts';
import { verifySteps } from './search-verify.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

const POLL_MS = 250;
const PATIENT_POLL_MS = 2000;
const PATIENT_AFTER_MS = 30_000;

/** Polls, quickly at first. @throws what `late` makes once the step's `wait` is over */
async function waitFor(step: StepRun, look: () => Promise<boolean>, late: () => HoldfastError): Promise<void> {
  const started = step.nowMs();
  const wait = step.input['wait'] as number;
  for (;;) {
    if (await look()) return;
    const waited = step.nowMs() - started;
    if (waited > wait) throw late();
    await pause(waited > PATIENT_AFTER_MS ? PATIENT_POLL_MS : POLL_MS, step.signal);
  }
}

// ---------------------------------------------------------------- snapshot

const snapshotName = (step: StepRun): string => `${textInput(step, 'datastore')}-${stepHash(step.call.key)}`;

/** Ours under this name, whatever became of it. */
async function taken(cluster: SearchCluster, step: StepRun): Promise<SearchSnapshot | undefined> {
  return (await findSnapshots(cluster, snapshotName(step)))[0];
}

function snapshotFacts(snapshot: SearchSnapshot): Record<string, string | number | null> {
  return { snapshot: snapshot.name, documents: snapshot.recorded?.documents ?? null, shards: snapshot.shards.successful };
}

const snapshot: StepDefinition = {
  async inspect(step) {
    return inCluster(step, async (cluster) => {
      const found = await taken(cluster, step);
      const good = found !== undefined && unfit(found, cluster.indices) === null;
      return { satisfied: good, summary: found === undefined ? 'not taken yet' : `${found.name} is ${found.state}`, ...(good ? { facts: snapshotFacts(found) } : {}) };
    });
  },
  async guard(step) {
    return inCluster(step, async (cluster) => {
      const checks = [await answersCheck(cluster)];
      if (!checks[0]!.ok) return guarded(checks);
      const repository = await cluster.find<Record<string, { type: string; settings?: { readonly?: string } }>>(`/_snapshot/${segment(repositoryOf(cluster))}`);
      const settings = Object.values(repository ?? {})[0]?.settings;
      checks.push(check('repository', repository !== null && settings?.readonly !== 'true', `${cluster.repository} that can be written`, repository === null ? 'not registered' : settings?.readonly === 'true' ? 'registered as readonly' : 'registered', `register it: PUT _snapshot/${cluster.repository}`));
      for (const index of cluster.indices) {
        const found = Object.keys((await cluster.find<Record<string, unknown>>(`/${segment(index)}`)) ?? {});
        checks.push(check(`index ${index}`, found.length === 1 && found[0] === index, 'an index of this name', found.length === 0 ? 'missing' : found.join(', '), found.length === 0 ? 'create it or correct `indices`' : `"${index}" is an alias: name the index itself`));
      }
      return guarded(checks);
    });
  },
  async apply(step): Promise<PhaseResult> {
    return inCluster(step, async (cluster) => {
      const path = `/_snapshot/${segment(repositoryOf(cluster))}/${segment(snapshotName(step))}`;
      let found = await taken(cluster, step);
      if (found !== undefined && unfit(found, cluster.indices) === null) return { outcome: 'already-satisfied', summary: `${found.name} is complete`, facts: snapshotFacts(found) };
      if (found !== undefined && found.state !== 'IN_PROGRESS') {
        // An attempt of ours that came to nothing keeps the name.
        await cluster.request('DELETE', path, { timeoutMs: 300_000 });
        found = undefined;
      }
      if (found === undefined) {
        const { documents, operations, shards } = await countDocuments(cluster, cluster.indices);
        if (shards.failed > 0) throw new HoldfastError('shards-missing', `${shards.failed} of ${shards.total} shards of ${cluster.indices.join(', ')} do not answer: a snapshot would lack them`, { retryable: true, next: 'look at _cluster/allocation/explain' });
        await cluster.request('PUT', path, {
          query: { wait_for_completion: false },
          body: { indices: cluster.indices.join(','), include_global_state: false, ignore_unavailable: false, partial: false, metadata: { holdfast: { key: stepHash(step.call.key), documents, operations, indices: cluster.indices.length } } },
        });
      }
      await waitFor(step, async () => {
        found = await taken(cluster, step);
        step.heartbeat({ state: found?.state, shards: found?.shards.successful });
        return found !== undefined && found.state !== 'IN_PROGRESS' && found.state !== 'STARTED';
      }, () => new HoldfastError('snapshot-late', `${snapshotName(step)} is still ${found?.state ?? 'unknown'} after ${formatDuration(step.input['wait'] as number)}`, { retryable: true, next: `look at GET ${path}/_status` }));
      const why = unfit(found!, cluster.indices);
      if (why !== null) throw new HoldfastError('snapshot-partial', `snapshot ${found!.name} is of no use: ${why}`, { retryable: true, next: 'look at the shards it names, then retry' });
      return { outcome: 'changed', summary: `${found!.name}: ${found!.recorded?.documents ?? '?'} documents, ${found!.shards.successful} shards`, after: { snapshot: found!.name }, facts: snapshotFacts(found!) };
    });
  },
  async verify(step) {
    return inCluster(step, async (cluster) => {
      const found = await taken(cluster, step);
      const why = found === undefined ? 'there is none of this name' : unfit(found, cluster.indices);
      return guarded([check('complete', why === null, 'SUCCESS with every shard and index', why ?? `SUCCESS, ${found!.shards.successful} shards`, 'retry the step')]);
    });
  },
};

// ---------------------------------------------------------------- restore

/** What the restored index is called. Without a prefix of its own it could be taken for somebody else's. */
function restoredName(step: StepRun, index: string): string {
  return step.input['as'] === 'renamed' ? `${index}-${stepHash(step.call.key).slice(0, 8)}` : index;
}

interface Restored {
  readonly snapshot: string;
  readonly progress: Awaited<ReturnType<typeof restoreProgress>>;
}

/** What this step restored, or a killed attempt of it; undefined when some of the indices are not there. */
async function restored(cluster: SearchCluster, step: StepRun): Promise<Restored | undefined> {
  const names = cluster.indices.map((index) => restoredName(step, index));
  const sources = new Set<string | null | undefined>();
  for (const name of names) sources.add(await restoredFrom(cluster, name));
  const [source] = sources;
  if (sources.size !== 1 || source === null || source === undefined) return undefined;
  const wanted = textInput(step, 'snapshot');
  if (wanted !== 'newest' && source !== wanted) return undefined;
  const keys = new Set(await Promise.all(names.map((name) => restoredBy(cluster, name))));
  // What this step restored stays its choice; what others did, or an attempt killed before it said so, only if it would be chosen now.
  const ours = keys.size === 1 && keys.has(stepHash(step.call.key));
  if (!ours && (await chooseSnapshot(cluster, wanted).catch(none))?.name !== source) return undefined;
  return { snapshot: source, progress: await restoreProgress(cluster, names) };
}

function none(error: unknown): null {
  if (error instanceof HoldfastError && error.code === 'snapshot-missing') return null;
  throw error;
}

async function restoreFacts(cluster: SearchCluster, step: StepRun, snapshot: SearchSnapshot, startedMs: number): Promise<Readonly<Record<string, string | number | null | string[]>>> {
  const names = cluster.indices.map((index) => restoredName(step, index));
  const { documents, operations, committed } = await countDocuments(cluster, names);
  const same = snapshot.recorded !== null && [...snapshot.indices].sort().join() === [...cluster.indices].sort().join();
  return {
    snapshot: snapshot.name,
    indices: names,
    index: names[0]!,
    documents,
    operations,
    recorded: same ? snapshot.recorded!.documents : null,
    between: same ? committed - snapshot.recorded!.operations : null,
    restoreMs: step.nowMs() - startedMs,
    snapshotAgeMs: Math.max(0, startedMs - snapshot.startedAtMs),
  };
}

const restore: StepDefinition = {
  async inspect(step) {
    return inCluster(step, async (cluster) => {
      const found = await restored(cluster, step);
      if (found === undefined || !found.progress.done) return { satisfied: false, summary: found === undefined ? 'not restored yet' : `being restored from ${found.snapshot}: ${found.progress.started} of ${found.progress.primaries} shards` };
      const source = (await findSnapshots(cluster, found.snapshot))[0];
      if (source === undefined) return { satisfied: false, summary: `restored from ${found.snapshot}, which is gone` };
      return { satisfied: true, summary: `restored from ${found.snapshot}`, facts: await restoreFacts(cluster, step, source, step.nowMs()) };
    });
  },
  async guard(step) {
    return inCluster(step, async (cluster) => {
      const checks = [await answersCheck(cluster)];
      if (!checks[0]!.ok) return guarded(checks);
      const repository = await cluster.find(`/_snapshot/${segment(repositoryOf(cluster))}`);
      checks.push(check('repository', repository !== null, `${cluster.repository} is registered`, repository === null ? 'not registered' : 'registered', `register it, best as readonly: PUT _snapshot/${cluster.repository}`));
      if (repository === null) return guarded(checks);
      const chosen = await chooseSnapshot(cluster, textInput(step, 'snapshot')).catch((error: unknown) => {
        if (error instanceof HoldfastError && error.code === 'snapshot-missing') return error;
        throw error;
      });
      if (chosen instanceof HoldfastError) return guarded([...checks, check('snapshot', false, 'a complete one', chosen.message, chosen.next)]);
      const ageMs = Math.max(0, step.nowMs() - chosen.startedAtMs);
      const maxAge = step.input['maxAge'] as number | undefined;
      checks.push(
        check('age of the snapshot', maxAge === undefined || ageMs <= maxAge, maxAge === undefined ? 'any' : `at most ${formatDuration(maxAge)}`, `${chosen.name}: ${formatDuration(ageMs)}`, 'fill the indices from their source (search.reindex), or accept the age'),
        check('counted', chosen.recorded !== null || step.input['uncounted'] === true, 'a snapshot that says how many documents it has', chosen.recorded === null ? `${chosen.name} says nothing` : `${chosen.recorded.documents}`, 'take snapshots by search.snapshot; or give `uncounted: true` and prove the documents by search.verify'),
      );
      for (const index of cluster.indices) {
        const name = restoredName(step, index);
        const from = await restoredFrom(cluster, name);
        const ours = from !== undefined && from !== null && (await restoredBy(cluster, name)) === stepHash(step.call.key);
        checks.push(check(`${name} is free`, from === undefined || from === chosen.name || ours, 'no index of this name', from === undefined ? 'free' : from === null ? 'there is one' : `restored from ${from}`, 'use `as: renamed` and search.alias, or remove it by hand when it serves nobody'));
      }
      return guarded(checks);
    });
  },
  async apply(step): Promise<PhaseResult> {
    return inCluster(step, async (cluster) => {
      const started = step.nowMs();
      const names = cluster.indices.map((index) => restoredName(step, index));
      const earlier = await restored(cluster, step);
      const chosen = await chooseSnapshot(cluster, earlier?.snapshot ?? textInput(step, 'snapshot'));
      if (earlier === undefined) {
        const there = await existing(cluster, names);
        if (there.length > 0) throw new HoldfastError('index-exists', `${there.join(', ')} exist(s) on ${cluster.name} and did not come from ${chosen.name}: nothing is put over it`, { next: 'use `as: renamed` and search.alias, or remove it by hand when it serves nobody' });
        const replicas = step.input['replicas'] as number | undefined;
        await cluster.request('POST', `/_snapshot/${segment(repositoryOf(cluster))}/${segment(chosen.name)}/_restore`, {
          query: { wait_for_completion: false },
          timeoutMs: 120_000,
          body: {
            indices: cluster.indices.join(','), include_global_state: false, include_aliases: false, ignore_unavailable: false, partial: false,
            ...(step.input['as'] === 'renamed' ? { rename_pattern: '^(.+)$', rename_replacement: `$1-${stepHash(step.call.key).slice(0, 8)}` } : {}),
            ...(replicas === undefined ? {} : { index_settings: { 'index.number_of_replicas': replicas } }),
          },
        });
        for (const name of names) await markRestored(cluster, name, stepHash(step.call.key));
      }
      let progress: Restored['progress'] | undefined;
      await waitFor(step, async () => {
        progress = await restoreProgress(cluster, names);
        step.heartbeat({ started: progress.started, primaries: progress.primaries });
        if (progress.failed.length > 0) throw new HoldfastError('restore-failed', `${progress.failed.length} shard(s) could not be restored from ${chosen.name}: ${progress.failed.slice(0, 3).join('; ')}`, { next: 'name another snapshot; remove what this one left (undo, or DELETE) first' });
        return progress.done;
      }, () => new HoldfastError('restore-late', `${progress?.started ?? 0} of ${progress?.primaries ?? 0} shards are restored after ${formatDuration(step.input['wait'] as number)}`, { retryable: true, next: 'look at GET _recovery' }));
      const facts = await restoreFacts(cluster, step, chosen, started);
      return {
        outcome: earlier !== undefined && earlier.progress.done ? 'already-satisfied' : 'changed',
        summary: `${String(facts['documents'])} documents restored from ${chosen.name} (${formatDuration(Number(facts['snapshotAgeMs']))} old) in ${formatDuration(Number(facts['restoreMs']))}`,
        after: { indices: names, documents: facts['documents']! },
        facts,
      };
    });
  },
  async verify(step) {
    return inCluster(step, async (cluster) => {
      const { facts } = step.call;
      const names = cluster.indices.map((index) => restoredName(step, index));
      const there = await existing(cluster, names);
      if (there.length < names.length) return guarded([check('indices', false, names.join(', '), there.join(', ') || 'none', 'somebody removed them: retry the step')]);
      const [count, rows] = [await countDocuments(cluster, names).catch(absent), await shardRows(cluster, names)];
      const recorded = typeof facts['recorded'] === 'number' ? facts['recorded'] : null;
      const checks = shardChecks(count, rows ?? []);
      if (count !== null) {
        const documents = Number(facts['documents']);
        const between = Number(facts['between'] ?? 0);
        checks.push(check('untouched since', count.documents === documents && count.operations === Number(facts['operations']), `${documents} documents, as when it was restored, and no write`, `${count.documents} documents, ${count.operations - Number(facts['operations'])} write(s) or delete(s) since`, 'somebody writes to it: find out who; retry, or restore anew'));
        if (recorded !== null) {
          checks.push(
            check('operations', between >= 0, 'all that came before the count', between < 0 ? `${-between} are missing` : `${between} came after it`, 'the snapshot is older than it says: name another one'),
            check('documents', Math.abs(documents - recorded) <= Math.max(0, between), between === 0 ? `${recorded}, as counted at the snapshot` : `${recorded}, give or take ${between} operations that came while it was taken`, String(documents), 'name another snapshot'),
          );
        } else checks.push(check('counted', step.input['uncounted'] === true, 'a snapshot that says how many documents it has', 'it says nothing', 'give `uncounted: true` and prove the documents by search.verify'));
      }
      return { ...guarded(checks), summary: `${count?.documents ?? '?'} documents in ${names.join(', ')}${recorded === null ? '; not compared: the snapshot carries no counts' : ''}` };
    });
  },
  async undo(step) {
    return inCluster(step, async (cluster) => {
      const removed: string[] = [];
      for (const index of cluster.indices) {
        const name = restoredName(step, index);
        const from = await restoredFrom(cluster, name);
        if (from === undefined) continue;
        // One that another run or a person restored, or that is in use, is somebody's.
        if (from === null || (await restoredBy(cluster, name)) !== stepHash(step.call.key)) throw new HoldfastError('index-not-ours', `${name} on ${cluster.name} was not restored by this step: it is left`, { next: 'remove it by hand when it serves nobody' });
        const aliases = await aliasesOf(cluster, [name]);
        if (aliases.length > 0) throw new HoldfastError('index-in-use', `${name} on ${cluster.name} is what ${aliases.join(', ')} point(s) to: it is left`, { next: 'point the alias elsewhere, then remove it by hand' });
        await cluster.request('DELETE', `/${segment(name)}`, { timeoutMs: 120_000 });
        removed.push(name);
      }
      return { outcome: removed.length === 0 ? 'already-satisfied' : 'changed', summary: removed.length === 0 ? 'nothing of it is there' : `${removed.join(', ')} removed again` };
    });
  },
};

/** A count that shards or the index do not answer is a finding, not an error. */
function absent(error: unknown): null {
  if (error instanceof HoldfastError && error.code === 'search-request' && Number(error.context['status']) >= 500) return null;
  throw error;
}

// ---------------------------------------------------------------- alias

async function pointsTo(cluster: SearchCluster, alias: string): Promise<string[]> {
  const answer = await cluster.find<Record<string, { aliases?: unknown }>>(`/_alias/${segment(alias)}`);
  return Object.keys(answer ?? {}).sort();
}

/** All of it or nothing: refused when the alias was moved meanwhile. */
function move(cluster: SearchCluster, alias: string, from: readonly string[], to: readonly string[]): Promise<unknown> {
  const actions = [...from.filter((index) => !to.includes(index)).map((index) => ({ remove: { index, alias, must_exist: true } })), ...to.filter((index) => !from.includes(index)).map((index) => ({ add: { index, alias } }))];
  return cluster.request('POST', '/_aliases', { body: { actions } });
}

const alias: StepDefinition = {
  async inspect(step) {
    const wanted = optionalText(step, 'index');
    return inCluster(step, async (cluster) => {
      const now = await pointsTo(cluster, textInput(step, 'alias'));
      const done = wanted !== undefined && now.length === 1 && now[0] === wanted;
      return { satisfied: done, summary: `${textInput(step, 'alias')} points to ${now.join(', ') || 'nothing'}`, before: { indices: now }, ...(done ? { facts: { alias: textInput(step, 'alias'), index: wanted } } : {}) };
    });
  },
  async guard(step) {
    return inCluster(step, async (cluster) => {
      const checks = [await answersCheck(cluster)];
      if (!checks[0]!.ok) return guarded(checks);
      const name = textInput(step, 'alias');
      const [wanted, from] = [optionalText(step, 'index'), step.input['from'] as string[] | undefined];
      const itself = await cluster.find<Record<string, unknown>>(`/${segment(name)}`);
      const now = await pointsTo(cluster, name);
      checks.push(check('a free name', itself === null || !Object.hasOwn(itself, name), `${name} is an alias or nothing`, itself !== null && Object.hasOwn(itself, name) ? 'an index' : now.join(', ') || 'nothing', 'an index of this name must go first: the application should use an alias'));
      if (from !== undefined) checks.push(check('where it points', now.join() === [...from].sort().join() || (wanted !== undefined && now.join() === wanted), from.join(', ') || 'nowhere', now.join(', ') || 'nowhere', 'find out who moved it'));
      if (wanted !== undefined && !step.call.preflight) checks.push(check(`index ${wanted}`, (await existing(cluster, [wanted])).length === 1, 'there', 'missing', 'restore or fill it first'));
      return guarded(checks.map((one) => (one.name === `index ${wanted}` && one.ok ? { ...one, found: 'there' } : one)));
    });
  },
  async apply(step): Promise<PhaseResult> {
    return inCluster(step, async (cluster): Promise<PhaseResult> => {
      const [name, wanted] = [textInput(step, 'alias'), textInput(step, 'index')];
      const now = await pointsTo(cluster, name);
      if (now.length === 1 && now[0] === wanted) return { outcome: 'already-satisfied', summary: `${name} points to ${wanted}`, facts: { alias: name, index: wanted } };
      const from = step.input['from'] as string[] | undefined;
      if (from !== undefined && now.join() !== [...from].sort().join()) throw new HoldfastError('alias-moved', `${name} points to ${now.join(', ') || 'nothing'}, not to ${from.join(', ') || 'nothing'}`, { next: 'find out who moved it' });
      await move(cluster, name, now, [wanted]);
      return { outcome: 'changed', summary: `${name} points to ${wanted}${now.length === 0 ? '' : `, no longer to ${now.join(', ')}`}`, after: { indices: [wanted] }, facts: { alias: name, index: wanted, previous: now } };
    });
  },
  async verify(step) {
    return inCluster(step, async (cluster) => {
      const [name, wanted] = [textInput(step, 'alias'), textInput(step, 'index')];
      const now = await pointsTo(cluster, name);
      return guarded([check('alias', now.length === 1 && now[0] === wanted, wanted, now.join(', ') || 'nothing', 'find out who moved it')]);
    });
  },
  async undo(step) {
    return inCluster(step, async (cluster) => {
      const [name, wanted] = [textInput(step, 'alias'), textInput(step, 'index')];
      const before = (step.call.facts['previous'] ?? (step.call.before as { indices?: unknown } | null)?.indices ?? []) as string[];
      const now = await pointsTo(cluster, name);
      if (now.join() === [...before].sort().join()) return { outcome: 'already-satisfied', summary: `${name} points to ${before.join(', ') || 'nothing'}` };
      if (now.join() !== wanted) throw new HoldfastError('alias-moved', `${name} points to ${now.join(', ') || 'nothing'}, and this step had pointed it to ${wanted}`, { next: 'find out who moved it; decide by hand where it shall point' });
      await move(cluster, name, now, before);
      return { outcome: 'changed', summary: `${name} points to ${before.join(', ') || 'nothing'} again` };
    });
  },
};

export const searchSteps: Readonly<Record<string, StepDefinition>> = { 'search.snapshot': snapshot, 'search.restore': restore, 'search.alias': alias, ...reindexSteps, ...verifySteps };
