import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { OPERATOR_ACTIONS } from '../../src/model/execution.ts';
import { parseDocument } from '../../src/model/document.ts';
import { runbookOf } from '../../src/model/runbook-check.ts';
import { RULES } from '../../src/model/rules.ts';

const text = readFileSync(new URL('../../docs/runbooks.md', import.meta.url), 'utf8');

describe('docs/runbooks.md', () => {
  it('shows a runbook that is one', () => {
    const yaml = /<!-- tested: runbook -->\n```yaml\n([\s\S]*?)```/.exec(text)![1]!;
    const { runbook, findings } = runbookOf(parseDocument('docs/runbooks.md', yaml), 'read-replica-maintenance');
    expect(findings).toEqual([]);
    expect(runbook?.steps.map(({ id, needs }) => [id, needs])).toEqual([['drain', undefined], ['one', ['drain']], ['two', ['drain']], ['warm', undefined]]);
  });

  it('names every rule and every decision', () => {
    for (const [rule, { says, risk }] of Object.entries(RULES)) expect(text).toContain(`| \`${rule}\` | ${says} | ${risk} |`);
    for (const action of OPERATOR_ACTIONS) expect(text).toContain(`\`${action.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}\``);
  });
});

describe('validate refuses', () => {
  const step = (id: string, uses: string, more = ''): string => `  - {id: ${id}, title: t, uses: ${uses}, narrative: n${more}}\n`;
  const faults = (steps: string): string[] => runbookOf(parseDocument('r.yaml', `name: r\ntitle: t\nsummary: s\nsteps:\n${steps}`), 'r').findings.filter(({ level }) => level === 'error').map(({ line, message }) => `${line}: ${message}`);
  const command = (id: string, more = ''): string => step(id, 'rollout.command', more);

  it.each([
    ['a need that is not there', command('a') + command('b', ', needs: [nix]'), /^6: there is no earlier step of this id/],
    ['a need that comes later', command('a', ', needs: [b]') + command('b'), /^5: there is no earlier step of this id/],
    ['facts of a step it does not wait for', step('h', 'route53.change', ', with: {datastore: d}') + command('a') + command('b', ', needs: [a]') + command('c', ', needs: [], with: {argv: ["${steps.h.changeId}"]}'), /^8: this step does not wait for step "h"/],
    ['anything beside what refuses writes', step('ro', 'postgres.readOnly', ', with: {datastore: d}') + command('b', ', needs: []'), /must run alone/],
    ['an approval beside anything', command('a') + step('ask', 'operator.approval', ', needs: []'), /"ask" \(operator.approval\) must run alone/],
    ['a condition that asks for nothing', command('a', ', when: [{value: "${mode}"}]'), /asks for nothing/],
    ['a condition on no reference', command('a', ', when: [{value: mode, equals: x}]'), /it has the wrong form/],
    ['a condition on a fact that is none', step('h', 'route53.change', ', with: {datastore: d}') + command('a', ', when: [{value: "${steps.h.nix}", exists: true}]'), /yields no such fact/],
    ['a conditional point of no return', step('p', 'postgres.promote', ', with: {datastore: d}, when: [{value: "${mode}", equals: forced}]'), /is not conditional/],
    ['a nested run of nothing, and of two things', step('n', 'runbook.run') + step('m', 'runbook.run', ', with: {runbook: x, purpose: failover}'), /either runbook, or service and purpose/],
  ])('%s', (_, steps, fault) => {
    expect(faults(steps)).toContainEqual(expect.stringMatching(fault));
  });

  it('nothing of the kind where steps only run beside what they may', () => {
    expect(faults(command('a') + command('b', ', needs: [a]') + command('c', ', needs: [a]') + step('ro', 'postgres.readOnly', ', with: {datastore: d}') + step('p', 'postgres.promote', ', with: {datastore: d}'))).toEqual([]);
  });
});
