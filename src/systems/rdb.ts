import { HoldfastError } from '../model/errors.ts';

/** One key of an RDB file, ready for RESTORE: the value stays as Redis wrote it. */
export interface RdbKey {
  readonly database: number;
  readonly key: Buffer;
  readonly expireAtMs: number | null;
  /** What DUMP gives: type, value, RDB version, checksum. */
  readonly payload: Buffer;
}

export interface RdbSummary {
  readonly rdbVersion: number;
  readonly redisVersion: string | null;
  readonly createdAtMs: number | null;
  readonly keys: number;
  readonly expiring: number;
  readonly bytes: number;
  /** Libraries of functions, to be loaded by FUNCTION LOAD. */
  readonly functions: readonly Buffer[];
  /** False: the server was told to write none, so that only the end marker was looked at. */
  readonly checksum: boolean;
}

const OPCODE = { slotInfo: 244, function: 245, functionPreGa: 246, moduleAux: 247, idle: 248, frequency: 249, aux: 250, resize: 251, expireMs: 252, expireSeconds: 253, select: 254, end: 255 } as const;
/** Keys of one batch, and bytes after which it is handed out before. */
const BATCH_KEYS = 500;
const BATCH_BYTES = 4 * 1024 * 1024;
/** RESTORE takes one value as one argument, and Redis none above this. */
const LARGEST_VALUE = 512 * 1024 * 1024;

class NeedMore extends Error {}
const NEED_MORE = new NeedMore();

const CRC_HIGH = new Uint32Array(256);
const CRC_LOW = new Uint32Array(256);
for (let byte = 0; byte < 256; byte += 1) {
  // CRC-64 of Jones, reflected: what Redis puts behind files and DUMP payloads.
  let [high, low] = [0, byte];
  for (let bit = 0; bit < 8; bit += 1) {
    const carry = low & 1;
    low = ((low >>> 1) | ((high & 1) << 31)) >>> 0;
    high >>>= 1;
    if (carry === 1) {
      low = (low ^ 0xac4bc9b5) >>> 0;
      high = (high ^ 0x95ac9329) >>> 0;
    }
  }
  CRC_HIGH[byte] = high;
  CRC_LOW[byte] = low;
}

class Crc64 {
  private high = 0;
  private low = 0;
  update(data: Buffer, from = 0, to = data.length): this {
    let { high, low } = this;
    for (let index = from; index < to; index += 1) {
      const entry = (low ^ data[index]!) & 0xff;
      low = (((low >>> 8) | (high << 24)) ^ CRC_LOW[entry]!) >>> 0;
      high = ((high >>> 8) ^ CRC_HIGH[entry]!) >>> 0;
    }
    this.high = high;
    this.low = low;
    return this;
  }
  /** Little-endian, as it is written. */
  bytes(): Buffer {
    const out = Buffer.alloc(8);
    out.writeUInt32LE(this.low, 0);
    out.writeUInt32LE(this.high, 4);
    return out;
  }
}

function broken(what: string, at: number): HoldfastError {
  return new HoldfastError('rdb-broken', `the snapshot is damaged or no RDB file: ${what} at byte ${at}`, { next: 'choose another snapshot' });
}

/** Walks over values without understanding more of them than where they end. */
class Reader {
  buffer: Buffer = Buffer.alloc(0);
  position = 0;
  /** Bytes of the file before `buffer`. */
  offset = 0;

  bytes(count: number): Buffer {
    if (count > LARGEST_VALUE) throw broken(`a part of ${count} bytes`, this.offset + this.position);
    if (this.position + count > this.buffer.length) throw NEED_MORE;
    this.position += count;
    return this.buffer.subarray(this.position - count, this.position);
  }
  byte(): number {
    if (this.position >= this.buffer.length) throw NEED_MORE;
    return this.buffer[this.position++]!;
  }
  /** A length, or an encoding of a string (-1 - encoding). */
  lengthOrEncoding(): number {
    const first = this.byte();
    switch (first >> 6) {
      case 0:
        return first & 0x3f;
      case 1:
        return ((first & 0x3f) << 8) | this.byte();
      case 2: {
        if (first === 0x80) return this.bytes(4).readUInt32BE();
        if (first === 0x81) return Number(this.bytes(8).readBigUInt64BE());
        throw broken(`length byte ${first}`, this.offset + this.position);
      }
      default:
        return -1 - (first & 0x3f);
    }
  }
  length(): number {
    const found = this.lengthOrEncoding();
    if (found < 0) throw broken('an encoding where a length stands', this.offset + this.position);
    return found;
  }
  /** A string; plain text only, for what is read and not passed on. */
  skipString(): void {
    const length = this.lengthOrEncoding();
    if (length >= 0) this.bytes(length);
    else if (length >= -3) this.bytes([1, 2, 4][-1 - length]!);
    else if (length === -4) {
      const packed = this.length();
      this.length();
      this.bytes(packed);
    } else throw broken(`string encoding ${-1 - length}`, this.offset + this.position);
  }
  string(): Buffer {
    const length = this.lengthOrEncoding();
    if (length >= 0) return this.bytes(length);
    if (length === -1) return Buffer.from(String(this.bytes(1).readInt8()));
    if (length === -2) return Buffer.from(String(this.bytes(2).readInt16LE()));
    if (length === -3) return Buffer.from(String(this.bytes(4).readInt32LE()));
    if (length === -4) {
      const packed = this.length();
      const plain = this.length();
      return unpack(this.bytes(packed), plain, this.offset + this.position);
    }
    throw broken(`string encoding ${-1 - length}`, this.offset + this.position);
  }
  skipValue(type: number): void {
    switch (type) {
      case 0: // string
      case 9: case 10: case 11: case 12: case 13: // packed hash, list, set of integers, sorted set, hash
      case 16: case 17: case 20: // listpacks of a hash, a sorted set, a set
        return this.skipString();
      case 1: case 2: case 14: // list, set, list of ziplists
        return this.times(1, () => this.skipString());
      case 3: // sorted set with written numbers
        return this.times(1, () => {
          this.skipString();
          const length = this.byte();
          if (length < 253) this.bytes(length);
        });
      case 4: // hash
        return this.times(1, () => {
          this.skipString();
          this.skipString();
        });
      case 5: // sorted set with binary numbers
        return this.times(1, () => {
          this.skipString();
          this.bytes(8);
        });
      case 18: // list of listpacks
        return this.times(1, () => {
          this.length();
          this.skipString();
        });
      case 15: case 19: case 21:
        return this.skipStream(type);
      default:
        throw new HoldfastError('rdb-unsupported', `a key of value type ${type} cannot be copied: ${type === 6 || type === 7 ? 'it belongs to a module' : 'this release does not know it'}`, { next: 'have the server load the file itself (put it into its data directory before it starts), then mark the step as done' });
    }
  }
  private skipStream(type: number): void {
    this.times(1, () => {
      this.skipString();
      this.skipString();
    });
    for (let index = type >= 19 ? 8 : 3; index > 0; index -= 1) this.length();
    this.times(1, () => {
      this.skipString();
      for (let index = type >= 19 ? 3 : 2; index > 0; index -= 1) this.length();
      this.times(1, () => {
        this.bytes(24);
        this.length();
      });
      this.times(1, () => {
        this.skipString();
        this.bytes(type >= 21 ? 16 : 8);
        this.times(1, () => this.bytes(16));
      });
    });
  }
  private times(each: number, work: () => void): void {
    for (let left = this.length() * each; left > 0; left -= 1) work();
  }
}

/** LZF, as Redis packs strings above 20 bytes. */
function unpack(packed: Buffer, plain: number, at: number): Buffer {
  const out = Buffer.alloc(plain);
  let [from, to] = [0, 0];
  while (from < packed.length) {
    const control = packed[from++]!;
    if (control < 32) {
      packed.copy(out, to, from, from + control + 1);
      from += control + 1;
      to += control + 1;
      continue;
    }
    let length = control >> 5;
    if (length === 7) length += packed[from++]!;
    let back = to - ((control & 0x1f) << 8) - packed[from++]! - 1;
    if (back < 0) throw broken('a packed string', at);
    for (length += 2; length > 0; length -= 1) out[to++] = out[back++]!;
  }
  if (to !== plain) throw broken('a packed string', at);
  return out;
}

/**
 * The keys of an RDB file in batches, by a stream: memory is bounded by a batch and the largest value. The file's own checksum is
 * compared at its end, so that a truncated or damaged one fails there.
 * @throws HoldfastError `rdb-broken`, `rdb-unsupported`
 */
export async function* rdbKeys(source: AsyncIterable<Buffer>): AsyncGenerator<RdbKey[], RdbSummary> {
  const reader = new Reader();
  const file = new Crc64();
  const chunks = source[Symbol.asyncIterator]();
  let checked = 0;

  /** What was read is final: into the checksum, and out of memory once there is enough of it. */
  function commit(): void {
    file.update(reader.buffer, checked, reader.position);
    checked = reader.position;
  }
  async function more(): Promise<void> {
    // Doubling, since a value that is not there yet is read from its beginning again.
    const wanted = Math.max(64 * 1024, (reader.buffer.length - checked) * 2);
    const parts = [reader.buffer.subarray(checked)];
    let size = parts[0]!.length;
    reader.offset += checked;
    for (;;) {
      const next = await chunks.next();
      if (next.done === true) {
        if (parts.length === 1) throw broken('its end is missing', reader.offset + size);
        break;
      }
      parts.push(next.value);
      size += next.value.length;
      if (size >= wanted) break;
    }
    reader.buffer = Buffer.concat(parts, size);
    checked = 0;
  }
  async function read<T>(part: () => T): Promise<T> {
    for (;;) {
      reader.position = checked;
      try {
        const value = part();
        commit();
        return value;
      } catch (error) {
        if (error !== NEED_MORE) throw error;
        await more();
      }
    }
  }

  const head = await read(() => reader.bytes(9).toString('latin1'));
  if (!/^REDIS\d{4}$/.test(head)) throw broken('no REDIS header', 0);
  const rdbVersion = Number(head.slice(5));
  const footer = Buffer.alloc(2);
  footer.writeUInt16LE(rdbVersion);

  let [database, keys, expiring] = [0, 0, 0];
  let [redisVersion, createdAtMs]: [string | null, number | null] = [null, null];
  const functions: Buffer[] = [];
  let batch: RdbKey[] = [];
  let batchBytes = 0;

  type Part = { end: true } | { key?: RdbKey };
  const part = (): Part => {
    let expireAtMs: number | null = null;
    for (;;) {
      const code = reader.byte();
      switch (code) {
        case OPCODE.end:
          return { end: true };
        case OPCODE.select:
          database = reader.length();
          return {};
        case OPCODE.resize:
          reader.length();
          reader.length();
          return {};
        case OPCODE.aux: {
          const [name, value] = [reader.string().toString('latin1'), reader.string().toString('latin1')];
          if (name === 'redis-ver') redisVersion = value;
          if (name === 'ctime') createdAtMs = Number(value) * 1000;
          return {};
        }
        case OPCODE.function: {
          const code = Buffer.from(reader.string());
          functions.push(code);
          return {};
        }
        case OPCODE.slotInfo:
          for (let index = 0; index < 3; index += 1) reader.length();
          return {};
        case OPCODE.functionPreGa:
        case OPCODE.moduleAux:
          throw new HoldfastError('rdb-unsupported', 'the snapshot has data of a module or of a release candidate', { next: 'have the server load the file itself (put it into its data directory before it starts), then mark the step as done' });
        case OPCODE.expireMs:
          expireAtMs = Number(reader.bytes(8).readBigInt64LE());
          continue;
        case OPCODE.expireSeconds:
          expireAtMs = reader.bytes(4).readInt32LE() * 1000;
          continue;
        case OPCODE.idle:
          reader.length();
          continue;
        case OPCODE.frequency:
          reader.byte();
          continue;
        default: {
          const key = Buffer.from(reader.string());
          const from = reader.position;
          reader.skipValue(code);
          const value = reader.buffer.subarray(from, reader.position);
          const body = Buffer.concat([Buffer.of(code), value, footer]);
          return { key: { database, key, expireAtMs, payload: Buffer.concat([body, new Crc64().update(body).bytes()]) } };
        }
      }
    }
  };
  for (;;) {
    const found = await read(part);
    if ('end' in found) break;
    if (found.key === undefined) continue;
    keys += 1;
    if (found.key.expireAtMs !== null) expiring += 1;
    batch.push(found.key);
    batchBytes += found.key.payload.length;
    if (batch.length < BATCH_KEYS && batchBytes < BATCH_BYTES) continue;
    yield batch;
    [batch, batchBytes] = [[], 0];
  }
  if (batch.length > 0) yield batch;
  const expected = file.bytes();
  const written = rdbVersion >= 5 ? await read(() => Buffer.from(reader.bytes(8))) : Buffer.alloc(8);
  const checksum = !written.equals(Buffer.alloc(8));
  const bytes = reader.offset + reader.position;
  if (checksum && !written.equals(expected)) throw broken('its checksum does not match what was read', bytes);
  if (reader.position < reader.buffer.length || (await chunks.next()).done !== true) throw broken('there is more behind its end', bytes);
  return { rdbVersion, redisVersion, createdAtMs, keys, expiring, bytes, functions, checksum };
}

export interface RdbHead {
  readonly redisVersion: string | null;
  readonly createdAtMs: number | null;
  /** Memory that the server used when it wrote the file. */
  readonly usedMemory: number | null;
}

/** What stands before the first key; nothing more is read. */
export async function rdbHead(source: AsyncIterable<Buffer>): Promise<RdbHead> {
  const reader = new Reader();
  for await (const chunk of source) {
    reader.buffer = Buffer.concat([reader.buffer, chunk]);
    if (reader.buffer.length >= 4096) break;
  }
  const found = new Map<string, string>();
  try {
    if (!/^REDIS\d{4}$/.test(reader.bytes(9).toString('latin1'))) throw broken('no REDIS header', 0);
    while (reader.byte() === OPCODE.aux) {
      const name = reader.string().toString('latin1');
      found.set(name, reader.string().toString('latin1'));
    }
  } catch (error) {
    if (error === NEED_MORE) throw broken('its end is missing', reader.buffer.length);
    throw error;
  }
  const number = (name: string): number | null => (found.has(name) ? Number(found.get(name)) : null);
  const created = number('ctime');
  return { redisVersion: found.get('redis-ver') ?? null, createdAtMs: created === null ? null : created * 1000, usedMemory: number('used-mem') };
}
