/**
 * Items of DynamoDB as they stand on the wire: numbers are text (38 digits), binary is base64. Nothing here ever turns a number into a
 * JavaScript number, which would lose digits.
 */
export type AttributeValue =
  | { readonly S: string } | { readonly N: string } | { readonly B: string } | { readonly BOOL: boolean } | { readonly NULL: boolean }
  | { readonly SS: readonly string[] } | { readonly NS: readonly string[] } | { readonly BS: readonly string[] }
  | { readonly L: readonly AttributeValue[] } | { readonly M: Item };
export type Item = { readonly [attribute: string]: AttributeValue };

/** `HASH` first, then `RANGE`, as a table describes them. */
export interface KeyAttribute {
  readonly name: string;
  readonly kind: 'HASH' | 'RANGE';
}

/** Limits of the service. Source: DynamoDB developer guide, "Quotas in Amazon DynamoDB"; API reference, BatchWriteItem. */
export const MAXIMUM_ITEM_BYTES = 400 * 1024;
export const MAXIMUM_BATCH_ITEMS = 25;
export const MAXIMUM_BATCH_BYTES = 16 * 1024 * 1024;

/**
 * One text for one value: attributes and the elements of sets sorted by code unit, numbers in one spelling. Two items are equal exactly
 * when their texts are.
 */
export function canonicalText(item: Item): string {
  return mapText(item);
}

function mapText(map: Item): string {
  const names = Object.keys(map);
  if (names.length > 1) names.sort();
  let text = '{';
  for (let at = 0; at < names.length; at += 1) text += `${at === 0 ? '' : ','}${JSON.stringify(names[at])}:${valueText(map[names[at]!]!)}`;
  return `${text}}`;
}

function valueText(value: AttributeValue): string {
  if ('S' in value) return `S${JSON.stringify(value.S)}`;
  if ('N' in value) return `N${canonicalNumber(value.N)}`;
  if ('M' in value) return `M${mapText(value.M)}`;
  if ('L' in value) return `L[${value.L.map(valueText).join(',')}]`;
  if ('BOOL' in value) return value.BOOL ? 'T' : 'F';
  if ('NULL' in value) return '0';
  if ('B' in value) return `B"${value.B}"`;
  if ('SS' in value) return `SS[${value.SS.map((one) => JSON.stringify(one)).sort().join(',')}]`;
  if ('NS' in value) return `NS[${value.NS.map(canonicalNumber).sort().join(',')}]`;
  if ('BS' in value) return `BS[${[...value.BS].sort().join(',')}]`;
  // A type that the service invents later: its text is compared as it stands.
  return `?${JSON.stringify(value)}`;
}

/** `1E2`, `100` and `100.0` are one number. The service gives one spelling back, other tools that write exports need not. */
export function canonicalNumber(text: string): string {
  if (/^-?[1-9]\d{0,14}$/.test(text)) return text;
  const match = /^([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?$/.exec(text);
  if (match === null) return `?${text}`;
  const [, sign, whole = '', fraction = '', exponent = '0'] = match;
  const digits = `${whole}${fraction}`.replace(/^0+/, '');
  const significant = digits.replace(/0+$/, '');
  if (significant === '') return '0';
  const scale = Number(exponent) - fraction.length + (digits.length - significant.length);
  const minus = sign === '-' ? '-' : '';
  return scale >= 0 && significant.length + scale <= 15 ? `${minus}${significant}${'0'.repeat(scale)}` : `${minus}${significant}E${scale}`;
}

/** The key alone, in the order of the schema. @throws TypeError when the item lacks one of its attributes. */
export function keyOf(item: Item, key: readonly KeyAttribute[]): Item {
  return Object.fromEntries(
    key.map(({ name }) => {
      if (!Object.hasOwn(item, name)) throw new TypeError(`an item without its key attribute ${name}`);
      return [name, item[name]!];
    }),
  );
}

/** For errors: `id = "a", day = 7`. Only an error that is about this very item may carry it: keys are customers' data. */
export function keyText(item: Item, key: readonly KeyAttribute[]): string {
  return key
    .map(({ name }) => {
      const value = Object.hasOwn(item, name) ? item[name]! : undefined;
      if (value === undefined) return `${name} is missing`;
      const text = 'S' in value ? JSON.stringify(value.S) : 'N' in value ? value.N : 'B' in value ? `0x${hex(value.B)}` : JSON.stringify(value);
      return `${name} = ${text.length > 120 ? `${text.slice(0, 120)}...` : text}`;
    })
    .join(', ');
}

function hex(base64: string): string {
  return [...atob(base64)].map((character) => character.charCodeAt(0).toString(16).padStart(2, '0')).join('');
}

/**
 * Bytes as the service counts them towards the item limit and capacity.
 * Source: DynamoDB developer guide, "DynamoDB item sizes and formats". Its rule for numbers is approximate; ours rounds up.
 */
export function itemBytes(item: Item): number {
  let bytes = 0;
  for (const name of Object.keys(item)) bytes += utf8Bytes(name) + valueBytes(item[name]!);
  return bytes;
}

function valueBytes(value: AttributeValue): number {
  if ('S' in value) return utf8Bytes(value.S);
  if ('N' in value) return numberBytes(value.N);
  if ('B' in value) return binaryBytes(value.B);
  if ('M' in value) return 3 + Object.keys(value.M).length + itemBytes(value.M);
  if ('L' in value) return 3 + value.L.reduce((sum, one) => sum + 1 + valueBytes(one), 0);
  if ('SS' in value) return value.SS.reduce((sum, one) => sum + utf8Bytes(one), 0);
  if ('NS' in value) return value.NS.reduce((sum, one) => sum + numberBytes(one), 0);
  if ('BS' in value) return value.BS.reduce((sum, one) => sum + binaryBytes(one), 0);
  return 1;
}

function numberBytes(text: string): number {
  const digits = text.replace(/[eE].*$/, '').replaceAll(/[^0-9]/g, '').replace(/^0+/, '').replace(/0+$/, '').length;
  return Math.min(21, Math.ceil(digits / 2) + 1 + (text.startsWith('-') ? 1 : 0));
}

function binaryBytes(base64: string): number {
  return Math.floor((base64.length * 3) / 4) - (base64.endsWith('==') ? 2 : base64.endsWith('=') ? 1 : 0);
}

function utf8Bytes(text: string): number {
  let bytes = 0;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code < 0x80) bytes += 1;
    else if (code < 0x800) bytes += 2;
    else if (code >= 0xd800 && code < 0xdc00) {
      bytes += 4;
      at += 1;
    } else bytes += 3;
  }
  return bytes;
}
