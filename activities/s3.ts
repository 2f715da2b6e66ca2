import type { CheckResult } from '../src/model/api.ts';
import type { LifecycleRuleConfig } from '../src/model/config-s3.ts';
import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { describeRule, lifecycleText, ruleDifferences, undoLifecycle, type LifecycleDocument } from '../src/model/lifecycle.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { countText, parseMoment, type SameSecond } from '../src/model/s3-versions.ts';
import { formatBytes, formatDuration } from '../src/model/units.ts';
import { engineOf, storeOf } from '../src/systems/context.ts';
import { headVersion, objectLockOf, openBucket, openStoreBucket, publicAccessOf, replicationOf, versioningOf, whereOf, type Answer, type Bucket } from '../src/systems/s3-bucket.ts';
import { checkDrillKey, drillKey, lookAtMarker, makeMarker, proveMarker, removeMarker, restOfMarker, type DrillMarker } from '../src/systems/s3-drill.ts';
import { lifecycleDrift, lifecyclePlanOf, readLifecycle, replaceLifecycle } from '../src/systems/s3-lifecycle.ts';
import { newestReplication } from '../src/systems/s3-replication.ts';
import { planPrefix, planRefusal, planText, provePrefix, restorePrefix, restoreVersion, sameObject, unreadableBecause, type PrefixOptions } from '../src/systems/s3-restore.ts';
import { entriesOf, keyAtMoment } from '../src/systems/s3-versions.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

/** Reading phases have 30 s; a look at a large prefix ends before that and says that it did not get through. */
const LOOK_MS = 20_000;
const UNSUPPORTED = 'not supported by this store';

function answerText<T>(answer: Answer<T>, none: string, say: (value: T) => string): string {
  if (answer.is === 'set') return say(answer.value);
  if (answer.is === 'none') return none;
  return answer.is === 'unsupported' ? UNSUPPORTED : `could not be asked: ${answer.error}`;
}

const checkBucket: StepDefinition = {
  async guard(step) {
    const name = textInput(step, 'datastore');
    const { expect } = engineOf(step.context.config, name, 's3');
    const place = await openBucket(step.context, name);
    const [versioning, lock, replication, access] = await Promise.all([versioningOf(place), objectLockOf(place), replicationOf(place), publicAccessOf(place)]);
    const said = {
      versioning: answerText(versioning, 'Off', ({ status }) => status),
      mfaDelete: answerText(versioning, 'off', ({ mfaDelete }) => (mfaDelete ? 'on' : 'off')),
      objectLock: answerText(lock, 'none', ({ mode, days }) => (mode === null ? 'on, without a default retention' : `${mode}, ${days} d by default`)),
      publicAccess: answerText(access, 'open: nothing is blocked', ({ open }) => (open.length === 0 ? 'blocked' : `open: ${open.join(', ')}`)),
      replication: answerText(replication, 'none', (rules) => rules.map((rule) => `${rule.prefix}* to ${rule.bucket}${rule.enabled ? '' : ' (disabled)'}${rule.byTag ? ' (tagged objects only)' : ''}${rule.deleteMarkers ? '' : ', without delete markers'}`).join('; ')),
    };
    const checks: CheckResult[] = [];
    if (expect.versioning) checks.push(check('versioning', versioning.is === 'set' && versioning.value.status === 'Enabled', 'Enabled', said.versioning, `aws s3api put-bucket-versioning --bucket ${place.bucket} --versioning-configuration Status=Enabled; what was overwritten before cannot be restored`));
    if (expect.mfaDelete) checks.push(check('MFA delete', versioning.is === 'set' && versioning.value.mfaDelete, 'on', said.mfaDelete, 'only the root user of the account can turn it on, with the device at hand'));
    if (expect.objectLock !== undefined) {
      const { mode, days } = expect.objectLock;
      const strict = (found: string | null): boolean => found === mode || (mode === 'GOVERNANCE' && found === 'COMPLIANCE');
      checks.push(check('object lock', lock.is === 'set' && strict(lock.value.mode) && (lock.value.days ?? 0) >= days, `${mode} for at least ${days} d by default`, said.objectLock, `aws s3api put-object-lock-configuration --bucket ${place.bucket} ...; versions that are there already are not locked by it`));
    }
    if (expect.publicAccessBlocked) checks.push(check('public access', access.is === 'set' && access.value.open.length === 0, 'blocked', said.publicAccess, access.is === 'unsupported' ? "see to it by the store's own means, and set expect.publicAccessBlocked: false" : `aws s3api put-public-access-block --bucket ${place.bucket} ...`));
    if (expect.replication !== undefined) {
      const { bucket } = expect.replication;
      const fits = replication.is === 'set' && replication.value.some((rule) => rule.enabled && !rule.byTag && rule.bucket === bucket && place.prefix.startsWith(rule.prefix));
      checks.push(check('replication', fits, `an enabled rule to ${bucket} for all of ${place.prefix === '' ? 'the bucket' : `${place.prefix}*`}`, said.replication, 'set up the replication rule, or correct expect.replication'));
    }
    return { ...guarded(checks), summary: `versioning ${said.versioning}; object lock ${said.objectLock}; replication ${said.replication}; public access ${said.publicAccess}; MFA delete ${said.mfaDelete}`, facts: said };
  },
  async verify(step) {
    const name = textInput(step, 'datastore');
    const { expect } = engineOf(step.context.config, name, 's3');
    if (expect.replication === undefined) return { checks: [], summary: 'no replication is expected' };
    const { sample, maxPending } = expect.replication;
    const found = await newestReplication(await openBucket(step.context, name), sample, step.nowMs(), { signal: step.signal, onProgress: (listed) => step.heartbeat({ listed }) });
    const checks = [
      check('replication failed', found.failed.count === 0, '0', countText(found.failed), 'look at the rule, its role and the key of the other bucket; then replicate them anew with S3 Batch Replication'),
      check('replication pending', found.overdue(maxPending).count === 0, `none for longer than ${formatDuration(maxPending)}`, countText(found.overdue(maxPending)), 'look at the replication metrics of the bucket'),
      check('replication seen', found.asked === 0 || found.none.count < found.asked, 'objects with a replication status', found.none.count === 0 ? 'each has one' : `${countText(found.none)} of ${found.asked} have none: written before the rule, or matched by none`, 'replicate older objects with S3 Batch Replication'),
    ];
    return {
      checks,
      summary: `of the ${found.asked} newest of ${found.listed} objects ${found.replicated} are replicated, ${found.pending.count} wait${found.oldestPendingMs === null ? '' : ` (the oldest for ${formatDuration(found.oldestPendingMs)})`}, ${found.failed.count} have failed, ${found.none.count} have no status`,
      facts: { replicated: found.replicated, replicationPending: found.pending.count, replicationFailed: found.failed.count, oldestPendingMs: found.oldestPendingMs },
    };
  },
};

/** Without versioning a copy would write over what is there. */
async function versioned(place: Bucket): Promise<CheckResult> {
  const answer = await versioningOf(place);
  return check('versioning', answer.is === 'set' && answer.value.status === 'Enabled', 'Enabled', answerText(answer, 'Off', ({ status }) => status), 'without it a restore would overwrite what is there, for good: turn it on first');
}

function momentInput(step: StepRun, name = 'moment'): number {
  const text = textInput(step, name);
  const ms = parseMoment(text);
  if (ms === undefined) throw new HoldfastError('step-input', `step ${step.call.step}: ${name} "${text}" is no time`, { next: 'write it as 2026-11-21T03:15:00Z' });
  return ms;
}

function pastMoment(step: StepRun, momentMs: number): CheckResult {
  return check('moment', momentMs <= step.nowMs(), 'in the past', new Date(momentMs).toISOString(), 'correct the moment, or the clock of this worker');
}

function prefixOf(step: StepRun, place: Bucket): string {
  return `${place.prefix}${optionalText(step, 'prefix') ?? ''}`;
}

function prefixOptions(step: StepRun, more: { signal?: AbortSignal } = {}): PrefixOptions {
  return { momentMs: momentInput(step), sameSecond: step.input['sameSecond'] as SameSecond, signal: step.signal, onProgress: (progress) => step.heartbeat(progress), ...more };
}

const planPrefixStep: StepDefinition = {
  guard: async (step) => guarded([await versioned(await openBucket(step.context, textInput(step, 'datastore'))), ...(optionalText(step, 'moment') === undefined ? [] : [pastMoment(step, momentInput(step))])]),
  async verify(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const prefix = prefixOf(step, place);
    const options = prefixOptions(step);
    const plan = await planPrefix(place, prefix, options);
    const refusal = planRefusal(plan, place, prefix, { ...options, archived: step.input['archived'] as 'refuse' | 'leave' });
    const counts = [['come back', plan.bringBack], ['get the content of that moment', plan.replace], ['go behind a delete marker', plan.remove], ['written within the second of the moment', plan.sameSecond], ['cannot be decided', plan.undecided], ['lie in an archive class', plan.archived]] as const;
    return {
      checks: [check('plan', refusal === null, 'it can be carried out', refusal?.message ?? planText(plan), refusal?.next)],
      summary: `${whereOf(place, prefix)} at ${new Date(options.momentMs).toISOString()}: ${planText(plan)}. ${counts.filter(([, counter]) => counter.count > 0).map(([what, counter]) => `${what}: ${countText(counter)}`).join('; ')}`,
      facts: { plan: planText(plan), keys: plan.keys, bringBack: plan.bringBack.count, replace: plan.replace.count, remove: plan.remove.count, unchanged: plan.same + plan.sameContent.count + plan.staysAway, bytes: plan.bytes },
    };
  },
};

interface Wanted {
  readonly place: Bucket;
  readonly key: string;
  /** The version to be restored; null: it did not exist at the moment. */
  readonly versionId: string | null;
}

/** Which version of which key: named, or the one of a moment. undefined: not known before an earlier step ran. */
async function wantedVersion(step: StepRun): Promise<Wanted | undefined> {
  const place = await openBucket(step.context, textInput(step, 'datastore'));
  const key = optionalText(step, 'key');
  if (key === undefined) return undefined;
  const versionId = optionalText(step, 'versionId');
  const moment = optionalText(step, 'moment');
  if (!key.startsWith(place.prefix)) throw new HoldfastError('s3-outside', `${key} does not lie below ${whereOf(place)}`, { next: `give a whole key; datastore ${place.name} begins at ${place.prefix}` });
  if (versionId !== undefined && moment !== undefined) throw new HoldfastError('step-input', `step ${step.call.step} has both versionId and moment`, { next: 'give one of them' });
  if (versionId !== undefined) return { place, key, versionId };
  if (moment === undefined) return undefined;
  const sameSecond = step.input['sameSecond'] as SameSecond;
  const state = await keyAtMoment(place, key, { momentMs: momentInput(step), sameSecond: sameSecond === 'refuse' ? 'before' : sameSecond, signal: step.signal });
  if (state !== undefined && (state.unordered !== undefined || (state.sameSecond && sameSecond === 'refuse'))) {
    throw new HoldfastError('s3-undecided', `${whereOf(place, key)} was written within the second of ${moment}: the store does not say what was there at that moment`, { next: `give versionId: aws s3api list-object-versions --bucket ${place.bucket} --prefix ${key}; or say sameSecond: before or after` });
  }
  if (state?.restamped === true) throw new HoldfastError('s3-restamped', `the stamps of ${whereOf(place, key)} are not the times of its writing: this store stamps versions anew when they are replaced`, { next: `set datastores.${place.name}.versionTime: ulid, or give versionId` });
  return { place, key, versionId: state?.was === undefined || state.was.marker ? null : state.was.versionId };
}

async function currentOf(wanted: Wanted, step: StepRun): Promise<{ versionId: string; marker: boolean; etag?: string } | undefined> {
  for await (const entry of entriesOf(wanted.place, wanted.key, step.signal)) if (entry.latest) return entry;
  return undefined;
}

/** Is what is current now what was asked for? By content and metadata. */
async function restoredHow(wanted: Wanted, step: StepRun): Promise<{ current: string | null; same: boolean; how: string }> {
  const current = await currentOf(wanted, step);
  if (current === undefined || current.marker) return { current: null, same: false, how: 'it is deleted' };
  if (current.versionId === wanted.versionId) return { current: current.versionId, same: true, how: 'it is that very version' };
  const [was, now] = [await headVersion(wanted.place, wanted.key, wanted.versionId!), await headVersion(wanted.place, wanted.key, current.versionId)];
  if (was === undefined) throw new HoldfastError('s3-version-missing', `${whereOf(wanted.place, wanted.key)} has no version ${wanted.versionId}`, { next: 'choose another version' });
  if (now === undefined || unreadableBecause(was) !== null) return { current: current.versionId, same: false, how: 'it cannot be compared' };
  const found = await sameObject(wanted.place, wanted.key, was, now, step.signal);
  return { current: current.versionId, same: found.same && found.differs.length === 0, how: found.same ? (found.differs.length === 0 ? `by ${found.how === 'read' ? 'reading both in full' : found.how}` : `${found.differs.join(', ')} differ`) : 'its content differs' };
}

const restoreObject: StepDefinition = {
  async inspect(step) {
    const wanted = await wantedVersion(step);
    if (wanted === undefined) return { satisfied: false, summary: 'which version is to be restored is not known yet' };
    if (wanted.versionId === null) return { satisfied: false, summary: `${whereOf(wanted.place, wanted.key)} did not exist then` };
    // A large one of the same size may have to be read in full to be compared: that is for apply.
    const was = await headVersion(wanted.place, wanted.key, wanted.versionId);
    const current = await currentOf(wanted, step);
    if (was === undefined || current === undefined || current.marker) return { satisfied: false, summary: `${whereOf(wanted.place, wanted.key)} is ${current === undefined ? 'not there' : current.marker ? 'deleted' : 'there; the wanted version is not'}`, before: { current: current?.versionId ?? null, deleted: current?.marker ?? true } };
    const before = { current: current.versionId, deleted: false };
    if (was.bytes > 64_000_000 && current.versionId !== wanted.versionId && current.etag !== was.etag) return { satisfied: false, summary: `${whereOf(wanted.place, wanted.key)} shows version ${current.versionId}`, before };
    const found = await restoredHow(wanted, step);
    return { satisfied: found.same, summary: found.same ? `${whereOf(wanted.place, wanted.key)} shows the content of version ${wanted.versionId} (${found.how})` : `${whereOf(wanted.place, wanted.key)} shows version ${current.versionId}: ${found.how}`, before, ...(found.same ? { facts: { versionId: wanted.versionId, current: found.current, bytes: was.bytes, proof: found.how } } : {}) };
  },
  async guard(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const checks = [await versioned(place)];
    const wanted = await wantedVersion(step);
    if (wanted === undefined) {
      if (!step.call.preflight) textInput(step, optionalText(step, 'key') === undefined ? 'key' : 'versionId');
      return guarded(checks);
    }
    const head = wanted.versionId === null ? undefined : await headVersion(place, wanted.key, wanted.versionId);
    checks.push(check('the version', head !== undefined, `a version of ${whereOf(place, wanted.key)} that can be restored`, head === undefined ? (wanted.versionId === null ? 'it did not exist at that moment' : `no version ${wanted.versionId}`) : `${wanted.versionId}, ${formatBytes(head.bytes)}`, `aws s3api list-object-versions --bucket ${place.bucket} --prefix ${wanted.key}`));
    if (head !== undefined) {
      const unreadable = unreadableBecause(head);
      checks.push(check('readable', unreadable === null, 'it can be copied', unreadable ?? (head.storageClass ?? 'STANDARD'), `aws s3api restore-object --bucket ${place.bucket} --key ${wanted.key} --version-id ${wanted.versionId} --restore-request Days=7; wait for hours, then run this again`));
    }
    return guarded(checks);
  },
  async apply(step): Promise<PhaseResult> {
    const wanted = await wantedVersion(step);
    if (wanted === undefined || wanted.versionId === null) throw new HoldfastError('step-input', `step ${step.call.step}: which version is to be restored is not known`, { next: 'give key, and versionId or a moment at which it existed' });
    const before = await restoredHow(wanted, step);
    const was = await currentOf(wanted, step);
    if (before.same) return { outcome: 'already-satisfied', summary: `${whereOf(wanted.place, wanted.key)} shows the content of version ${wanted.versionId} already`, facts: { versionId: wanted.versionId, current: before.current, proof: before.how } };
    const listed = was === undefined ? undefined : { ...was, key: wanted.key, latest: true, atMs: 0 };
    const made = await restoreVersion(wanted.place, wanted.key, wanted.versionId, listed, { signal: step.signal });
    return {
      outcome: 'changed',
      summary: `${whereOf(wanted.place, wanted.key)} has the content of version ${wanted.versionId} again (${formatBytes(made.bytes)})`,
      before: { current: was?.versionId ?? null, deleted: was?.marker ?? true },
      after: { current: made.versionId ?? null },
      facts: { versionId: wanted.versionId, replaced: was === undefined || was.marker ? null : was.versionId, current: made.versionId ?? null, bytes: made.bytes },
    };
  },
  async verify(step) {
    const wanted = await wantedVersion(step);
    if (wanted === undefined || wanted.versionId === null) throw new HoldfastError('step-input', `step ${step.call.step}: which version was to be restored is not known`, {});
    const found = await restoredHow(wanted, step);
    return { checks: [check('content', found.same, `that of version ${wanted.versionId}, with its metadata and tags`, found.same ? `the same, ${found.how}` : found.how, 'somebody wrote it since: look at its versions')], summary: `proved ${found.how}`, facts: { proof: found.how, current: found.current } };
  },
};

const restorePrefixStep: StepDefinition = {
  async inspect(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    if (optionalText(step, 'moment') === undefined) return { satisfied: false, summary: 'the moment is not known yet' };
    const prefix = prefixOf(step, place);
    const limit = AbortSignal.timeout(LOOK_MS);
    try {
      const options = prefixOptions(step, { signal: AbortSignal.any([step.signal, limit]) });
      const plan = await planPrefix(place, prefix, options);
      const todo = plan.bringBack.count + plan.replace.count + plan.remove.count + plan.undecided.count;
      const before = { plan: planText(plan) };
      if (todo > 0 || plan.existed === 0) return { satisfied: false, summary: planText(plan), before };
      if (plan.sameContent.count === 0) return { satisfied: true, summary: `${whereOf(place, prefix)} is as it was: ${planText(plan)}`, before };
      // The same bytes in other versions: what a restore leaves, or a change of metadata. Both are looked at key by key.
      const proof = await provePrefix(place, prefix, { ...options, concurrency: 4, sinceMs: Number.POSITIVE_INFINITY });
      return { satisfied: proof.wrong.count === 0, summary: proof.wrong.count === 0 ? `${whereOf(place, prefix)} is as it was: ${proof.right} keys proved` : `not as it was: ${countText(proof.wrong)}`, before };
    } catch (error) {
      if (!limit.aborted) throw error;
      return { satisfied: false, summary: `more than can be looked through in ${formatDuration(LOOK_MS)}: it is planned when it is restored`, before: { plan: null } };
    }
  },
  guard: (step) => planPrefixStep.guard!(step),
  async apply(step) {
    const name = textInput(step, 'datastore');
    const place = await openBucket(step.context, name);
    const { restore } = engineOf(step.context.config, name, 's3');
    const prefix = prefixOf(step, place);
    const options = prefixOptions(step);
    const startedAt = new Date(step.nowMs()).toISOString();
    const unversioned = await versioned(place);
    if (!unversioned.ok) throw new HoldfastError('s3-versioning', `nothing was changed: versioning of ${place.bucket} is ${unversioned.found}`, { next: unversioned.next! });
    const plan = await planPrefix(place, prefix, options);
    const refusal = planRefusal(plan, place, prefix, { ...options, archived: step.input['archived'] as 'refuse' | 'leave' });
    if (refusal !== null) throw new HoldfastError('s3-plan', `nothing was changed: ${refusal.message}`, { next: refusal.next });
    const result = await restorePrefix(place, prefix, { ...options, ...restore });
    const changed = result.restored + result.removed > 0;
    return {
      outcome: changed ? 'changed' : 'already-satisfied',
      summary: `${result.restored} restored (${formatBytes(result.bytes)}), ${result.removed} put behind a delete marker, ${result.unchanged} left as they are${result.overtaken.count === 0 ? '' : `; written by somebody else meanwhile: ${countText(result.overtaken)}`}${result.left.count === 0 ? '' : `; left in their archive: ${countText(result.left)}`}`,
      before: { plan: planText(plan) },
      after: { restored: result.restored, removed: result.removed },
      facts: { startedAt, restored: result.restored, removed: result.removed, bytes: result.bytes },
    };
  },
  async verify(step) {
    const name = textInput(step, 'datastore');
    const place = await openBucket(step.context, name);
    const prefix = prefixOf(step, place);
    const { startedAt } = step.call.facts;
    const sinceMs = typeof startedAt === 'string' ? Date.parse(startedAt) : Number.POSITIVE_INFINITY;
    const left = step.input['archived'] === 'leave';
    const proof = await provePrefix(place, prefix, { ...prefixOptions(step), sinceMs, concurrency: engineOf(step.context.config, name, 's3').restore.concurrency });
    return {
      checks: [check('every key is as it was', proof.wrong.count === 0, `${proof.keys} keys as at ${new Date(momentInput(step)).toISOString()}`, proof.wrong.count === 0 ? `${proof.right} with their content, ${proof.gone} gone` : countText(proof.wrong), left ? 'keys left in their archive differ still; restore them from it, then run this again' : 'somebody writes: stop the writers and retry, or mark it done and say which keys they own')],
      summary: `${proof.right} keys proved (${proof.byEtag} by ETag, ${proof.byChecksum} by checksum, ${proof.byReading} by reading; the others are those very versions), ${proof.gone} gone as they were${proof.severalSince.count === 0 ? '' : `; written more than once since it began, by others or by a repeated try: ${countText(proof.severalSince)}`}`,
      facts: { keys: proof.keys, right: proof.right, gone: proof.gone, byEtag: proof.byEtag, byChecksum: proof.byChecksum, byReading: proof.byReading, severalSince: proof.severalSince.count },
    };
  },
};

function markerFacts(marker: DrillMarker, sha256?: string): Record<string, Json> {
  return { key: marker.key, versionId: marker.original ?? null, deletedAt: marker.deletedAtMs === undefined ? null : new Date(marker.deletedAtMs).toISOString(), ...(sha256 === undefined ? {} : { sha256 }) };
}

const drillMarker: StepDefinition = {
  async inspect(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const marker = await lookAtMarker(place, drillKey(place, step.call), step.signal);
    return { satisfied: marker.deleted, summary: `${whereOf(place, marker.key)} is ${marker.deleted ? 'written, overwritten and deleted' : marker.original === undefined ? 'not written' : 'half written'}`, before: { key: marker.key }, ...(marker.deleted ? { facts: markerFacts(marker) } : {}) };
  },
  guard: async (step) => guarded([await versioned(await openBucket(step.context, textInput(step, 'datastore')))]),
  async apply(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const marker = await makeMarker(place, drillKey(place, step.call), step.signal);
    return { outcome: 'changed', summary: `${whereOf(place, marker.key)} was written, overwritten and deleted`, after: { key: marker.key }, facts: markerFacts(marker) };
  },
  async verify(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const key = drillKey(place, step.call);
    const gone = (await headVersion(place, key)) === undefined;
    return { checks: [check('deleted', gone, 'a reader gets nothing', gone ? 'nothing' : 'an object')], summary: 'a reader gets nothing' };
  },
  async undo(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const rest = await removeMarker(place, drillKey(place, step.call), step.nowMs(), step.signal);
    return { outcome: rest.removed > 0 ? 'changed' : 'already-satisfied', summary: `${rest.removed} versions and markers of the drill removed, ${rest.locked} held by object lock` };
  },
};

function givenKey(step: StepRun, place: Bucket): string | undefined {
  const key = optionalText(step, 'key');
  return key === undefined ? undefined : checkDrillKey(place, key);
}

const proveMarkerStep: StepDefinition = {
  async verify(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const key = checkDrillKey(place, textInput(step, 'key'));
    const proof = await proveMarker(place, key, step.signal);
    if (proof === undefined) return { checks: [check('content', false, 'what was written first', 'there is no object', 'look at its versions')], summary: 'there is nothing to compare' };
    return {
      checks: [
        check('content', proof.differsAt === null, 'byte by byte what was written first', proof.differsAt === null ? `${proof.bytes} bytes, sha256 ${proof.sha256}` : `byte ${proof.differsAt} differs`, 'versions of this bucket cannot be relied on: find out why before anything else'),
        check('metadata', proof.differs.length === 0, 'content type, metadata and tags as they were', proof.differs.length === 0 ? 'the same' : proof.differs.join(', ')),
      ],
      summary: `${proof.bytes} bytes are what was written first`,
      facts: { sha256: proof.sha256, bytes: proof.bytes },
    };
  },
};

const removeMarkerStep: StepDefinition = {
  async inspect(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const key = givenKey(step, place);
    if (key === undefined) return { satisfied: false, summary: 'its key is not known yet' };
    const rest = await restOfMarker(place, key, step.nowMs(), step.signal);
    const done = !rest.visible && rest.free.length === 0 && (rest.locked.length > 0 || rest.markers.length === 0);
    return { satisfied: done, summary: `${rest.free.length + rest.locked.length} versions, ${rest.locked.length} of them held by object lock`, ...(done ? { facts: { locked: rest.locked.length } } : {}) };
  },
  guard: async (step) => {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    givenKey(step, place);
    return guarded([]);
  },
  async apply(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const rest = await removeMarker(place, checkDrillKey(place, textInput(step, 'key')), step.nowMs(), step.signal);
    return { outcome: rest.removed > 0 ? 'changed' : 'already-satisfied', summary: `${rest.removed} versions and markers removed, ${rest.locked} held by object lock${rest.lockedUntilMs === null || !Number.isFinite(rest.lockedUntilMs) ? '' : ` until ${new Date(rest.lockedUntilMs).toISOString()}`}`, facts: { removed: rest.removed, locked: rest.locked } };
  },
  async verify(step) {
    const place = await openBucket(step.context, textInput(step, 'datastore'));
    const rest = await restOfMarker(place, checkDrillKey(place, textInput(step, 'key')), step.nowMs(), step.signal);
    const clean = !rest.visible && rest.free.length === 0;
    return { checks: [check('nothing left', clean, 'no version that no lock holds', clean ? `${rest.locked.length} locked versions` : `${rest.free.length} versions${rest.visible ? ', one of them current' : ''}`, 'allow s3:DeleteObjectVersion below .holdfast-drill/, then retry')], summary: `${rest.locked.length} locked versions stay` };
  },
};

async function lifecyclePlace(step: StepRun): Promise<{ place: Bucket; rules: readonly LifecycleRuleConfig[] }> {
  const [datastore, store] = [optionalText(step, 'datastore'), optionalText(step, 'store')];
  if ((datastore === undefined) === (store === undefined)) throw new HoldfastError('step-input', `step ${step.call.step} (s3.lifecycle) needs either datastore or store`, { next: 'give one of them' });
  if (datastore !== undefined) return { place: await openBucket(step.context, datastore), rules: engineOf(step.context.config, datastore, 's3').lifecycle ?? [] };
  const place = await openStoreBucket(step.context, store!);
  const config = storeOf(step.context.config, store!);
  return { place, rules: config.type === 's3' ? (config.lifecycle ?? []) : [] };
}

/** How long a changed document may take until it is read back. */
const SETTLE_MS = 30_000;

async function settled(step: StepRun, place: Bucket, wanted: LifecycleDocument): Promise<string[]> {
  const until = step.nowMs() + SETTLE_MS;
  for (;;) {
    const drift = await lifecycleDrift(place, wanted);
    if (drift.length === 0 || step.nowMs() >= until) return drift;
    step.heartbeat({ drift: drift.length });
    await pause(1000, step.signal);
  }
}

const lifecycle: StepDefinition = {
  async inspect(step) {
    const { place, rules } = await lifecyclePlace(step);
    const current = await readLifecycle(place);
    const plan = lifecyclePlanOf(place, rules, current);
    return { satisfied: !plan.differs, summary: lifecycleText(plan), before: { document: current as unknown as Json, foreign: plan.foreign as unknown as Json }, facts: { foreign: plan.foreign.length } };
  },
  async guard(step) {
    const { place, rules } = await lifecyclePlace(step);
    const plan = lifecyclePlanOf(place, rules, await readLifecycle(place));
    return guarded([check('lifecycle', true, 'rules can be read and planned', lifecycleText(plan))]);
  },
  async apply(step) {
    const { place, rules } = await lifecyclePlace(step);
    const current = await readLifecycle(place);
    const plan = lifecyclePlanOf(place, rules, current);
    if (!plan.differs) return { outcome: 'already-satisfied', summary: lifecycleText(plan), facts: { added: 0, changed: 0, removed: 0, foreign: plan.foreign.length } };
    await replaceLifecycle(place, current, plan.wanted);
    const drift = await settled(step, place, plan.wanted);
    if (drift.length > 0) throw new HoldfastError('lifecycle-drift', `the lifecycle rules of ${whereOf(place, '')} are not what was put: ${drift.slice(0, 5).join('; ')}`, { next: 'somebody changed them meanwhile, or the store does not keep all of it: look at `holdfast lifecycle`' });
    const of = (action: string): number => plan.changes.filter((change) => change.action === action).length;
    return {
      outcome: 'changed',
      summary: plan.changes.filter((change) => change.action !== 'same').map((change) => `${change.id}: ${change.action === 'add' ? `added, ${describeRule(change.to!)}` : change.action === 'remove' ? 'removed' : ruleDifferences(change.from!, change.to!).join(', ')}`).join('; '),
      after: { rules: plan.wanted.rules.length },
      facts: { added: of('add'), changed: of('change'), removed: of('remove'), foreign: plan.foreign.length },
    };
  },
  async verify(step) {
    const { place, rules } = await lifecyclePlace(step);
    const current = await readLifecycle(place);
    const plan = lifecyclePlanOf(place, rules, current);
    const before = (step.call.before as { foreign?: readonly string[] } | null)?.foreign ?? [];
    const lost = before.filter((id) => !plan.foreign.includes(id));
    return { checks: [check('lifecycle', !plan.differs, 'as the configuration says', lifecycleText(plan), 'look at `holdfast lifecycle`, then retry'), check('rules of others', lost.length === 0, `${before.length} as before`, lost.length === 0 ? `${plan.foreign.length}` : `gone: ${lost.join(', ')}`, 'ask their owner; the effects ledger of this run has the document as it was')], summary: lifecycleText(plan) };
  },
  async undo(step) {
    const { place } = await lifecyclePlace(step);
    const before = (step.call.before as unknown as { document?: LifecycleDocument } | null)?.document;
    if (before === undefined) return { outcome: 'already-satisfied', summary: 'what was there before was never seen: nothing was changed' };
    const current = await readLifecycle(place);
    const wanted = undoLifecycle(place.name, current, before);
    const drift = await lifecycleDrift(place, wanted);
    if (drift.length === 0) return { outcome: 'already-satisfied', summary: 'our lifecycle rules are as they were' };
    await replaceLifecycle(place, current, wanted);
    return { outcome: 'changed', summary: `our lifecycle rules are as they were before: ${before.rules.length} rules in all then, ${wanted.rules.length} now` };
  },
};

export const s3Steps: Readonly<Record<string, StepDefinition>> = {
  's3.check': checkBucket,
  's3.planPrefix': planPrefixStep,
  's3.restoreObject': restoreObject,
  's3.restorePrefix': restorePrefixStep,
  's3.drillMarker': drillMarker,
  's3.proveMarker': proveMarkerStep,
  's3.removeMarker': removeMarkerStep,
  's3.lifecycle': lifecycle,
};
