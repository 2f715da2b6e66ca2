import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { staleFiles } from '../../src/cli/generate.ts';
import { CATALOGUE } from '../../src/model/catalogue.ts';
import { configJsonSchema, runbookJsonSchema } from '../../src/model/json-schema.ts';
import { configurationReference, stepKindReference } from '../../src/model/reference.ts';
import { loadConfig } from '../../src/systems/config-file.ts';
import { readRunbooks } from '../../src/systems/runbook-file.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const RUNBOOKS = join(ROOT, 'runbooks');
const ajv = new Ajv2020({ allErrors: true, strict: true, strictTypes: false, strictRequired: false, formats: { uri: (text: string) => URL.canParse(text) } });
const config = ajv.compile(configJsonSchema());
const runbook = ajv.compile(runbookJsonSchema());

async function runbookFiles(): Promise<string[]> {
  return (await readdir(RUNBOOKS)).filter((name) => name.endsWith('.yaml'));
}

describe('generated files', () => {
  it('are what the definitions say', async () => {
    expect(await staleFiles(ROOT)).toEqual([]);
  });

  it('are named when they are missing', async () => {
    expect(await staleFiles(join(ROOT, 'no-such-folder'))).toEqual(['holdfast.schema.json', 'runbooks/schema.json', 'docs/reference/configuration.md', 'docs/reference/step-kinds.md', 'docs/reference/permissions.md']);
  });

  it('describe every step kind with its inputs and facts', () => {
    const reference = stepKindReference();
    for (const [name, kind] of Object.entries(CATALOGUE)) {
      expect(reference).toContain(`\n## ${name}\n`);
      for (const fact of Object.keys(kind.facts)) expect(reference).toContain(`| \`${fact}\` |`);
    }
    expect(configurationReference()).toContain('| `services.<name>.objectives.rto` | duration | *required* |');
  });
});

describe('holdfast.example.yaml', () => {
  it('is valid without an error or a warning, and satisfies the schema that editors use', async () => {
    const file = join(ROOT, 'holdfast.example.yaml');
    const { warnings } = await loadConfig(file, { runbookDirectory: RUNBOOKS });
    expect(warnings).toEqual([]);
    const text = await readFile(file, 'utf8');
    expect(text.split('\n', 1)).toEqual(['# yaml-language-server: $schema=./holdfast.schema.json']);
    config(parse(text));
    expect(config.errors).toBeNull();
  });
});

describe('runbooks', () => {
  it('are valid without an error or a warning', async () => {
    const { files, findings } = await readRunbooks(RUNBOOKS);
    expect(findings).toEqual([]);
    expect(files.map((file) => file.name)).toContain('database-failover');
  });

  it('satisfy the schema that editors use, and name it', async () => {
    for (const name of await runbookFiles()) {
      const text = await readFile(join(RUNBOOKS, name), 'utf8');
      expect(text.split('\n', 1)).toEqual(['# yaml-language-server: $schema=./schema.json']);
      runbook(parse(text));
      expect({ name, errors: runbook.errors }).toEqual({ name, errors: null });
    }
  });
});

describe('schemas', () => {
  it('refuse what the parser refuses', () => {
    expect(config({ version: 1, stores: {}, datastores: {}, services: { s: { objectives: { rto: '5 minutes', rpo: '1h' }, datastores: ['x'] } }, databases: {} })).toBe(false);
    expect(config.errors?.map((error) => error.instancePath)).toEqual(expect.arrayContaining(['', '/services/s/objectives/rto']));
    const step = (more: object): object => ({ name: 'x', title: 't', summary: 's', steps: [{ id: 'a', title: 't', narrative: 'n', ...more }] });
    expect(runbook(step({ uses: 'operator.wait', with: { duration: '5s' } }))).toBe(true);
    expect(runbook(step({ uses: 'operator.wait', with: { duration: '${parameters.wait}' } }))).toBe(true);
    expect(runbook(step({ uses: 'operator.wait', with: { duration: 5 } }))).toBe(false);
    expect(runbook(step({ uses: 'operator.wait' }))).toBe(false);
    expect(runbook(step({ uses: 'operator.wait', with: { duration: '5s', x: 1 } }))).toBe(false);
    expect(runbook(step({ uses: 'operator.weit' }))).toBe(false);
  });
});
