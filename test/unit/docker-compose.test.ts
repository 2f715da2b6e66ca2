import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { parseDurationMs } from '../../src/model/units.ts';

interface Service {
  readonly command?: readonly string[];
  readonly ports?: readonly string[];
  readonly volumes?: readonly string[];
  readonly healthcheck?: unknown;
  readonly restart?: string;
  readonly init?: boolean;
  readonly stop_grace_period?: string;
  readonly build?: { readonly dockerfile: string };
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
}

const root = fileURLToPath(new URL('../..', import.meta.url));
const text = (path: string): string => readFileSync(`${root}/${path}`, 'utf8');
const compose = parse(text('docker-compose.yml')) as { services: Record<string, Service>; volumes: Record<string, unknown> };
const validate = new Ajv2020({ strict: false, validateFormats: false }).compile(JSON.parse(text('test/fixtures/compose-spec/compose-spec.json')) as object);

describe('docker-compose.yml', () => {
  test('is what the Compose Specification allows; a misspelt key is not', () => {
    validate(compose);
    expect(validate.errors).toBeNull();
    expect(validate({ services: { worker: { ...compose.services['worker'], stop_grace_periode: '1s' } } })).toBe(false);
    expect(validate({ services: { worker: { ...compose.services['worker'], ports: 'all' } } })).toBe(false);
  });

  test('the worker reaps children and gets the time that its shutdown takes', () => {
    const worker = compose.services['worker']!;
    expect(worker.init).toBe(true);
    const graceSeconds = Number(worker.command?.[worker.command.indexOf('--grace') + 1]);
    expect(graceSeconds).toBeGreaterThan(0);
    // src/engine/worker.ts: cancelled activities have another 60 s to clean up.
    expect(parseDurationMs(worker.stop_grace_period!)).toBeGreaterThanOrEqual((graceSeconds + 60) * 1000);
  });

  test('nothing listens beyond this host, and what others wait for has a health check', () => {
    for (const service of Object.values(compose.services)) for (const port of service.ports ?? []) expect(port).toMatch(/^127\.0\.0\.1:/);
    const waitedFor = Object.values(compose.services).flatMap((service) => Object.entries(service.depends_on ?? {}));
    const unhealthy = waitedFor.filter(([name, { condition }]) => condition === 'service_healthy' && compose.services[name]?.healthcheck === undefined);
    expect(waitedFor.length).toBeGreaterThan(0);
    expect(unhealthy).toEqual([]);
  });

  test('every file it mounts or builds from is here or made by the reader, every volume is declared', () => {
    const madeByReader = new Set(['./holdfast.yaml', './secrets']);
    const sources = Object.values(compose.services).flatMap((service) => (service.volumes ?? []).map((volume) => volume.split(':')[0]!));
    expect(sources.filter((source) => source.startsWith('.') && !madeByReader.has(source) && !existsSync(`${root}/${source}`))).toEqual([]);
    expect(sources.filter((source) => !source.startsWith('.') && !(source in compose.volumes))).toEqual([]);
    expect(existsSync(`${root}/${compose.services['worker']!.build!.dockerfile}`)).toBe(true);
  });

  test('no secret stands in it, and Temporal starts activities eagerly', () => {
    expect(text('docker-compose.yml')).not.toMatch(/(PASSWORD|SECRET_KEY|ACCESS_KEY|PWD)[A-Z_]*: (?!\$\{[A-Z0-9_]+:\?)/);
    expect(parse(text('docker/temporal-dynamic-config.yaml'))).toEqual({ 'system.enableActivityEagerExecution': [{ value: true, constraints: {} }] });
  });
});
