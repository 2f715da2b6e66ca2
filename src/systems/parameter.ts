import type { ParameterMetadata } from '@aws-sdk/client-ssm';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, errorName, probeAnswer } from './aws-failure.ts';
import type { Context } from './context.ts';

export interface ParameterAt {
  readonly name: string;
  readonly region: string | undefined;
}

/** A parameter as it is stored. The value of an encrypted one is never asked for. */
export interface ParameterSeen {
  readonly version: number;
  readonly type: string;
  /** null: encrypted. */
  readonly value: string | null;
}

export async function readParameter(context: Context, at: ParameterAt): Promise<ParameterSeen | null> {
  const { GetParameterCommand } = await import('@aws-sdk/client-ssm');
  const client = await context.aws.ssm(at.region);
  try {
    const { Parameter: found } = await client.send(new GetParameterCommand({ Name: at.name, WithDecryption: false }));
    const encrypted = found?.Type === 'SecureString';
    return { version: found!.Version!, type: String(found!.Type), value: encrypted ? null : (found!.Value ?? '') };
  } catch (error) {
    if (errorName(error) === 'ParameterNotFound') return null;
    throw awsFailure('parameter-call', 'ssm:GetParameter', at.name, error);
  }
}

async function metadata(context: Context, at: ParameterAt): Promise<ParameterMetadata | undefined> {
  const { DescribeParametersCommand } = await import('@aws-sdk/client-ssm');
  const client = await context.aws.ssm(at.region);
  try {
    const answer = await client.send(new DescribeParametersCommand({ ParameterFilters: [{ Key: 'Name', Option: 'Equals', Values: [at.name] }] }));
    return answer.Parameters?.[0];
  } catch (error) {
    throw awsFailure('parameter-call', 'ssm:DescribeParameters', at.name, error);
  }
}

/** A version's value; null when it is gone. */
async function valueOf(context: Context, at: ParameterAt, version: number): Promise<string | null> {
  const { GetParameterCommand } = await import('@aws-sdk/client-ssm');
  const client = await context.aws.ssm(at.region);
  try {
    return (await client.send(new GetParameterCommand({ Name: `${at.name}:${version}`, WithDecryption: false }))).Parameter?.Value ?? null;
  } catch (error) {
    if (/NotFound/.test(errorName(error))) return null;
    throw awsFailure('parameter-call', 'ssm:GetParameter', `${at.name}:${version}`, error);
  }
}

async function put(context: Context, at: ParameterAt, value: string, overwrite: ParameterSeen | null): Promise<number> {
  const { PutParameterCommand } = await import('@aws-sdk/client-ssm');
  const client = await context.aws.ssm(at.region);
  const kept = overwrite === null ? undefined : await metadata(context, at);
  // What is not said again would fall back to a default.
  const rest = kept === undefined ? {} : { ...(kept.Description === undefined ? {} : { Description: kept.Description }), ...(kept.AllowedPattern === undefined ? {} : { AllowedPattern: kept.AllowedPattern }), ...(kept.Tier === undefined ? {} : { Tier: kept.Tier }), ...(kept.DataType === undefined ? {} : { DataType: kept.DataType }) };
  const answer = await client.send(new PutParameterCommand({ Name: at.name, Value: value, Type: (overwrite?.type ?? 'String') as 'String', Overwrite: overwrite !== null, ...rest }));
  return answer.Version!;
}

function changed(at: ParameterAt, what: string): HoldfastError {
  return new HoldfastError('flag-changed', `parameter ${at.name} was changed by somebody else: ${what}`, { next: 'find out who changed it and why; then retry' });
}

/**
 * Puts a value upon the version that was seen. Parameter Store knows no condition on a version, so it is read right before, and the
 * version that the write got tells whether somebody came in between: then his value is put back and the step refuses.
 */
export async function putParameter(context: Context, at: ParameterAt, value: string, seen: ParameterSeen | null): Promise<number> {
  const now = await readParameter(context, at);
  if ((now?.version ?? 0) !== (seen?.version ?? 0)) throw changed(at, `it was ${describe(seen)}, and is ${describe(now)} now. Nothing was put`);
  let version: number;
  try {
    version = await put(context, at, value, seen);
  } catch (error) {
    if (errorName(error) === 'ParameterAlreadyExists') throw changed(at, 'it was not there, and is there now. Nothing was put');
    throw awsFailure('parameter-call', 'ssm:PutParameter', at.name, error, errorName(error) === 'ParameterMaxVersionLimitExceeded' ? 'its oldest version carries a label: move the label, then retry' : undefined);
  }
  const expected = (seen?.version ?? 0) + 1;
  if (version === expected || seen === null) return version;
  const theirs = await valueOf(context, at, version - 1);
  // An answer was lost, and the client sent the same again.
  if (theirs === value) return version;
  const current = await readParameter(context, at);
  if (theirs !== null && current !== null && current.version === version) {
    await put(context, at, theirs, current).catch((error: unknown) => {
      throw awsFailure('parameter-call', 'ssm:PutParameter', at.name, error, `put the value of version ${version - 1} back by hand`);
    });
    throw changed(at, `version ${expected} came while version ${version} was being put; the value of version ${version - 1} is back`);
  }
  throw changed(at, `version ${expected} came while version ${version} was being put; it is ${describe(current)} now`);
}

export async function deleteParameter(context: Context, at: ParameterAt): Promise<void> {
  const { DeleteParameterCommand } = await import('@aws-sdk/client-ssm');
  const client = await context.aws.ssm(at.region);
  try {
    await client.send(new DeleteParameterCommand({ Name: at.name }));
  } catch (error) {
    if (errorName(error) !== 'ParameterNotFound') throw awsFailure('parameter-call', 'ssm:DeleteParameter', at.name, error);
  }
}

/**
 * May we put it? Asked by creating it although it is there; before it is, with an empty value. Parameter Store takes neither. Of the
 * second nobody promises that the right is looked at before the value.
 */
export async function mayPutParameter(context: Context, at: ParameterAt, seen: ParameterSeen | null): Promise<{ allowed: boolean; found: string }> {
  const { PutParameterCommand } = await import('@aws-sdk/client-ssm');
  const client = await context.aws.ssm(at.region);
  try {
    await client.send(new PutParameterCommand({ Name: at.name, Value: seen?.value ?? '', Type: 'String', Overwrite: false }));
    return { allowed: false, found: seen === null ? 'the service took an empty value' : 'it was gone just now, and is there again with its value' };
  } catch (error) {
    if (errorName(error) === 'ParameterAlreadyExists') return { allowed: true, found: 'allowed' };
    const answer = probeAnswer('ssm:PutParameter', at.name, error);
    return answer.allowed ? { allowed: true, found: 'not refused; it is not there yet, so this is no proof' } : answer;
  }
}

export function describe(seen: ParameterSeen | null): string {
  return seen === null ? 'not there' : `version ${seen.version}${seen.value === null ? ' (encrypted)' : `, "${seen.value.slice(0, 200)}"`}`;
}
