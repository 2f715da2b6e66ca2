import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import type { DataConverter, Payload, PayloadCodec } from '@temporalio/common';
import proto from '@temporalio/proto'; // CommonJS: its names are not visible to import
import type { Config } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import { registerSecret } from '../systems/log.ts';
import type { SecretResolver } from '../systems/secrets.ts';

const CIPHER = 'aes-256-gcm';
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const ENCODING = 'binary/encrypted';

/** Module with the failure converter that puts message and stack where the codec encrypts them. */
export const ENCODED_FAILURES_PATH = fileURLToPath(new URL('./encoded-failures.ts', import.meta.url));

/** What client and worker must share; undefined when history is not encrypted. */
export async function dataConverterOf(config: Config, secrets: SecretResolver): Promise<DataConverter | undefined> {
  const reference = config.temporal.encryptionKey;
  if (reference === undefined) return undefined;
  return { payloadCodecs: [createEncryptionCodec(await secrets.resolve(reference))], failureConverterPath: ENCODED_FAILURES_PATH };
}

/**
 * AES-256-GCM over whole payloads. `keys` is one or more 32-byte keys in base64, separated by commas or space: the first
 * encrypts, all decrypt, so that a key is rotated by putting the new one in front. Each payload names its key by the
 * first 16 hex digits of the key's SHA-256, so a wrong key is told from damage.
 */
export function createEncryptionCodec(keys: string): PayloadCodec {
  const ring = new Map<string, Buffer>();
  for (const text of keys.split(/[\s,]+/).filter((part) => part !== '')) {
    registerSecret(text);
    const key = Buffer.from(text, 'base64');
    if (key.length !== KEY_BYTES) {
      throw new HoldfastError('encryption-key', `temporal.encryptionKey holds a key of ${key.length} bytes, expected ${KEY_BYTES} in base64`, { next: 'make one: openssl rand -base64 32' });
    }
    ring.set(createHash('sha256').update(key).digest('hex').slice(0, 16), key);
  }
  const first = ring.entries().next();
  if (first.done === true) throw new HoldfastError('encryption-key', 'temporal.encryptionKey resolves to nothing', { next: 'make a key: openssl rand -base64 32' });
  const [currentId, currentKey] = first.value;
  const { Payload: PayloadProto } = proto.temporal.api.common.v1;

  return {
    async encode(payloads) {
      return payloads.map((payload) => {
        const nonce = randomBytes(NONCE_BYTES);
        const cipher = createCipheriv(CIPHER, currentKey, nonce);
        const data = Buffer.concat([nonce, cipher.update(PayloadProto.encode(payload).finish()), cipher.final(), cipher.getAuthTag()]);
        return { metadata: { encoding: Buffer.from(ENCODING), 'encryption-cipher': Buffer.from('AES-256-GCM'), 'encryption-key-id': Buffer.from(currentId) }, data };
      });
    },
    async decode(payloads) {
      return payloads.map((payload) => {
        if (payload.metadata?.['encoding'] === undefined || Buffer.from(payload.metadata['encoding']).toString() !== ENCODING) return payload;
        const id = Buffer.from(payload.metadata['encryption-key-id'] ?? []).toString();
        const key = ring.get(id);
        const data = Buffer.from(payload.data ?? []);
        if (key === undefined) {
          throw new HoldfastError('encryption-key', `history was encrypted with key ${id}, which temporal.encryptionKey does not hold (it holds ${[...ring.keys()].join(', ')})`, { next: 'add the old key behind the new one, separated by a comma' });
        }
        try {
          const decipher = createDecipheriv(CIPHER, key, data.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES });
          decipher.setAuthTag(data.subarray(Math.max(NONCE_BYTES, data.length - TAG_BYTES)));
          const plain = Buffer.concat([decipher.update(data.subarray(NONCE_BYTES, data.length - TAG_BYTES)), decipher.final()]);
          return PayloadProto.decode(plain) as Payload;
        } catch (error) {
          throw new HoldfastError('payload-damaged', `a payload of history that names key ${id} cannot be decrypted: it was changed, or is not what Holdfast wrote`, { next: 'look at the execution in the Temporal UI; what cannot be decrypted was not written by this key', cause: error });
        }
      });
    },
  };
}
