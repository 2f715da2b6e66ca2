import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { parseDocument } from '../../src/model/document.ts';
import { runbookOf } from '../../src/model/runbook-check.ts';

const text = readFileSync(new URL('../../docs/region-failover.md', import.meta.url), 'utf8');
const yaml = /<!-- tested: runbook -->\n```yaml\n([\s\S]*?)```/.exec(text)![1]!;
const findings = (document: string): string[] => runbookOf(parseDocument('docs/region-failover.md', document), 'leave-a-region').findings.map((one) => `${one.path}: ${one.message}`);

it('docs/region-failover.md shows a runbook that is one', () => {
  expect(findings(yaml)).toEqual([]);
});

it.each([
  ['weights that are all 0', 'region-b: 100', 'region-b: 0', /at least one weight over 0/],
  ['neither origin nor group', 'origin: region-b, ', '', /either origin or originGroup/],
  ['a watch of nothing', 'http: {url: "https://shop.example.com/health"}, ', '', /at least one of http, canary, metric/],
  ['a wait that is longer than its phase', 'duration: 10m', 'duration: 5h', /at most 4h/],
  ['a fact that the step does not yield', 'steps.degrade.previous', 'steps.degrade.former', /yields no such fact/],
])('validate refuses %s', (_, from, to, fault) => {
  expect(yaml).toContain(from);
  expect(findings(yaml.replace(from, to)).join('\n')).toMatch(fault);
});
