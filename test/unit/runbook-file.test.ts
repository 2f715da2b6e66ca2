import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseDocument } from '../../src/model/document.ts';
import { ConfigError, type Finding } from '../../src/model/errors.ts';
import { runbookOf } from '../../src/model/runbook-check.ts';
import { loadRunbook, loadRunbooks, readRunbooks } from '../../src/systems/runbook-file.ts';

const GOOD = `name: switch
title: Switch the database
summary: Moves the primary role.
parameters:
  datastore: {type: string, description: which datastore, required: true}
  maxLag: {type: duration, description: how far behind the candidate may be, default: 5s}
steps:
  - id: health
    title: Confirm
    uses: postgres.health
    narrative: Look at both.
    with: {datastore: "\${parameters.datastore}", maxLag: "\${parameters.maxLag}"}
  - id: read-only
    title: Refuse writes
    uses: postgres.readOnly
    modes: [planned]
    narrative: Refuse writes.
    with: {datastore: "\${parameters.datastore}", primary: "\${steps.health.primary}"}
  - id: replay
    title: Wait
    uses: postgres.awaitReplay
    narrative: Wait.
    with: {datastore: "\${parameters.datastore}", lsn: "\${steps.read-only.lsn}"}
  - id: promote
    title: Promote
    uses: postgres.promote
    narrative: Promote.
    with: {datastore: "\${parameters.datastore}", candidate: "\${steps.health.candidate}"}
`;

function findings(text: string): Finding[] {
  return runbookOf(parseDocument('switch.yaml', text), 'switch').findings;
}

function edited(from: string, to: string): Finding[] {
  const text = GOOD.replace(from, () => to);
  expect(text).not.toBe(GOOD);
  return findings(text);
}

describe('a runbook', () => {
  it('that is good has no finding; an input that a step of another mode yields may be absent', () => {
    const { runbook, findings: found } = runbookOf(parseDocument('switch.yaml', GOOD), 'switch');
    expect(found).toEqual([]);
    expect(runbook?.steps.map((step) => step.modes)).toEqual([['planned', 'forced'], ['planned'], ['planned', 'forced'], ['planned', 'forced']]);
  });

  it.each([
    ['an unknown kind', 'uses: postgres.promote', 'uses: postgres.promot', 26, 'steps[3].uses', /did you mean "postgres.promote"/, /postgres.promote, /],
    ['a doubled id', 'id: replay', 'id: health', 19, 'steps[2].id', /another step above/, undefined],
    ['an unknown input', 'maxLag: "${par', 'maxlag: "${par', 12, 'steps[0].with.maxlag', /did you mean "maxLag"/, /datastore, primary, candidate/],
    ['an unknown input that holds a reference', 'primary: "${steps', 'primry: "${steps', 18, 'steps[1].with.primry', /did you mean "primary"/, /datastore, primary/],
    ['a missing input', '{datastore: "${parameters.datastore}", candidate', '{candidate', 28, 'steps[3].with.datastore', /required/, undefined],
    ['an input of a wrong form', 'maxLag: "${parameters.maxLag}"', 'maxLag: 5 s', 12, 'steps[0].with.maxLag', /wrong form/, /30s, 15m/],
    ['an undeclared parameter', 'maxLag: "${parameters.maxLag}"', 'maxLag: "${parameters.maxLa}"', 12, 'steps[0].with.maxLag', /did you mean "maxLag"/, /datastore, maxLag/],
    ['a step that comes later', '"${steps.health.primary}"', '"${steps.promote.timeline}"', 18, 'steps[1].with.primary', /comes later/, /^health$/],
    ['a step that there is not', '"${steps.health.primary}"', '"${steps.heath.primary}"', 18, 'steps[1].with.primary', /did you mean "health"/, /^health$/],
    ['a fact that there is not', '"${steps.health.primary}"', '"${steps.health.primry}"', 18, 'steps[1].with.primary', /did you mean "primary"/, /candidate/],
    ['a reference to a whole step', '"${steps.health.primary}"', '"${steps.health}"', 18, 'steps[1].with.primary', /which fact/, /steps.health.primary/],
    ['a reference of no kind', '"${steps.health.primary}"', '"${env.HOME}"', 18, 'steps[1].with.primary', /not known/, /\$\{service\}/],
    ['a reference to what every object has', '"${steps.health.primary}"', '"${steps.health.constructor}"', 18, 'steps[1].with.primary', /no such fact/, undefined],
    ['an open reference', '"${steps.health.primary}"', '"${steps.health.primary"', 18, 'steps[1].with.primary', /not closed/, undefined],
    ['a step to come after that comes later', '    uses: postgres.awaitReplay\n', '    uses: postgres.awaitReplay\n    after: promote\n', 22, 'steps[2].after', /no earlier step/, /health, read-only/],
    ['a wrong default', 'default: 5s', 'default: [5s]', 6, 'parameters.maxLag.default', /this parameter is a duration/, undefined],
    ['another name than its file', 'name: switch', 'name: swap', 1, 'name', /like its file/, /switch/],
    ['a second point of no return', 'uses: postgres.awaitReplay', 'uses: postgres.promote', 26, 'steps[3].uses', /second point of no return/, undefined],
  ])('with %s is refused on its line', (_, from, to, line, path, message, allowed) => {
    const found = edited(from, to).filter((finding) => finding.level === 'error' && finding.path === path);
    expect(found.length).toBeGreaterThan(0);
    expect(found[0]!.message).toMatch(message);
    expect(found[0]!.allowed ?? '').toMatch(allowed ?? /.*/);
    expect(found[0]!.line).toBe(line);
  });

  it('refuses a required input that is absent in one mode for certain', () => {
    const found = edited('{datastore: "${parameters.datastore}", lsn: "${steps.read-only.lsn}"}', '{datastore: "${steps.read-only.lsn}"}');
    expect(found).toMatchObject([{ level: 'error', path: 'steps[2].with.datastore', message: 'in mode forced step "read-only" does not run, and this input is required' }]);
  });

  it('refuses a required input that an optional parameter may leave absent', () => {
    const found = edited('required: true}', 'required: false}').filter((finding) => finding.level === 'error');
    expect(found.map((finding) => finding.path)).toEqual(['steps[0].with.datastore', 'steps[1].with.datastore', 'steps[2].with.datastore', 'steps[3].with.datastore']);
    expect(found[0]!.message).toMatch(/parameter "datastore" may be absent/);
  });

  it('reports what is wrong in all steps at once', () => {
    const text = GOOD.replace('uses: postgres.promote', 'uses: nothing').replace('id: replay', 'id: Replay').replace('maxLag: "${parameters.maxLag}"', 'maxLag: x');
    expect(findings(text).map(({ level, path }) => `${level} ${path}`)).toEqual([
      'warning parameters.maxLag', 'error steps[0].with.maxLag',
      'warning steps[1]', 'error steps[2].id', 'error steps[3].uses',
    ]);
  });

  it.each([
    ['an undo after the point of no return', 'uses: postgres.promote', 'uses: postgres.promote', `  - {id: canary, title: t, uses: canary.start, narrative: n, with: {datastore: x}}\n`, /never undone/],
    ['waiting for a person while writes are refused', '  - id: promote', '  - {id: ask, title: t, uses: operator.approval, narrative: n}\n  - id: promote', '', /waits while writes are refused/],
    ['a parameter that nothing uses', 'steps:\n', '  spare: {type: string, description: nothing, default: x}\nsteps:\n', '', /no step uses/],
    ['a timeout that has no effect', '    uses: postgres.health\n', '    uses: postgres.health\n    timeout: 5s\n', '', /no effect/],
  ])('warns of %s', (_, from, to, more, message) => {
    const text = GOOD.replace(from, () => to) + more;
    const { runbook, findings: found } = runbookOf(parseDocument('switch.yaml', text), 'switch');
    expect(runbook).toBeDefined();
    expect(found.map((finding) => finding.level)).toContain('warning');
    expect(found.map((finding) => finding.message).join('\n')).toMatch(message);
  });

  it('refuses writes refused after promotion', () => {
    const found = findings(`${GOOD}  - {id: again, title: t, uses: postgres.readOnly, narrative: n, with: {datastore: x}}\n`);
    expect(found.filter((finding) => finding.level === 'error')).toMatchObject([{ path: 'steps[4]' }]);
  });

  it('never shows a pasted secret', () => {
    const more = '  - {id: call, title: t, uses: rollout.http, narrative: n, with: {url: "https://u:hunter2@host/", authorization: Bearer hunter2}}\n';
    const found = findings(GOOD + more);
    expect(found.filter((finding) => finding.level === 'error').map((finding) => finding.path)).toEqual(['steps[4].with.url', 'steps[4].with.authorization']);
    expect(JSON.stringify(found)).not.toContain('hunter2');
  });
});

describe('a folder of runbooks', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'holdfast-runbooks-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  it('is read whole, with the findings of all files at once', async () => {
    await writeFile(join(folder, 'switch.yaml'), GOOD.replace('uses: postgres.promote', 'uses: x'));
    await writeFile(join(folder, 'other.yml'), 'steps: [');
    await writeFile(join(folder, 'schema.json'), '{}');
    const { files } = await readRunbooks(folder);
    expect(files.map(({ name, runbook }) => [name, runbook])).toEqual([['other', undefined], ['switch', undefined]]);
    const error = await loadRunbooks(folder).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(ConfigError);
    expect(new Set((error as ConfigError).findings.map((finding) => finding.file))).toEqual(new Set([join(folder, 'other.yml'), join(folder, 'switch.yaml')]));
  });

  it('gives one runbook by name, names those there are, and never leaves the folder', async () => {
    await writeFile(join(folder, 'switch.yaml'), GOOD);
    await writeFile(join(folder, 'switch-twin.yaml'), GOOD);
    expect((await loadRunbook(folder, 'switch')).runbook.name).toBe('switch');
    await expect(loadRunbook(folder, 'swich')).rejects.toMatchObject({ code: 'unknown-runbook', next: 'use one of: switch-twin, switch' });
    await expect(loadRunbook(join(folder, 'sub'), '../switch')).rejects.toMatchObject({ code: 'unknown-runbook' });
    await expect(loadRunbook(folder, 'switch-twin')).rejects.toBeInstanceOf(ConfigError);
    await writeFile(join(folder, 'switch.yml'), GOOD);
    const { findings: found } = await readRunbooks(folder);
    expect(found.map((finding) => finding.message).join()).toMatch(/another file has the same runbook name/);
  });

  it('that does not exist has none', async () => {
    expect((await loadRunbooks(join(folder, 'none'))).runbooks.size).toBe(0);
    await writeFile(join(folder, 'file'), '');
    await expect(loadRunbooks(join(folder, 'file'))).rejects.toMatchObject({ code: 'runbooks-unreadable' });
  });
});
