import { Buffer } from 'node:buffer';
import { HoldfastError } from '../model/errors.ts';
import type { NodeConfig } from '../model/config-schema.ts';
import type { Kubernetes } from './kubernetes.ts';
import { applicationAddress } from './postgres-node.ts';

/** A key of a Secret or ConfigMap, and what of its value is an address. */
export interface EndpointKey {
  readonly key: string;
  readonly as: 'host' | 'port' | 'address' | 'url';
}

interface Address {
  readonly host: string;
  readonly port: number;
}

type Nodes = Readonly<Record<string, NodeConfig>>;

export interface ConfigPlace {
  readonly kind: 'secret' | 'configmap';
  readonly namespace: string;
  readonly name: string;
}

/** Values stay in here: nothing of this may be logged or returned to a workflow. */
interface ConfigObject {
  readonly resourceVersion: string;
  readonly immutable: boolean;
  readonly values: Readonly<Record<string, string>>;
  readonly before: string | null;
}

/** On the object: which execution changed it last, and the addresses it replaced (addresses of configured nodes, never other values). */
const BEFORE = 'holdfast/before-endpoint';
const DEFAULT_PORT = 5432;
/** Scheme, user and password; then the address; then the rest. */
const URL_PARTS = /^((?:[a-z][a-z0-9+.-]*:)+\/\/(?:[^@/?#]*@)?)([^/?#]*)(.*)$/is;

export function endpointKeys(keys: { hostKeys: readonly string[]; portKeys: readonly string[]; addressKeys: readonly string[]; urlKeys: readonly string[] }): EndpointKey[] {
  const of = (names: readonly string[], as: EndpointKey['as']): EndpointKey[] => names.map((key) => ({ key, as }));
  return [...of(keys.hostKeys, 'host'), ...of(keys.portKeys, 'port'), ...of(keys.addressKeys, 'address'), ...of(keys.urlKeys, 'url')];
}

export async function readKeys(kubernetes: Kubernetes, place: ConfigPlace): Promise<ConfigObject | undefined> {
  const { namespace, name, kind } = place;
  const what = `read ${kind} ${namespace}/${name}`;
  const secret = kind === 'secret' ? await kubernetes.find(what, () => kubernetes.core.readNamespacedSecret({ name, namespace })) : undefined;
  const object = kind === 'secret' ? secret : await kubernetes.find(what, () => kubernetes.core.readNamespacedConfigMap({ name, namespace }));
  if (object === undefined) return undefined;
  const decode = (text: string): string => (kind === 'secret' ? Buffer.from(text, 'base64').toString('utf8') : text);
  return {
    resourceVersion: object.metadata!.resourceVersion!,
    immutable: object.immutable === true,
    values: Object.fromEntries(Object.entries(object.data ?? {}).map(([key, value]) => [key, decode(value)])),
    before: object.metadata?.annotations?.[BEFORE] ?? null,
  };
}

/** What of the value is the address, as text; undefined when it has no such form. */
function addressIn(value: string, as: EndpointKey['as']): string | undefined {
  if (as !== 'url') return value.trim();
  return URL_PARTS.exec(value)?.[2];
}

function written(address: Address, as: EndpointKey['as']): string {
  const host = address.host.includes(':') && as !== 'host' ? `[${address.host}]` : address.host;
  if (as === 'host') return host;
  return as === 'port' ? String(address.port) : `${host}:${address.port}`;
}

function isAddress(text: string, address: Address, as: EndpointKey['as']): boolean {
  const forms = [written(address, as), ...((as === 'url' || as === 'address') && address.port === DEFAULT_PORT ? [written(address, as).replace(/:\d+$/, '')] : [])];
  return forms.some((form) => form.toLowerCase() === text.toLowerCase());
}

export interface KeyFinding {
  readonly key: string;
  /** It holds the address of a node. */
  readonly known: boolean;
  /** In words, without the value. */
  readonly said: string;
  fits(address: Address): boolean;
}

export function keyOf(object: ConfigObject, { key, as }: EndpointKey, nodes: Nodes): KeyFinding {
  const value = Object.hasOwn(object.values, key) ? object.values[key] : undefined;
  const found = value === undefined ? undefined : addressIn(value, as);
  const pointed = found === undefined ? [] : Object.entries(nodes).filter(([, node]) => isAddress(found, applicationAddress(node), as)).map(([name]) => name);
  const said = value === undefined ? 'is missing' : pointed.length > 0 ? `points to ${pointed.join(' or ')}` : found === undefined ? 'holds no URL' : 'holds something else than the address of a node (not shown)';
  return { key, known: pointed.length > 0, said, fits: (address) => found !== undefined && isAddress(found, address, as) };
}

export interface KeyChange {
  readonly changed: boolean;
  readonly resourceVersion: string;
  /** The nodes, by name, that it pointed to before; after `before`: that it points to again. */
  readonly from: string;
}

const MAX_CONFLICTS = 5;

/**
 * Points the keys to an address, or back to what they were before the change under `key`. By compare-and-set on the object's version, so
 * that what somebody else changes in it is kept.
 */
export async function changeKeys(kubernetes: Kubernetes, place: ConfigPlace, keys: readonly EndpointKey[], nodes: Nodes, to: Address | 'before', key: string): Promise<KeyChange> {
  for (let round = 1; ; round += 1) {
    const object = await readKeys(kubernetes, place);
    if (object === undefined) {
      if (to === 'before') return { changed: false, resourceVersion: '', from: 'nothing' };
      throw new HoldfastError('kubernetes-not-found', `${place.kind} ${place.namespace}/${place.name} is missing`, { next: 'create it, or correct the name' });
    }
    const plan = planOf(object, keys, nodes, to, key);
    if (plan === null) return { changed: false, resourceVersion: object.resourceVersion, from: pointsOf(object, keys, nodes) };
    try {
      const resourceVersion = await patch(kubernetes, place, object.resourceVersion, plan.values, plan.before);
      return { changed: true, resourceVersion, from: to === 'before' ? pointsOf({ ...object, values: { ...object.values, ...plan.values } }, keys, nodes) : pointsOf(object, keys, nodes) };
    } catch (error) {
      if (!(error instanceof HoldfastError) || error.code !== 'kubernetes-conflict' || round >= MAX_CONFLICTS) throw error;
    }
  }
}

function pointsOf(object: ConfigObject, keys: readonly EndpointKey[], nodes: Nodes): string {
  return [...new Set(keys.map((entry) => keyOf(object, entry, nodes).said.replace(/^points to /, '')))].join(', ');
}

/** New values by key, and what is remembered of the old ones; null: nothing is to be done. */
function planOf(object: ConfigObject, keys: readonly EndpointKey[], nodes: Nodes, to: Address | 'before', key: string): { values: Record<string, string>; before: string | null } | null {
  const remembered = rememberedOf(object, key);
  if (to === 'before') {
    if (remembered === null) return null;
    const ours = keys.filter((entry) => Object.hasOwn(remembered.replaced, entry.key) && isStill(object, entry, remembered.written[entry.key]));
    if (ours.length === 0) return null;
    return { values: Object.fromEntries(ours.map((entry) => [entry.key, replaced(object.values[entry.key]!, entry.as, remembered.replaced[entry.key]!)])), before: null };
  }
  const open = keys.filter((entry) => !keyOf(object, entry, nodes).fits(to));
  if (open.length === 0) return null;
  for (const entry of open) {
    const finding = keyOf(object, entry, nodes);
    if (!finding.known) throw new HoldfastError('kubernetes-key', `key ${entry.key} ${finding.said}: it is not overwritten`, { next: 'correct the key, or the node addresses' });
  }
  const values = Object.fromEntries(open.map((entry) => [entry.key, replaced(object.values[entry.key]!, entry.as, written(to, entry.as))]));
  const old = Object.fromEntries(open.map((entry) => [entry.key, addressIn(object.values[entry.key]!, entry.as)!]));
  const now = Object.fromEntries(open.map((entry) => [entry.key, written(to, entry.as)]));
  return { values, before: JSON.stringify({ key, replaced: { ...old, ...remembered?.replaced }, written: { ...remembered?.written, ...now } }) };
}

function isStill(object: ConfigObject, { key, as }: EndpointKey, text: string | undefined): boolean {
  const value = object.values[key];
  return value !== undefined && text !== undefined && addressIn(value, as) === text;
}

function replaced(value: string, as: EndpointKey['as'], address: string): string {
  if (as !== 'url') return address;
  return value.replace(URL_PARTS, (_, head: string, __: string, rest: string) => `${head}${address}${rest}`);
}

function rememberedOf(object: ConfigObject, key: string): { key: string; replaced: Record<string, string>; written: Record<string, string> } | null {
  if (object.before === null) return null;
  try {
    const before = JSON.parse(object.before) as { key: string; replaced: Record<string, string>; written: Record<string, string> };
    return before.key === key ? before : null;
  } catch {
    return null;
  }
}

async function patch(kubernetes: Kubernetes, place: ConfigPlace, resourceVersion: string, values: Readonly<Record<string, string>>, before: string | null): Promise<string> {
  const { PatchStrategy, setHeaderOptions } = await import('@kubernetes/client-node');
  const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);
  const { name, namespace, kind } = place;
  const encode = (text: string): string => (kind === 'secret' ? Buffer.from(text, 'utf8').toString('base64') : text);
  const body = { metadata: { resourceVersion, annotations: { [BEFORE]: before } }, data: Object.fromEntries(Object.entries(values).map(([key, value]) => [key, encode(value)])) };
  const of = { name, namespace, body, fieldManager: 'holdfast' };
  const changed = await kubernetes.write(`change ${kind} ${namespace}/${name}`, () => (kind === 'secret' ? kubernetes.core.patchNamespacedSecret(of, merge) : kubernetes.core.patchNamespacedConfigMap(of, merge)));
  return changed.metadata!.resourceVersion!;
}
