import { HoldfastError } from './errors.ts';

/** A server takes 16 MiB from clients and allows itself 16 KiB more. */
export const MAX_DOCUMENT_BYTES = 16 * 1024 * 1024 + 16 * 1024;
const MIN_DOCUMENT_BYTES = 5;

export const BSON_TYPE = { document: 0x03, array: 0x04, timestamp: 0x11 } as const;

export interface Frames {
  /** The documents that are complete with this chunk; views of it where they lie in it wholly. */
  push(chunk: Uint8Array): Uint8Array[];
  /** @throws HoldfastError `bson-truncated` when a document has begun and not ended. */
  end(): void;
  documents(): number;
  bytes(): number;
}

/**
 * Splits a stream of BSON documents, as `mongodump` writes them, at their length fields. Holds one incomplete document at most.
 * @param what is read, for the errors: `bson-truncated`, `bson-invalid`.
 */
export function createFrames(what: string): Frames {
  let pending: Uint8Array[] = [];
  let held = 0;
  let wanted = 0;
  let documents = 0;
  let bytes = 0;

  function take(chunk: Uint8Array): void {
    pending.push(chunk);
    held += chunk.length;
  }
  function joined(): Uint8Array {
    if (pending.length === 1) return pending[0]!;
    const all = new Uint8Array(held);
    let at = 0;
    for (const part of pending) {
      all.set(part, at);
      at += part.length;
    }
    pending = [all];
    return all;
  }
  function lengthAt(data: Uint8Array, at: number): number {
    const length = readInt32(data, at);
    if (length >= MIN_DOCUMENT_BYTES && length <= MAX_DOCUMENT_BYTES) return length;
    throw new HoldfastError('bson-invalid', `${what}: document ${documents + 1} at byte ${bytes} says it has ${length} bytes; ${MIN_DOCUMENT_BYTES} to ${MAX_DOCUMENT_BYTES} are possible`, { next: 'the stream is damaged, or is no BSON; use another backup' });
  }
  function accept(document: Uint8Array, into: Uint8Array[]): void {
    if (document[document.length - 1] !== 0) throw new HoldfastError('bson-invalid', `${what}: document ${documents + 1} at byte ${bytes} does not end with a zero byte`, { next: 'the stream is damaged, or is no BSON; use another backup' });
    documents += 1;
    bytes += document.length;
    into.push(document);
  }

  return {
    push(chunk) {
      const complete: Uint8Array[] = [];
      let at = 0;
      while (held > 0 && at < chunk.length) {
        const need = (held < 4 ? 4 : wanted) - held;
        const part = chunk.subarray(at, at + need);
        at += part.length;
        take(part);
        if (held < 4) break;
        wanted = lengthAt(held === 4 ? joined() : pending[0]!, 0);
        if (held < wanted) continue;
        accept(joined(), complete);
        pending = [];
        held = 0;
      }
      while (at < chunk.length) {
        const left = chunk.length - at;
        if (left >= 4) wanted = lengthAt(chunk, at);
        if (left < 4 || left < wanted) {
          // Copied: a view would keep the whole chunk in memory, and some sources use theirs again.
          take(chunk.slice(at));
          break;
        }
        accept(chunk.subarray(at, at + wanted), complete);
        at += wanted;
      }
      return complete;
    },
    end() {
      if (held === 0) return;
      const of = held < 4 ? 'at least 5' : String(wanted);
      throw new HoldfastError('bson-truncated', `${what}: the stream ends within document ${documents + 1}, which begins at byte ${bytes}: ${held} of ${of} bytes are there`, { next: 'it was cut off; use another backup' });
    },
    documents: () => documents,
    bytes: () => bytes,
  };
}

export interface Element {
  readonly type: number;
  readonly key: string;
  /** Of the type byte, of the value, and behind the value. */
  readonly start: number;
  readonly valueStart: number;
  readonly end: number;
}

/** The elements of a document, in their order, doubled ones too. @throws HoldfastError `bson-invalid` */
export function* elementsOf(document: Uint8Array): Generator<Element> {
  const length = document.length < MIN_DOCUMENT_BYTES ? -1 : readInt32(document, 0);
  if (length !== document.length) throw invalid(`it has ${document.length} bytes and says ${length}`);
  let at = 4;
  while (at < document.length - 1) {
    const start = at;
    const type = document[at]!;
    const nameEnd = document.indexOf(0, at + 1);
    if (nameEnd < 0) throw invalid(`the name at byte ${at + 1} has no end`);
    const key = decoder.decode(document.subarray(at + 1, nameEnd));
    const valueStart = nameEnd + 1;
    at = valueStart + valueLength(document, type, valueStart);
    if (at > document.length - 1) throw invalid(`the value of "${key}" goes beyond its end`);
    yield { type, key, start, valueStart, end: at };
  }
  if (document[document.length - 1] !== 0) throw invalid('it does not end with a zero byte');
}

/** The element `_id`, type and value; undefined when the document has none. */
export function idOf(document: Uint8Array): Element | undefined {
  for (const element of elementsOf(document)) if (element.key === '_id') return element;
  return undefined;
}

/** Servers put the time of the insert in place of an empty timestamp at the top level. */
export function hasEmptyTimestamp(document: Uint8Array): boolean {
  for (const { type, key, valueStart, end } of elementsOf(document)) {
    if (type === BSON_TYPE.timestamp && key !== '_id' && document.subarray(valueStart, end).every((byte) => byte === 0)) return true;
  }
  return false;
}

const decoder = new TextDecoder();

function invalid(why: string): HoldfastError {
  return new HoldfastError('bson-invalid', `a BSON document is damaged: ${why}`, { next: 'use another backup, or mend the document at its source' });
}

function valueLength(data: Uint8Array, type: number, at: number): number {
  switch (type) {
    case 0x06: case 0x0a: case 0x7f: case 0xff:
      return 0;
    case 0x08:
      return 1;
    case 0x10:
      return 4;
    case 0x01: case 0x09: case 0x11: case 0x12:
      return 8;
    case 0x07:
      return 12;
    case 0x13:
      return 16;
    case 0x02: case 0x0d: case 0x0e:
      return 4 + size(data, at);
    case 0x03: case 0x04: case 0x0f:
      return size(data, at);
    case 0x05:
      return 5 + size(data, at);
    case 0x0c:
      return 4 + size(data, at) + 12;
    case 0x0b: {
      const first = data.indexOf(0, at);
      const second = first < 0 ? -1 : data.indexOf(0, first + 1);
      if (second < 0) throw invalid(`a regular expression at byte ${at} has no end`);
      return second + 1 - at;
    }
    default:
      throw invalid(`type ${type} at byte ${at} does not exist`);
  }
}

function size(data: Uint8Array, at: number): number {
  const value = at + 4 > data.length ? -1 : readInt32(data, at);
  if (value < 0) throw invalid(`a length at byte ${at} is impossible`);
  return value;
}

function readInt32(data: Uint8Array, at: number): number {
  return data[at]! | (data[at + 1]! << 8) | (data[at + 2]! << 16) | (data[at + 3]! << 24);
}

/** Of a set of documents, whatever their order: how many, how long, and two sums of 64-bit hashes. Decimal, since JSON numbers end at 2^53. */
export interface DocumentSums {
  readonly documents: string;
  readonly bytes: string;
  readonly sum1: string;
  readonly sum2: string;
}

export interface SumBuilder {
  add(document: Uint8Array): void;
  value(): DocumentSums;
}

/** Sums stay exact as doubles for so many 32-bit words. */
const FLUSH_EVERY = 1 << 20;

/** @param digest at least 16 bytes of a cryptographic hash: the first two 64-bit words are summed. */
export function createSums(digest: (document: Uint8Array) => Uint8Array): SumBuilder {
  let [count, documents, bytes, sum1, sum2] = [0, 0n, 0n, 0n, 0n];
  // BigInt additions for each document would cost more than the hash.
  const words = [0, 0, 0, 0];
  let pendingBytes = 0;
  function flush(): void {
    documents += BigInt(count);
    bytes += BigInt(pendingBytes);
    sum1 += BigInt(words[0]!) + (BigInt(words[1]!) << 32n);
    sum2 += BigInt(words[2]!) + (BigInt(words[3]!) << 32n);
    words.fill(0);
    count = 0;
    pendingBytes = 0;
  }
  return {
    add(document) {
      const hash = digest(document);
      for (let word = 0; word < 4; word += 1) words[word]! += readInt32(hash, word * 4) >>> 0;
      pendingBytes += document.length;
      count += 1;
      if (count === FLUSH_EVERY) flush();
    },
    value() {
      flush();
      return { documents: String(documents), bytes: String(bytes), sum1: String(sum1), sum2: String(sum2) };
    },
  };
}
