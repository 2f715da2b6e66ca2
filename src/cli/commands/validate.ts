import { dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { sortFindings } from '../../model/document.ts';
import { formatFinding } from '../../model/errors.ts';
import { EXIT, type Io } from '../io.ts';

export const summary = 'check holdfast.yaml and the runbooks; every error at once';

interface Flags {
  readonly config?: string;
  readonly runbooks?: string;
  readonly strict?: boolean;
}

/** Reads files only: no network, no secret, no database. What needs those is `readiness` and `doctor`. */
export function define(command: Command, io: Io): void {
  command
    .description('Check the configuration and every runbook: syntax, shape, references, schedules, policies, steps. Reads files only, tries nothing.')
    .option('--strict', 'warnings count as errors')
    .action(async () => {
      const flags = command.optsWithGlobals<Flags>();
      const config = resolve(flags.config ?? process.env['HOLDFAST_CONFIG'] ?? 'holdfast.yaml');
      const runbookDirectory = resolve(flags.runbooks ?? process.env['HOLDFAST_RUNBOOKS'] ?? join(dirname(config), 'runbooks'));
      const [{ readConfig }, { readRunbooks }] = await Promise.all([import('../../systems/config-file.ts'), import('../../systems/runbook-file.ts')]);
      const [read, runbooks] = await Promise.all([readConfig(config, { runbookDirectory }), readRunbooks(runbookDirectory)]);
      const findings = sortFindings([...read.findings, ...runbooks.findings]);
      const errors = findings.filter((finding) => finding.level === 'error').length;
      const warnings = findings.length - errors;
      const valid = errors === 0 && !(flags.strict === true && warnings > 0);
      const names = runbooks.files.map((file) => file.name);
      io.result({ valid, config, runbookDirectory, runbooks: names, errors, warnings, findings }, () =>
        [
          ...findings.map((finding) => formatFinding(finding).trimStart()),
          ...(findings.length > 0 ? [''] : []),
          `${config}: ${read.config === undefined ? 'not valid' : contents(read.config)}`,
          `${runbookDirectory}: ${names.length === 0 ? 'no runbooks' : `${count(names.length, 'runbook')} (${names.join(', ')})`}`,
          errors + warnings === 0 ? 'valid: no errors, no warnings' : `${valid ? 'valid' : 'not valid'}: ${count(errors, 'error')}, ${count(warnings, 'warning')}`,
        ].join('\n'),
      );
      if (!valid) io.exit(EXIT.usage);
    });
}

function contents(config: { services: object; datastores: object; stores: object; schedules: object }): string {
  return [
    count(Object.keys(config.services).length, 'service'), count(Object.keys(config.datastores).length, 'datastore'),
    count(Object.keys(config.stores).length, 'store'), count(Object.keys(config.schedules).length, 'schedule'),
  ].join(', ');
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}
