import { setTimeout as pause } from 'node:timers/promises';
import { dirname, resolve } from 'node:path';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { subjectName, type ChainPosition, type EvidenceInput, type EvidenceLocation, type Sealing } from '../src/model/evidence.ts';
import type { Context } from '../src/systems/context.ts';
import { existingEvidence, markPending, prepareEvidence, settlePending, writeEvidenceFolder, type PreparedEvidence, type WrittenEvidence } from '../src/systems/evidence-folder.ts';
import { readSigningKey } from '../src/systems/evidence-keys.ts';
import { claimPosition, copyEvidence, folderChain, pushPending, storeChain } from '../src/systems/evidence-store.ts';
import { sendNotice } from '../src/systems/notify.ts';
import { withActivityFailures } from './failure.ts';

export type EvidenceActivities = ReturnType<typeof createEvidenceActivities>;

/** All of it must end within the activity's two minutes: what does not answer must not keep the record from being written here. */
const KEY_MS = 15_000;
const CLAIM_MS = 25_000;
const COPY_MS = 40_000;
const PUSH_MS = 10_000;
const COPY_PAUSES_MS = [500, 2000, 5000];

export function createEvidenceActivities(context: Context) {
  return withActivityFailures({
    /** Write, sign and copy the evidence of one run. Running it again for the same run changes nothing. */
    async writeEvidence(input: EvidenceInput): Promise<EvidenceLocation> {
      const { evidence } = context.config;
      const directory = resolve(dirname(context.configPath), evidence.directory);
      const problems: string[] = [];
      const written = await writeHere(input, directory, problems);
      let stored: string | null = null;
      if (evidence.store !== undefined) {
        try {
          stored = await copyWithRetries(evidence.store, written);
          await settlePending(directory, written.folder);
        } catch (error) {
          // Whoever looked while there was no record yet has taken its mark away.
          await markPending(directory, written.folder).catch((failed: unknown) => problems.push(`it could not be marked as not copied: ${messageOf(failed)}`));
          problems.push(`NOT COPIED to store ${evidence.store}: ${messageOf(error)}. It is on this host only and is copied with the next record, when a worker starts here, or by \`holdfast evidence push\``);
        }
        // What an earlier failure left behind goes with it; that it cannot is no fault of this record.
        if (stored !== null) await within(PUSH_MS, 'older copies', (signal) => pushPending(context, directory, evidence.store!, Date.now(), signal)).then(({ left, problem }) => {
            if (problem !== undefined) context.log.error({ left, problem }, 'evidence is on this host only');
          }, (error: unknown) => context.log.warn({ error: messageOf(error) }, 'older evidence could not be copied'));
      }
      const problem = problems.length === 0 ? null : problems.join('; ');
      context.log.info({ evidence: written.directory, signed: written.signed, stored, problem, outcome: input.outcome }, 'evidence written');
      if (problem !== null) await tell(input, written, problem);
      return { id: written.folder.slice(-10), directory: written.directory, sha256: written.sha256, signed: written.signed, stored, problem };
    },
  });

  async function writeHere(input: EvidenceInput, directory: string, problems: string[]): Promise<WrittenEvidence> {
    const { evidence, environment } = context.config;
    let signingKey: string | undefined;
    let unsigned = 'no signing key is configured';
    if (evidence.signingKey !== undefined) {
      try {
        signingKey = await within(KEY_MS, 'the signing key', (signal) => withRetries(() => context.secrets.resolve(evidence.signingKey!), signal));
        readSigningKey(signingKey);
      } catch (error) {
        // A record without a signature is worth more than none, when it says so.
        signingKey = undefined;
        unsigned = `the signing key could not be used: ${messageOf(error).split('\n')[0]}`;
        problems.push(`NOT SIGNED: ${unsigned}`);
      }
    }
    const prepare = (seal: Pick<Sealing, 'position' | 'unchained'>): PreparedEvidence => prepareEvidence(input, environment, signingKey, { ...seal, unsigned });
    const alone = prepare({ position: null, unchained: null });
    const existing = await existingEvidence(directory, alone);
    if (existing !== undefined) {
      if (existing.position === null) problems.push('not in the chain of records: an earlier attempt could not reach it');
      return existing;
    }
    if (evidence.store !== undefined) await markPending(directory, alone.folder);
    let prepared: PreparedEvidence;
    try {
      prepared = await within(CLAIM_MS, 'the chain of evidence', async (signal) => {
        const place = evidence.store === undefined ? await folderChain(directory) : await storeChain(context, evidence.store);
        const record = (position: ChainPosition): PreparedEvidence => prepare({ position, unchained: null });
        return claimPosition(place, `${environment}/${subjectName(input)}`, record, Date.now(), signal);
      });
    } catch (error) {
      const why = messageOf(error).split('\n')[0]!;
      prepared = prepare({ position: null, unchained: why });
      problems.push(`not in the chain of records: ${why}`);
    }
    return writeEvidenceFolder(directory, prepared);
  }

  async function copyWithRetries(storeName: string, written: WrittenEvidence): Promise<string> {
    return within(COPY_MS, `store ${storeName}`, (signal) => withRetries(() => copyEvidence(context, storeName, written.folder, written.files, Date.now(), signal), signal));
  }

  async function tell(input: EvidenceInput, written: WrittenEvidence, problem: string): Promise<void> {
    await sendNotice(context.config.notify, context.secrets, context.log, {
      level: 'attention',
      title: `Evidence needs attention: ${input.title}`,
      text: problem,
      fields: { evidence: written.directory, workflow: input.workflowId, environment: context.config.environment },
    });
  }
}

/** Tries again what another try can help; at most four times. */
async function withRetries<T>(run: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await run();
    } catch (error) {
      const wait = COPY_PAUSES_MS[attempt];
      if (wait === undefined || signal?.aborted === true || (error instanceof HoldfastError && !error.retryable)) throw error;
      await pause(wait, undefined, signal === undefined ? {} : { signal });
    }
  }
}

/** Clients have timeouts of their own, but all their retries together may take longer than there is. */
async function within<T>(limitMs: number, what: string, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const late = new HoldfastError('evidence-late', `${what} did not answer within ${limitMs / 1000} s`, { retryable: true });
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(late);
      stop.abort(late);
    }, limitMs);
  });
  try {
    return await Promise.race([run(stop.signal), limit]);
  } finally {
    clearTimeout(timer);
  }
}
