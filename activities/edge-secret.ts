import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { formatDuration } from '../src/model/units.ts';
import { describeSecret, promoteReplica, removeReplica, replicateSecret, type SecretSeen } from '../src/systems/secret-replica.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

interface Place {
  readonly secret: string;
  /** Where the original is. */
  readonly from: string;
  /** Where the replica is. */
  readonly region: string;
}

function placeOf(step: StepRun): Place {
  return { secret: textInput(step, 'secret'), from: optionalText(step, 'from') ?? step.context.config.aws.region, region: textInput(step, 'region') };
}

function statusIn(seen: SecretSeen | null, region: string): { status: string; message: string } | null {
  return seen?.replicas.find((one) => one.region === region) ?? null;
}

/** Messages of the service name the secret, never its value; they are shown shortened. */
function failed(place: Place, message: string): HoldfastError {
  return new HoldfastError('secret-replica', `secret ${place.secret} is not replicated to ${place.region}: ${message.slice(0, 300)}`, { next: 'remove what stands there under this name, or allow the key, take the Region out of its replication, then retry' });
}

const replicate: StepDefinition = {
  async inspect(step) {
    const place = placeOf(step);
    const found = statusIn(await describeSecret(step.context, place.secret, place.from), place.region);
    return { satisfied: found?.status === 'InSync', summary: `replica in ${place.region}: ${found?.status ?? 'none'}`, before: { replica: found?.status ?? null }, after: { replica: found?.status ?? null } };
  },
  async guard(step) {
    const place = placeOf(step);
    const seen = await describeSecret(step.context, place.secret, place.from);
    const checks = [check('secret', seen !== null, `secret ${place.secret} in ${place.from}`, seen === null ? 'none' : 'there', 'create it, or correct `secret` and `from`'), check('Regions', place.from !== place.region, 'two Regions', `${place.from} and ${place.region}`)];
    if (seen === null) return guarded(checks);
    checks.push(check('original', seen.replicaOf === null, `the original is in ${place.from}`, seen.replicaOf === null ? 'so' : `it is a replica of that in ${seen.replicaOf}`, 'correct `from`'));
    if (statusIn(seen, place.region) === null) {
      const there = await describeSecret(step.context, place.secret, place.region);
      checks.push(check('name is free', there === null, `no secret ${place.secret} in ${place.region}`, there === null ? 'none' : 'one that is no replica of this', 'it would not be overwritten: remove or rename it'));
    }
    return guarded(checks);
  },
  async apply(step) {
    const place = placeOf(step);
    const found = statusIn(await describeSecret(step.context, place.secret, place.from), place.region);
    if (found?.status === 'InSync') return { outcome: 'already-satisfied', summary: `${place.secret} is in sync in ${place.region} already`, facts: { replica: found.status } };
    if (found?.status === 'Failed') throw failed(place, found.message);
    if (found === null) await replicateSecret(step.context, place.secret, place.from, { region: place.region, kmsKeyId: optionalText(step, 'kmsKeyId') });
    return { outcome: 'changed', summary: `${place.secret} is being replicated to ${place.region}`, before: { replica: found?.status ?? null }, after: { replica: 'InProgress' }, facts: { replica: 'InProgress' } };
  },
  async verify(step) {
    const place = placeOf(step);
    const deadline = step.nowMs() + (step.input['wait'] as number);
    for (;;) {
      const seen = await describeSecret(step.context, place.secret, place.from);
      const found = statusIn(seen, place.region);
      if (found?.status === 'Failed') throw failed(place, found.message);
      const there = found?.status === 'InSync' ? await describeSecret(step.context, place.secret, place.region) : null;
      const same = there !== null && there.current === seen!.current;
      if (same || step.nowMs() > deadline) {
        return {
          checks: [check('replica', found?.status === 'InSync', 'InSync', found?.status ?? 'none', 'look at the secret’s replication in the console'), check('current version', same, seen?.current ?? 'the same in both Regions', there?.current ?? 'none', 'wait, then retry')],
          summary: `${place.secret} in ${place.region}: ${found?.status ?? 'none'}`,
          facts: { replica: found?.status ?? null, version: there?.current ?? null },
        };
      }
      step.heartbeat({ replica: found?.status ?? null });
      await pause(1000, step.signal);
    }
  },
  async undo(step) {
    const place = placeOf(step);
    const before = (step.call.before as { replica?: string | null } | null)?.replica;
    const found = statusIn(await describeSecret(step.context, place.secret, place.from), place.region);
    if (found === null) return { outcome: 'already-satisfied', summary: `there is no replica in ${place.region}` };
    if (before !== null) return { outcome: 'already-satisfied', summary: `the replica in ${place.region} was there before; it stays` };
    await removeReplica(step.context, place.secret, place.from, place.region);
    return { outcome: 'changed', summary: `the replica in ${place.region} is gone again` };
  },
};

/** What can be said of the replica; with the original's Region lost only that it is there. */
async function replicaChecks(step: StepRun) {
  const place = placeOf(step);
  const there = await describeSecret(step.context, place.secret, place.region);
  const checks = [check('replica', there?.current != null, `secret ${place.secret} with a current version in ${place.region}`, there === null ? 'none' : there.current === null ? 'no current version' : `version ${there.current}`, 'replicate it (secret.replicate)')];
  const original = await describeSecret(step.context, place.secret, place.from).then((seen) => ({ seen, error: null }), (error: unknown) => ({ seen: null, error: messageOf(error).split('\n')[0]! }));
  if (original.error !== null) {
    // Forced: the Region is lost, and whether the replica has the last change can no longer be asked.
    const known = step.call.mode === 'forced';
    checks.push(check('in sync', known, `InSync, said by ${place.from}`, known ? `not known: ${place.from} does not answer (${original.error})` : original.error, `${place.from} must answer in a planned run`));
    return { checks, there, inSync: null };
  }
  const status = statusIn(original.seen, place.region);
  const promoted = there !== null && there.replicaOf === null && status === null;
  const inSync = promoted || (status?.status === 'InSync' && there?.current === original.seen?.current);
  checks.push(check('in sync', inSync, 'InSync, the same version current in both Regions', promoted ? 'a secret of its own already' : status === null ? 'no replica is known' : `${status.status}; version ${there?.current ?? 'none'} there, ${original.seen?.current ?? 'none'} in ${place.from}`, 'wait for it, or look at the secret’s replication'));
  return { checks, there, inSync };
}

const verifyReplica: StepDefinition = {
  async guard(step) {
    return guarded((await replicaChecks(step)).checks);
  },
  async verify(step) {
    const { checks, there, inSync } = await replicaChecks(step);
    return { checks, summary: inSync === null ? 'there; whether it has the last change is not known' : inSync ? 'in sync' : 'not in sync', facts: { version: there?.current ?? null, inSync } };
  },
};

const promote: StepDefinition = {
  async inspect(step) {
    const { secret, region } = placeOf(step);
    const seen = await describeSecret(step.context, secret, region);
    return { satisfied: seen !== null && seen.replicaOf === null, summary: seen === null ? `no secret in ${region}` : seen.replicaOf === null ? 'a secret of its own' : `a replica of that in ${seen.replicaOf}`, before: { replicaOf: seen?.replicaOf ?? null }, after: { replicaOf: seen?.replicaOf ?? null } };
  },
  async guard(step) {
    return guarded((await replicaChecks(step)).checks);
  },
  async apply(step) {
    const { secret, region } = placeOf(step);
    const seen = await describeSecret(step.context, secret, region);
    if (seen === null) throw new HoldfastError('secret-missing', `there is no secret ${secret} in ${region}`, { next: 'create it there by hand: its replica is gone' });
    if (seen.replicaOf === null) return { outcome: 'already-satisfied', summary: `${secret} is a secret of its own in ${region} already`, facts: { arn: seen.arn } };
    const arn = await promoteReplica(step.context, secret, region);
    return { outcome: 'changed', summary: `${secret} in ${region} is a secret of its own; what changes in ${seen.replicaOf} no longer comes over`, before: { replicaOf: seen.replicaOf }, after: { replicaOf: null }, facts: { arn } };
  },
  async verify(step) {
    const { secret, region } = placeOf(step);
    const deadline = step.nowMs() + 20_000;
    const began = step.nowMs();
    let seen = await describeSecret(step.context, secret, region);
    while ((seen === null || seen.replicaOf !== null) && step.nowMs() < deadline) {
      await pause(1000, step.signal);
      seen = await describeSecret(step.context, secret, region);
    }
    const own = seen !== null && seen.replicaOf === null;
    return { checks: [check('secret of its own', own, `no replica in ${region}`, seen === null ? 'missing' : own ? 'so' : `still a replica of that in ${seen.replicaOf}`), check('current version', seen?.current != null, 'a current version', seen?.current ?? 'none')], summary: own ? `so after ${formatDuration(step.nowMs() - began)}` : 'not promoted' };
  },
};

export const edgeSecretSteps: Readonly<Record<string, StepDefinition>> = { 'secret.replicate': replicate, 'secret.verifyReplica': verifyReplica, 'secret.promoteReplica': promote };
