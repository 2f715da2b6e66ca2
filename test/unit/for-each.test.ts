import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { expandForEach } from '../../src/model/for-each.ts';
import { checkRunbook, inputIssues } from '../../src/model/runbook-check.ts';
import { runbookSchema, type Runbook } from '../../src/model/runbook-schema.ts';

const step = (id: string, more: Record<string, unknown> = {}): Record<string, unknown> => ({ id, title: id, uses: 'notify.send', narrative: 'x', with: { title: 'x' }, ...more });
const services = (more: Record<string, unknown> = {}): Record<string, unknown> => step('services', { title: 'Recover ${item}', uses: 'runbook.run', forEach: '${parameters.services}', with: { service: '${item}', purpose: 'region' }, ...more });
const written = (...steps: Record<string, unknown>[]): Record<string, unknown> => ({ name: 'region', title: 'x', summary: 'x', parameters: { services: { type: 'list', description: 'x', default: [] } }, steps });
const runbook = (...steps: Record<string, unknown>[]): Runbook => runbookSchema.parse(written(...steps));
const SERVICES = { auth: { dependsOn: [] }, ledger: { dependsOn: ['auth'] }, orders: { dependsOn: ['ledger'] }, marketing: { dependsOn: [] } };

describe('a step for each service', () => {
  it('comes after what the service depends on, also through one that is not in the list, and beside the others', () => {
    const { steps } = expandForEach(runbook(step('confirm'), services(), step('dns')), { services: ['orders', 'marketing', 'auth'] }, SERVICES);
    expect(steps.map(({ id, needs, title }) => ({ id, needs, title }))).toEqual([
      { id: 'confirm', needs: undefined, title: 'confirm' },
      { id: 'services-marketing', needs: ['confirm'], title: 'Recover marketing' },
      { id: 'services-auth', needs: ['confirm'], title: 'Recover auth' },
      { id: 'services-orders', needs: ['confirm', 'services-auth'], title: 'Recover orders' },
      { id: 'dns', needs: undefined, title: 'dns' },
    ]);
    expect(steps[3]!.with).toEqual({ service: 'orders', purpose: 'region' });
    expect(steps.every((one) => one.forEach === undefined)).toBe(true);
  });

  it('what needs it waits for all of them; an empty list is refused, since nothing would be recovered', () => {
    const made = runbook(step('flags'), services({ needs: ['flags'] }), step('cdn', { needs: ['flags'] }), step('watch', { needs: ['services', 'cdn'] }));
    const needsOf = (list: string[]): unknown => expandForEach(made, { services: list }, SERVICES).steps.find(({ id }) => id === 'watch')!.needs;
    expect(needsOf(['auth', 'marketing'])).toEqual(['services-auth', 'services-marketing', 'cdn']);
    expect(() => needsOf([])).toThrow('is no list, or an empty one');
  });

  it('refuses an unknown service, one that is listed twice, a circle, and ids that meet', () => {
    const expand = (list: string[], order: Parameters<typeof expandForEach>[2] = SERVICES, ...more: Record<string, unknown>[]): unknown => expandForEach(runbook(services(), ...more), { services: list }, order);
    expect(() => expand(['auth', 'shop'])).toThrow('there is no service named "shop"');
    expect(() => expand(['auth', 'auth'])).toThrow('auth stands in the list twice');
    expect(() => expand(['a', 'b'], { a: { dependsOn: ['b'] }, b: { dependsOn: ['a'] } })).toThrow('services a, b depend on each other in a circle');
    expect(() => expand(['auth'], SERVICES, step('services-auth'))).toThrow('two steps would be called "services-auth"');
    expect(() => expandForEach(runbook(services()), {}, SERVICES)).toThrow('${parameters.services} is no list');
    expect(() => expand(['constructor'])).toThrow('there is no service named "constructor"');
  });

  it('whatever depends on whatever without a circle: all are there, each after what it depends on', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 7 }).chain((count) => fc.tuple(fc.array(fc.tuple(fc.nat(count - 1), fc.nat(count - 1)), { maxLength: 15 }), fc.shuffledSubarray(Array.from({ length: count }, (_, index) => `s${index}`), { minLength: 1 }))), ([edges, list]) => {
        const order: Record<string, { dependsOn: string[] }> = Object.fromEntries(Array.from({ length: 7 }, (_, index) => [`s${index}`, { dependsOn: [] }]));
        for (const [a, b] of edges) if (a !== b) order[`s${Math.max(a, b)}`]!.dependsOn.push(`s${Math.min(a, b)}`);
        const { steps } = expandForEach(runbook(step('confirm'), services()), { services: list }, order);
        expect(steps.map(({ id }) => id).sort()).toEqual(['confirm', ...list.map((name) => `services-${name}`)].sort());
        const at = new Map(steps.map(({ id }, index) => [id, index]));
        for (const one of steps) for (const need of one.needs ?? []) expect(at.get(need)!).toBeLessThan(at.get(one.id)!);
        for (const name of list) expect(steps[at.get(`services-${name}`)!]!.needs).toEqual(expect.arrayContaining(order[name]!.dependsOn.filter((needed) => list.includes(needed)).map((needed) => `services-${needed}`)));
      }),
    );
  });
});

describe('validate', () => {
  const problems = (...steps: Record<string, unknown>[]): string[] => checkRunbook(written(...steps), 'region').filter(({ level }) => level === 'error').map(({ path, message }) => `${path.join('.')}: ${message}`);
  it('takes it, and knows the parameter as used', () => {
    expect(checkRunbook(written(services(), step('tell')), 'region')).toEqual([]);
  });
  it('says what is wrong with it', () => {
    expect(problems(services({ uses: 'notify.send', with: { title: '${item}' } }))).toEqual(['steps.0.forEach: only nested runs are carried out for each service']);
    expect(problems(services({ forEach: '${parameters.other}' }))).toContain('steps.0.forEach: there is no parameter of this name');
    expect(problems(services(), step('tell', { with: { title: '${item}' } }))).toEqual(['steps.1.with.title: there is an item only where forEach is']);
    expect(problems(services(), step('tell', { with: { title: '${steps.services.evidence}' } }))).toEqual(['steps.1.with.title: step "services" is several (forEach): its facts are not one']);
    expect(problems(services(), step('tell', { after: 'services' }))).toEqual(['steps.1.after: that step is several (forEach)']);
  });
});

describe('a step under a condition on a parameter', () => {
  const cacheStep = step('cache', { uses: 'secret.stage', when: [{ value: '${parameters.cache}', exists: true }], with: { datastore: '${parameters.cache}' } });
  const cached = { ...written(cacheStep), parameters: { cache: { type: 'string', description: 'x' } } };
  it('may take an input from that parameter, although it may be absent', () => {
    expect(checkRunbook(cached, 'region').filter(({ level }) => level === 'error')).toEqual([]);
    expect(checkRunbook({ ...cached, steps: [{ ...cacheStep, when: undefined }] }, 'region').map(({ message }) => message)).toContain('this input is required, and parameter "cache" may be absent: make it required or give it a default');
  });
  it('is held to its inputs only where it will be carried out', () => {
    const parsed = runbookSchema.parse(cached);
    expect(inputIssues(parsed, { service: 'orders', mode: 'planned', parameters: {} })).toEqual([]);
    expect(inputIssues(parsed, { service: 'orders', mode: 'planned', parameters: { cache: 7 } })).toMatchObject([{ path: ['cache', 'with', 'datastore'] }]);
  });
});
