import { HoldfastError } from '../src/model/errors.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { deleteParameter, describe, mayPutParameter, putParameter, readParameter, type ParameterAt, type ParameterSeen } from '../src/systems/parameter.ts';
import { check, guarded, optionalText, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

function placeOf(step: StepRun): ParameterAt {
  return { name: textInput(step, 'name'), region: optionalText(step, 'region') };
}

function asBefore(seen: ParameterSeen | null): Json {
  return seen === null ? { exists: false, version: 0 } : { exists: true, version: seen.version, type: seen.type, value: seen.value };
}

function beforeOf(step: StepRun): ParameterSeen | null | undefined {
  const before = step.call.before as { exists?: boolean; version?: number; type?: string; value?: string | null } | null;
  if (before?.exists === undefined) return undefined;
  return before.exists ? { version: before.version!, type: before.type!, value: before.value ?? null } : null;
}

function refuseEncrypted(at: ParameterAt, seen: ParameterSeen | null): void {
  if (seen !== null && seen.value === null) throw new HoldfastError('flag-encrypted', `parameter ${at.name} is a SecureString: a flag is read by people, its old value would have to be kept in history`, { next: 'keep the flag in a parameter of type String' });
}

async function guard(step: StepRun, value: string | null) {
  const at = placeOf(step);
  const seen = await readParameter(step.context, at);
  const checks = [check('type', seen === null || seen.value !== null, 'a String or StringList, or none yet', seen === null ? 'not there' : seen.type, 'keep the flag in a parameter of type String')];
  if (value !== null) checks.push(check('value', value.length > 0 && value.length <= 4096, '1 to 4096 characters', `${value.length} characters`));
  const right = await mayPutParameter(step.context, at, seen);
  checks.push(check('flag permission', right.allowed, 'ssm:PutParameter is allowed', right.found, "allow it to the worker's role on this parameter"));
  return guarded(checks);
}

const set: StepDefinition = {
  async inspect(step) {
    const seen = await readParameter(step.context, placeOf(step));
    return { satisfied: seen?.value === textInput(step, 'value'), summary: `${textInput(step, 'name')} is ${describe(seen)}`, before: asBefore(seen), after: asBefore(seen) };
  },
  guard: (step) => guard(step, textInput(step, 'value')),
  async apply(step) {
    const at = placeOf(step);
    const value = textInput(step, 'value');
    const now = await readParameter(step.context, at);
    refuseEncrypted(at, now);
    const facts = (previous: ParameterSeen | null, version: number) => ({ version, existed: previous !== null, previous: previous?.value ?? null, previousVersion: previous?.version ?? null });
    if (now?.value === value) return { outcome: 'already-satisfied', summary: `${at.name} is "${value}" already`, facts: facts(now, now.version) };
    const seen = beforeOf(step);
    const expected = seen === undefined ? now : seen;
    const version = await putParameter(step.context, at, value, expected);
    return { outcome: 'changed', summary: `${at.name}: ${describe(expected)} -> "${value}"`, before: asBefore(expected), after: { exists: true, version, value }, facts: facts(expected, version) };
  },
  async verify(step) {
    const seen = await readParameter(step.context, placeOf(step));
    const value = textInput(step, 'value');
    return { checks: [check('flag', seen?.value === value, `"${value}"`, describe(seen), 'somebody changed it since')], summary: `${textInput(step, 'name')} is ${describe(seen)}; when each application reads it is its own matter` };
  },
  async undo(step) {
    const at = placeOf(step);
    const before = beforeOf(step);
    const now = await readParameter(step.context, at);
    if (before === undefined) {
      if (now?.value !== textInput(step, 'value')) return { outcome: 'already-satisfied', summary: 'nothing of ours is there' };
      throw new HoldfastError('undo-unknown', `what parameter ${at.name} was before is not known`, { next: 'set it by hand, then markDone' });
    }
    return putBack(step, at, now, before === null ? null : before.value, textInput(step, 'value'), `${at.name} is back to ${before === null ? 'not there' : `"${before.value ?? ''}"`}`);
  },
};

async function putBack(step: StepRun, at: ParameterAt, now: ParameterSeen | null, previous: string | null, ours: string | null, summary: string) {
  if ((now === null && previous === null) || (now !== null && now.value === previous)) return { outcome: 'already-satisfied' as const, summary: `${at.name} is ${describe(now)}, as before` };
  if (ours !== null && now?.value !== ours) {
    throw new HoldfastError('flag-changed', `parameter ${at.name} was changed by somebody else: it was "${ours}", and is ${describe(now)} now. Nothing was put`, { next: 'decide by hand what it is to be, then markDone' });
  }
  refuseEncrypted(at, now);
  if (previous === null) await deleteParameter(step.context, at);
  else await putParameter(step.context, at, previous, now);
  return { outcome: 'changed' as const, summary, before: asBefore(now), after: { exists: previous !== null, value: previous } };
}

const restore: StepDefinition = {
  async inspect(step) {
    const seen = await readParameter(step.context, placeOf(step));
    const previous = step.input['existed'] === false ? null : optionalText(step, 'previous');
    return { satisfied: previous !== undefined && (seen?.value ?? null) === previous, summary: `${textInput(step, 'name')} is ${describe(seen)}`, before: asBefore(seen), after: asBefore(seen) };
  },
  guard: (step) => guard(step, null),
  async apply(step) {
    const at = placeOf(step);
    const previous = step.input['existed'] === false ? null : textInput(step, 'previous');
    const now = await readParameter(step.context, at);
    const seen = beforeOf(step);
    const version = step.input['version'];
    if (typeof version === 'number' && now !== null && now.version !== version && now.value !== previous) {
      throw new HoldfastError('flag-changed', `parameter ${at.name} was changed by somebody else: version ${version} was put by this run, it is ${describe(now)} now. Nothing was put`, { next: 'decide by hand what it is to be, then skip or markDone' });
    }
    return putBack(step, at, seen === undefined || seen?.version === now?.version ? now : seen, previous, null, `${at.name} is ${previous === null ? 'gone again' : `"${previous}" again`}`);
  },
  async verify(step) {
    const seen = await readParameter(step.context, placeOf(step));
    const previous = step.input['existed'] === false ? null : textInput(step, 'previous');
    return { checks: [check('flag', (seen?.value ?? null) === previous, previous === null ? 'not there' : `"${previous}"`, describe(seen), 'somebody changed it since')], summary: `${textInput(step, 'name')} is ${describe(seen)}` };
  },
};

export const edgeFlagSteps: Readonly<Record<string, StepDefinition>> = { 'flag.set': set, 'flag.restore': restore };
