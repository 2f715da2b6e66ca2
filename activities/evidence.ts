import { dirname, resolve } from 'node:path';
import type { EvidenceInput, EvidenceLocation } from '../src/model/evidence.ts';
import type { Context } from '../src/systems/context.ts';
import { prepareEvidence, writeEvidenceFolder } from '../src/systems/evidence-folder.ts';
import { copyEvidence } from '../src/systems/evidence-store.ts';
import { withActivityFailures } from './failure.ts';

export type EvidenceActivities = ReturnType<typeof createEvidenceActivities>;

export function createEvidenceActivities(context: Context) {
  return withActivityFailures({
    /** Write, sign and copy the evidence of one run. Running it again for the same run changes nothing. */
    async writeEvidence(input: EvidenceInput): Promise<EvidenceLocation> {
      const { evidence, environment } = context.config;
      const signingKey = evidence.signingKey === undefined ? undefined : await context.secrets.resolve(evidence.signingKey);
      const prepared = prepareEvidence(input, environment, signingKey);
      const written = await writeEvidenceFolder(resolve(dirname(context.configPath), evidence.directory), prepared);
      if (evidence.store !== undefined) await copyEvidence(context, evidence.store, prepared.folder, { ...prepared.attached, ...written.files }, Date.now());
      context.log.info({ evidence: written.directory, signed: written.signed, outcome: input.outcome }, 'evidence written');
      return { id: prepared.id, directory: written.directory, sha256: written.sha256, signed: written.signed };
    },
  });
}
