import type { PostgresDatastore } from '../src/model/config-schema.ts';
import { HoldfastError } from '../src/model/errors.ts';
import { dropStaged, maySwap, secretVersions, stageEndpoint, swapVersion } from '../src/systems/endpoint.ts';
import { applicationAddress, nodeByAddress } from '../src/systems/postgres-node.ts';
import { check, datastoreFor, endpointSecret, guarded, nodeInput, optionalText, secretRegion, type StepDefinition, type StepRun } from './step-definition.ts';

const MAX_SWAPS = 5;

function secretOf(step: StepRun): { datastore: PostgresDatastore; secretId: string; region: string | undefined } {
  return { datastore: datastoreFor(step), secretId: endpointSecret(step), region: secretRegion(step) };
}

const stage: StepDefinition = {
  async inspect(step) {
    const { secretId, region } = secretOf(step);
    const versions = await secretVersions(step.context, secretId, region);
    return { satisfied: false, summary: `current version ${versions.current}`, before: { current: versions.current, staged: [...versions.staged], points: `${versions.currentHost}:${versions.currentPort}` } };
  },
  async guard(step) {
    const { datastore, secretId, region } = secretOf(step);
    const versions = await secretVersions(step.context, secretId, region);
    const checks = [check('secret readable', true, secretId, `version ${versions.current}`)];
    if (optionalText(step, 'primary') !== undefined) {
      const primary = nodeInput(step, 'primary');
      const pointed = nodeByAddress(datastore, versions.currentHost, versions.currentPort);
      checks.push(check('secret points to the primary', pointed === primary, primary, `${versions.currentHost}:${versions.currentPort} (${pointed ?? 'no node of ours'})`, 'correct the secret or the node addresses'));
    }
    return guarded(checks);
  },
  async apply(step) {
    const { datastore, secretId, region } = secretOf(step);
    const candidate = nodeInput(step, 'candidate');
    const { staged, basedOn } = await stageEndpoint(step.context, secretId, applicationAddress(datastore.nodes[candidate]!), step.call.key, region);
    return {
      outcome: 'changed',
      summary: `a version that points to ${candidate} is staged`,
      before: { current: basedOn },
      after: { staged },
      facts: { secretId, currentVersion: basedOn, stagedVersion: staged },
    };
  },
  async verify(step) {
    const { secretId, region } = secretOf(step);
    const versions = await secretVersions(step.context, secretId, region);
    const staged = String(step.call.facts['stagedVersion']);
    return { checks: [check('staged version', versions.staged.includes(staged), staged, versions.staged.join(', ') || 'none')], summary: 'the staged version is there' };
  },
  async undo(step) {
    const { secretId, region } = secretOf(step);
    const versions = await secretVersions(step.context, secretId, region);
    const ours = step.call.facts['stagedVersion'];
    // Without a fact the answer was lost: whatever carries our label was staged by us.
    const labelled = versions.staged.filter((version) => version !== versions.current && (ours === undefined || version === ours));
    if (labelled.length === 0) return { outcome: 'already-satisfied', summary: 'nothing of ours is staged' };
    for (const version of labelled) await dropStaged(step.context, secretId, version, region);
    return { outcome: 'changed', summary: 'the staged version has lost its label; the current one was never touched' };
  },
};

const swap: StepDefinition = {
  async inspect(step) {
    const { datastore, secretId, region } = secretOf(step);
    const versions = await secretVersions(step.context, secretId, region);
    const pointed = nodeByAddress(datastore, versions.currentHost, versions.currentPort);
    const candidate = optionalText(step, 'candidate');
    // A swap that was cut off after it took effect has left our label: apply finds it swapped and takes the label off.
    const cleaned = !versions.staged.includes(versions.current);
    return { satisfied: candidate !== undefined && pointed === candidate && cleaned, summary: `the secret points to ${pointed ?? `${versions.currentHost}:${versions.currentPort}`}${cleaned ? '' : ', and its version still carries our label'}`, before: { current: versions.current } };
  },
  async guard(step) {
    const { secretId, region } = secretOf(step);
    const versions = await secretVersions(step.context, secretId, region);
    const right = await maySwap(step.context, secretId, region);
    return guarded([
      check('secret readable', true, secretId, `version ${versions.current}`),
      check('right to swap', right.allowed, 'secretsmanager:UpdateSecretVersionStage is allowed', right.found, "allow it to the worker's role on this secret"),
    ]);
  },
  async apply(step) {
    const { datastore, secretId, region } = secretOf(step);
    const candidate = nodeInput(step, 'candidate');
    const address = applicationAddress(datastore.nodes[candidate]!);
    let expected = optionalText(step, 'currentVersion');
    let staged = optionalText(step, 'stagedVersion');
    const first = expected;
    for (let round = 1; round <= MAX_SWAPS; round += 1) {
      if (expected === undefined || staged === undefined) {
        // Nothing staged, or the secret was changed (a rotated password) since: stage anew upon what is current now.
        const versions = await secretVersions(step.context, secretId, region);
        if (versions.currentHost === address.host && versions.currentPort === address.port) {
          return { outcome: 'already-satisfied', summary: `the secret points to ${candidate} already`, facts: { version: versions.current, swappedAtMs: step.nowMs() } };
        }
        ({ staged, basedOn: expected } = await stageEndpoint(step.context, secretId, address, step.call.key, region));
      }
      if (await swapVersion(step.context, secretId, staged, expected, region)) {
        const swappedAtMs = step.nowMs();
        await dropStaged(step.context, secretId, staged, region).catch((error: unknown) => step.log.warn({ err: error }, 'the label of the staged version stays'));
        return {
          outcome: 'changed',
          summary: `the secret points to ${candidate}${expected === first || first === undefined ? '' : ' (it had been changed meanwhile; the change was kept)'}`,
          before: { current: expected },
          after: { current: staged },
          facts: { version: staged, swappedAtMs },
        };
      }
      expected = undefined;
      staged = undefined;
    }
    throw new HoldfastError('secret-contended', `secret ${secretId} was changed ${MAX_SWAPS} times while it was being swapped`, { next: 'find out who changes it; then retry this step', retryable: false });
  },
  async verify(step) {
    const { datastore, secretId, region } = secretOf(step);
    const versions = await secretVersions(step.context, secretId, region);
    const pointed = nodeByAddress(datastore, versions.currentHost, versions.currentPort);
    const candidate = nodeInput(step, 'candidate');
    return { checks: [check('secret points to the new primary', pointed === candidate, candidate, pointed ?? `${versions.currentHost}:${versions.currentPort}`)], summary: `applications are told ${candidate}` };
  },
};

export const secretSteps: Readonly<Record<string, StepDefinition>> = { 'secret.stage': stage, 'secret.swap': swap };
