import { CATALOGUE, stepKind, type StepKind } from './catalogue.ts';
import { SECRET_REFERENCE_PATTERN } from './config-schema.ts';
import { findingsOf, inputSchema, nearest, pastedSecrets, shapeIssues, shown, sortFindings, valueAt, withoutTwins, type DocumentPath, type Issue, type ParsedDocument } from './document.ts';
import type { Finding } from './errors.ts';
import { fillReferences, lookUp, MODES, referencesIn, runbookSchema, unmetBy, type Mode, type Runbook, type RunbookStep } from './runbook-schema.ts';
import { parseDurationMs } from './units.ts';

/** A parsed document as a runbook, with every finding. `runbook` only when nothing is wrong. */
export function runbookOf(document: ParsedDocument, expectedName: string): { runbook: Runbook | undefined; findings: Finding[] } {
  const findings = [...document.findings];
  if (document.value === undefined) return { runbook: undefined, findings };
  const issues = [...withoutTwins(pastedSecrets(document.value), shapeIssues(runbookSchema, document.value)), ...checkRunbook(document.value, expectedName)];
  findings.push(...findingsOf(document, issues));
  const parsed = runbookSchema.safeParse(document.value);
  const wrong = findings.some((finding) => finding.level === 'error');
  return { runbook: wrong || !parsed.success ? undefined : parsed.data, findings: sortFindings(findings) };
}

/** A step's inputs with service, mode and parameters filled in; what later steps' facts or a forEach will give stays as it is written. */
export function knownInputs(step: Pick<RunbookStep, 'with'>, known: { service: string | null; mode: Mode; parameters: Readonly<Record<string, unknown>> }): Record<string, unknown> {
  const fill = (value: unknown): unknown => {
    if (typeof value === 'string') return referencesIn(value).some((reference) => reference.startsWith('steps.') || reference === 'item') ? value : fillReferences(value, { ...known, steps: {} }).value;
    if (Array.isArray(value)) return value.map(fill).filter((item) => item !== undefined);
    if (value !== null && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fill(item)] as const).filter(([, item]) => item !== undefined));
    return value;
  };
  return fill(step.with) as Record<string, unknown>;
}

/** It will never be carried out: a condition on a parameter, the mode or the service does not hold. */
export function neverRuns(step: Pick<RunbookStep, 'when'>, known: { service: string | null; mode: Mode; parameters: Readonly<Record<string, unknown>> }): boolean {
  return (step.when ?? []).some((condition) => {
    const reference = referencesIn(condition.value)[0] ?? '';
    return !reference.startsWith('steps.') && unmetBy(condition, lookUp(reference, { ...known, steps: {} })) !== null;
  });
}

/**
 * Inputs of the steps of one mode that do not fit their kinds once the parameters are known. Asked before a run begins: an
 * interpreter that finds it midway can only stop there. The path begins with the step's id.
 */
export function inputIssues(runbook: Pick<Runbook, 'steps'>, known: { service: string | null; mode: Mode; parameters: Readonly<Record<string, unknown>> }): Issue[] {
  return runbook.steps
    .filter((step) => step.modes.includes(known.mode) && !neverRuns(step, known))
    .flatMap((step) => {
      const kind = stepKind(step.uses);
      const inputs = knownInputs(step, known);
      return kind === undefined ? [] : shapeIssues(kind.input, inputs).filter((issue) => !isOpen(inputs, issue)).map((issue) => ({ ...issue, path: [step.id, 'with', ...issue.path] }));
    });
}

interface RawStep {
  readonly index: number;
  readonly id: string | undefined;
  readonly uses: string | undefined;
  readonly kind: StepKind | undefined;
  readonly modes: readonly string[];
  readonly after: string | undefined;
  readonly needs: readonly string[] | undefined;
  readonly when: unknown;
  readonly forEach: string | undefined;
  readonly with: unknown;
  readonly timeout: unknown;
  readonly attempts: unknown;
}

/**
 * The rules that no schema can say. Works on the data as written, so that one wrong step does not hide what is wrong with the others.
 */
export function checkRunbook(value: unknown, expectedName?: string): Issue[] {
  const issues: Issue[] = [];
  const error = (path: DocumentPath, message: string, more: Pick<Issue, 'found' | 'allowed'> = {}): void => {
    issues.push({ level: 'error', path, message, ...more });
  };
  const warning = (path: DocumentPath, message: string): void => {
    issues.push({ level: 'warning', path, message });
  };
  const name = valueAt(value, ['name']);
  if (expectedName !== undefined && typeof name === 'string' && name !== expectedName) {
    error(['name'], 'a runbook is called like its file', { found: shown(name, ['name']), allowed: expectedName });
  }
  const parameters = recordOf(valueAt(value, ['parameters']));
  for (const [parameter, definition] of Object.entries(parameters)) {
    const path = ['parameters', parameter];
    const type = valueAt(definition, ['type']);
    const given = valueAt(definition, ['default']);
    if (given === undefined) continue;
    if (valueAt(definition, ['required']) === true) warning([...path, 'required'], 'it has a default, so it is never missing: required has no effect');
    if (isParameterType(type)) {
      const problem = parameterProblem(given, type);
      if (problem !== undefined) error([...path, 'default'], problem, { found: shown(given, path) });
    }
  }

  const raw = valueAt(value, ['steps']);
  const steps = (Array.isArray(raw) ? raw : []).map((step: unknown, index) => rawStep(step, index));
  const used = new Set<string>();
  const firstOf = new Map<string, number>();
  for (const step of steps) {
    const path: DocumentPath = ['steps', step.index];
    if (step.id !== undefined) {
      if (firstOf.has(step.id)) error([...path, 'id'], 'another step above has this id', { found: shown(step.id, path) });
      else firstOf.set(step.id, step.index);
    }
    if (step.uses !== undefined && step.kind === undefined) {
      const near = nearest(step.uses, Object.keys(CATALOGUE));
      error([...path, 'uses'], `there is no step kind of this name${near === undefined ? '' : `; did you mean "${near}"?`}`, { found: shown(step.uses, path), allowed: Object.keys(CATALOGUE).join(', ') });
    }
    if (step.after !== undefined) {
      const earlier = steps.slice(0, step.index).flatMap((other) => other.id ?? []);
      if (!earlier.includes(step.after)) error([...path, 'after'], `there is no earlier step of this id${maybe(step.after, earlier)}`, { found: shown(step.after, path), allowed: earlier.join(', ') || 'no step comes before this one' });
    }
    const before = steps.slice(0, step.index).flatMap((other) => other.id ?? []);
    for (const [at, need] of (step.needs ?? []).entries()) {
      if (!before.includes(need)) error([...path, 'needs', at], `there is no earlier step of this id${maybe(need, before)}`, { found: shown(need, path), allowed: before.join(', ') || 'no step comes before this one' });
    }
    checkForEach(step, path);
    checkConditions(step, path);
    checkReferences(step, path);
    if (step.kind !== undefined) checkInputs(step, step.kind, path);
  }
  for (const parameter of Object.keys(parameters)) if (!used.has(parameter)) warning(['parameters', parameter], 'no step uses this parameter');
  for (const issue of [...orderIssues(steps), ...parallelIssues(steps)]) issues.push(issue);
  return issues;

  function checkForEach(step: RawStep, path: DocumentPath): void {
    const after = steps.find((other) => other.id === step.after);
    if (after?.forEach !== undefined) error([...path, 'after'], 'that step is several (forEach)', { found: shown(step.after ?? '', []), allowed: 'needs' });
    if (step.forEach === undefined) return;
    const name = /^\$\{parameters\.([A-Za-z0-9]+)\}$/.exec(step.forEach)?.[1];
    if (name === undefined) return; // Said by the schema of runbooks.
    used.add(name);
    const type = Object.hasOwn(parameters, name) ? valueAt(parameters[name], ['type']) : undefined;
    if (type !== 'list') error([...path, 'forEach'], type === undefined ? `there is no parameter of this name${maybe(name, Object.keys(parameters))}` : 'this parameter is no list', { found: shown(step.forEach, []), allowed: Object.keys(parameters).filter((key) => valueAt(parameters[key], ['type']) === 'list').join(', ') || 'a parameter of type list' });
    if (step.uses !== undefined && step.uses !== 'runbook.run') error([...path, 'forEach'], 'only nested runs are carried out for each service', { found: shown(step.uses, []), allowed: 'runbook.run' });
  }

  function checkConditions(step: RawStep, path: DocumentPath): void {
    for (const [at, condition] of (Array.isArray(step.when) ? step.when : []).entries()) {
      if (condition === null || typeof condition !== 'object') continue; // Said by the schema of runbooks.
      const given = Object.keys(condition as object).filter((key) => key !== 'value');
      if (given.length === 0) error([...path, 'when', at], 'this condition asks for nothing', { allowed: 'equals, not, oneOf, atLeast, atMost, exists' });
      const text: unknown = valueAt(condition, ['value']);
      for (const reference of typeof text === 'string' ? referencesIn(text) : []) {
        const problem = referenceProblem(reference, step);
        if (problem !== undefined) error([...path, 'when', at, 'value'], problem.message, { found: shown(`\${${reference}}`, []), allowed: problem.allowed });
      }
      if (step.kind !== undefined && (step.kind.refusesWrites || step.kind.pointOfNoReturn)) error([...path, 'when'], 'a step that refuses writes or is the point of no return is not conditional: its guards must be asked before the first change', { found: shown(step.uses ?? '', []) });
    }
  }

  function checkReferences(step: RawStep, path: DocumentPath): void {
    for (const [inner, text] of textsIn(step.with)) {
      const at = [...path, 'with', ...inner];
      const open = text.replaceAll(/\$\{[^}]*\}/g, '');
      if (open.includes('${')) error(at, 'a reference is not closed', { allowed: '${...}' });
      for (const reference of referencesIn(text)) {
        const problem = referenceProblem(reference, step);
        if (problem !== undefined) error(at, problem.message, { found: shown(`\${${reference}}`, []), allowed: problem.allowed });
      }
    }
  }

  function referenceProblem(reference: string, step: RawStep): { message: string; allowed: string } | undefined {
    const [head, ...rest] = reference.split('.');
    const forms = '${service}, ${mode}, ${parameters.<name>}, ${steps.<id>.<fact>}';
    if (head === 'item') return step.forEach === undefined ? { message: 'there is an item only where forEach is', allowed: forms } : rest.length === 0 ? undefined : { message: '"item" has no parts', allowed: '${item}' };
    if (head === 'service' || head === 'mode') return rest.length === 0 ? undefined : { message: `"${head}" has no parts`, allowed: `\${${head}}` };
    if (head === 'parameters') {
      const [parameter, ...deeper] = rest;
      if (parameter === undefined || deeper.length > 0) return { message: 'it is not clear which parameter is meant', allowed: '${parameters.<name>}' };
      used.add(parameter);
      if (Object.hasOwn(parameters, parameter)) return undefined;
      return { message: `there is no parameter of this name${maybe(parameter, Object.keys(parameters))}`, allowed: Object.keys(parameters).join(', ') || 'none; declare it under parameters' };
    }
    if (head === 'steps') {
      const [id, fact, ...deeper] = rest;
      const earlier = steps.filter((other) => other.index < step.index && other.id !== undefined);
      const target = earlier.findLast((other) => other.id === id);
      if (target === undefined) {
        const later = steps.some((other) => other.id === id);
        return { message: later ? 'this step comes later or is this one: it has no facts yet' : `there is no step of this id${maybe(id ?? '', earlier.map((other) => other.id!))}`, allowed: earlier.map((other) => other.id).join(', ') || 'no step comes before this one' };
      }
      if (target.forEach !== undefined) return { message: `step "${id}" is several (forEach): its facts are not one`, allowed: 'a step without forEach' };
      if (!mustBeDone(steps, step.index).has(target.index)) return { message: `this step does not wait for step "${id}", so its facts may not be there yet`, allowed: `add ${id} to needs` };
      if (target.kind === undefined) return undefined; // Said where the kind is named.
      const facts = Object.keys(target.kind.facts);
      if (fact === undefined || deeper.length > 0) return { message: 'it is not clear which fact is meant', allowed: facts.map((known) => `steps.${id}.${known}`).join(', ') || 'none' };
      if (facts.includes(fact)) return undefined;
      return { message: `${target.uses} yields no such fact${maybe(fact, facts)}`, allowed: facts.join(', ') || 'none' };
    }
    return { message: 'this reference is not known', allowed: forms };
  }

  function checkInputs(step: RawStep, kind: StepKind, path: DocumentPath): void {
    const given = step.with ?? {};
    if (typeof given !== 'object' || Array.isArray(given)) return; // Said by the schema of runbooks.
    const base = [...path, 'with'];
    // A parameter's default is a real value and is checked; what is known only in a run cannot be.
    const filled = fillDefaults(given, parameters);
    for (const issue of shapeIssues(kind.input, filled)) {
      if (isOpen(filled, issue)) continue;
      issues.push({ ...issue, path: [...base, ...issue.path] });
    }
    const authorization = valueAt(given, ['authorization']);
    if (typeof authorization === 'string' && referencesIn(authorization).length === 0 && !SECRET_REFERENCE_PATTERN.test(authorization)) {
      error([...base, 'authorization'], 'a reference is expected here, never the secret itself', { found: '(not shown: it may be a secret)', allowed: 'aws-sm:<id>#<field>, env:<NAME> or file:<path>' });
    }
    // An input whose reference finds nothing is left out; in a mode where the referred step does not run that is certain.
    const required = inputSchema(kind.input).required ?? [];
    for (const [key, input] of Object.entries(given)) {
      for (const reference of referencesIn(input)) {
        const [head, id] = reference.split('.');
        const target = head === 'steps' ? steps.findLast((other) => other.index < step.index && other.id === id) : undefined;
        const without = target === undefined ? [] : step.modes.filter((mode) => !target.modes.includes(mode));
        const parameter = head === 'parameters' && id !== undefined ? valueAt(parameters, [id]) : undefined;
        if (parameter !== undefined && required.includes(key) && !asksFor(step.when, `parameters.${id}`) && valueAt(parameter, ['required']) !== true && valueAt(parameter, ['default']) === undefined) {
          error([...base, key], `this input is required, and parameter "${id}" may be absent: make it required or give it a default`, { found: shown(`\${${reference}}`, []) });
        }
        if (without.length > 0 && required.includes(key)) error([...base, key], `in mode ${without.join(', ')} step "${id}" does not run, and this input is required`, { found: shown(`\${${reference}}`, []) });
      }
    }
    if (!kind.phases.includes('apply') && (step.timeout !== undefined || step.attempts !== undefined)) {
      warning([...path, step.timeout === undefined ? 'attempts' : 'timeout'], `${step.uses} changes nothing, so timeout and attempts have no effect`);
    }
  }
}

/** Its conditions want this reference to be there. */
function asksFor(when: unknown, reference: string): boolean {
  return (Array.isArray(when) ? when : []).some((condition: unknown) => valueAt(condition, ['exists']) === true && valueAt(condition, ['value']) === `\${${reference}}`);
}

/** Indexes of all steps that are done for certain when this one begins. */
function mustBeDone(steps: readonly RawStep[], index: number): ReadonlySet<number> {
  const found = new Set<number>();
  const look = (at: number): void => {
    const { needs } = steps[at]!;
    const before = needs === undefined ? steps.slice(0, at).map((step) => step.index) : needs.flatMap((need) => steps.findIndex((step) => step.id === need && step.index < at)).filter((found) => found >= 0);
    for (const one of before) {
      if (found.has(one)) continue;
      found.add(one);
      look(one);
    }
  };
  look(index);
  return found;
}

/** What must be alone stays alone: in the refused-write window and at the point of no return nothing else runs. */
function parallelIssues(steps: readonly RawStep[]): Issue[] {
  const issues: Issue[] = [];
  for (const later of steps) {
    if (later.needs === undefined) continue;
    const before = mustBeDone(steps, later.index);
    for (const earlier of steps.slice(0, later.index)) {
      if (before.has(earlier.index)) continue;
      const alone = [earlier, later].find(({ kind, uses }) => kind !== undefined && (kind.critical || kind.refusesWrites || kind.disruptive || kind.pointOfNoReturn || uses === 'operator.approval'));
      if (alone === undefined) continue;
      issues.push({ level: 'error', path: ['steps', later.index, 'needs'], message: `it could run at the same time as "${earlier.id ?? earlier.uses}", and "${alone.id ?? alone.uses}" (${alone.uses}) must run alone`, allowed: `add ${earlier.id ?? earlier.uses} to needs, or leave needs out` });
    }
  }
  return issues;
}

/** What is wrong with the order of the steps, by mode; said once when it is wrong in every mode. */
function orderIssues(steps: readonly RawStep[]): Issue[] {
  const found = new Map<string, { issue: Issue; modes: string[] }>();
  for (const mode of MODES) {
    for (const issue of orderIssuesOf(steps.filter((step) => step.modes.includes(mode)))) {
      const key = JSON.stringify(issue);
      const entry = found.get(key) ?? { issue, modes: [] };
      entry.modes.push(mode);
      found.set(key, entry);
    }
  }
  return [...found.values()].map(({ issue, modes }) => (modes.length === MODES.length ? issue : { ...issue, message: `mode ${modes.join(', ')}: ${issue.message}` }));
}

function orderIssuesOf(run: readonly RawStep[]): Issue[] {
  const issues: Issue[] = [];
  const points = run.filter((step) => step.kind?.pointOfNoReturn === true);
  const point = points[0];
  const refusing = run.find((step) => step.kind?.refusesWrites === true);
  for (const step of points.slice(1)) {
    issues.push({ level: 'error', path: ['steps', step.index, 'uses'], message: 'there is a second point of no return; one runbook recovers one thing', found: shown(step.uses, []) });
  }
  if (refusing !== undefined && point === undefined) {
    issues.push({ level: 'warning', path: ['steps', refusing.index], message: 'writes are refused, and no step is a point of no return: they stay refused until undo or the deadline lifts it' });
  }
  if (point === undefined) return issues;
  for (const step of run) {
    if (step.index > point.index && step.kind?.phases.includes('undo') === true && !step.kind.skippable) {
      issues.push({ level: 'warning', path: ['steps', step.index], message: `it comes after the point of no return ("${point.id ?? point.uses}"), so it is never undone` });
    }
    if (step.index > point.index && step.kind?.refusesWrites === true) {
      issues.push({ level: 'error', path: ['steps', step.index], message: 'it would refuse writes on the old primary after the new one was promoted', allowed: `before "${point.id ?? point.uses}"` });
    }
    if (refusing !== undefined && step.index > refusing.index && step.index < point.index && (step.uses === 'operator.approval' || step.uses === 'operator.wait')) {
      issues.push({ level: 'warning', path: ['steps', step.index], message: `it waits while writes are refused; put it before "${refusing.id ?? refusing.uses}"` });
    }
  }
  return issues;
}

/** What is wrong with a parameter's value; undefined when it fits its type. */
export function parameterProblem(given: unknown, type: Runbook['parameters'][string]['type']): string | undefined {
  const fits = {
    string: typeof given === 'string',
    number: typeof given === 'number' && Number.isFinite(given),
    boolean: typeof given === 'boolean',
    duration: typeof given === 'string' && parseDurationMs(given) !== undefined,
    list: Array.isArray(given) && given.every((item) => typeof item === 'string'),
  }[type];
  return fits ? undefined : `this parameter is a ${type === 'list' ? 'list of texts' : type}`;
}

function rawStep(step: unknown, index: number): RawStep {
  const text = (key: string): string | undefined => {
    const found = valueAt(step, [key]);
    return typeof found === 'string' ? found : undefined;
  };
  const modes = valueAt(step, ['modes']);
  const needs = valueAt(step, ['needs']);
  const uses = text('uses');
  return {
    index, id: text('id'), uses, kind: uses === undefined ? undefined : stepKind(uses),
    modes: Array.isArray(modes) ? modes.filter((mode): mode is string => typeof mode === 'string') : MODES,
    after: text('after'), needs: Array.isArray(needs) ? needs.filter((need): need is string => typeof need === 'string') : undefined, when: valueAt(step, ['when']), forEach: text('forEach'), with: valueAt(step, ['with']), timeout: valueAt(step, ['timeout']), attempts: valueAt(step, ['attempts']),
  };
}

function recordOf(value: unknown): Record<string, unknown> {
  return value !== null && typeof value === 'object' && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

function isParameterType(type: unknown): type is Runbook['parameters'][string]['type'] {
  return type === 'string' || type === 'number' || type === 'boolean' || type === 'duration' || type === 'list';
}

function textsIn(value: unknown, path: (string | number)[] = []): [(string | number)[], string][] {
  if (typeof value === 'string') return [[path, value]];
  if (Array.isArray(value)) return value.flatMap((item, index) => textsIn(item, [...path, index]));
  if (value !== null && typeof value === 'object') return Object.entries(value).flatMap(([key, item]) => textsIn(item, [...path, key]));
  return [];
}

/** `value` with each text that is one parameter reference replaced by the parameter's default, where it has one. */
function fillDefaults(value: unknown, parameters: Record<string, unknown>): unknown {
  if (typeof value === 'string') {
    const parameter = /^\$\{\s*parameters\.([A-Za-z0-9]+)\s*\}$/.exec(value)?.[1];
    const found = parameter === undefined ? undefined : valueAt(parameters, [parameter, 'default']);
    return found ?? value;
  }
  if (Array.isArray(value)) return value.map((item) => fillDefaults(item, parameters));
  if (value !== null && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fillDefaults(item, parameters)]));
  return value;
}

/** The value in question, or one above it, is a text with a reference: its final form is not known yet. A wrong key is wrong whatever it holds. */
function isOpen(value: unknown, issue: Issue): boolean {
  if (issue.atKey === true) return false;
  return issue.path.some((_, index) => {
    const found = valueAt(value, issue.path.slice(0, index + 1));
    return typeof found === 'string' && referencesIn(found).length > 0;
  });
}

function maybe(name: string, known: readonly string[]): string {
  const near = nearest(name, known);
  return near === undefined ? '' : `; did you mean "${near}"?`;
}
