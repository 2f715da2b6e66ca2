/** Keys that sign evidence, and which of them are trusted. */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import type { Config } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';

export interface TrustedKey {
  readonly key: KeyObject;
  readonly keyId: string;
  /** Records that ended before or after are not believed, epoch milliseconds. */
  readonly validFromMs?: number;
  readonly validUntilMs?: number;
  /** Where it was named, for people: `the given key`, `evidence.trustedKeys`. */
  readonly source: string;
}

export interface RevokedKey {
  readonly keyId: string;
  readonly sinceMs: number;
  readonly reason: string;
}

/** Whose signatures count. No keys: only the key inside a record can be used, which anybody could have put there. */
export interface Trust {
  readonly keys: readonly TrustedKey[];
  readonly revoked: readonly RevokedKey[];
}

export const TRUST_NOBODY: Trust = { keys: [], revoked: [] };

export function trustOf(evidence: Config['evidence']): Trust {
  return {
    keys: evidence.trustedKeys.map(({ publicKey, validFrom, validUntil }) => ({
      ...trustedKey(publicKey, 'evidence.trustedKeys'),
      ...(validFrom === undefined ? {} : { validFromMs: Date.parse(validFrom) }),
      ...(validUntil === undefined ? {} : { validUntilMs: Date.parse(validUntil) }),
    })),
    revoked: evidence.revokedKeys.map(({ keyId, since, reason }) => ({ keyId, sinceMs: Date.parse(since), reason })),
  };
}

/** @param text PEM, or the base64 of the DER form as `keygen` prints it. */
export function trustedKey(text: string, source: string): TrustedKey {
  const key = readPublicKey(text);
  return { key, keyId: keyIdOf(key), source };
}

/** Only this key counts. */
export function trustOnly(publicKeyText: string): Trust {
  return { keys: [trustedKey(publicKeyText, 'the given key')], revoked: [] };
}

export function readPublicKey(text: string): KeyObject {
  let key: KeyObject;
  try {
    // A private key would be taken too: it has no place where public keys are given.
    if (text.includes('PRIVATE KEY')) throw new Error('a private key');
    key = text.includes('-----BEGIN') ? createPublicKey(text) : createPublicKey({ key: Buffer.from(text.trim(), 'base64'), format: 'der', type: 'spki' });
  } catch (error) {
    throw new HoldfastError('public-key', 'the public key is no readable public key', { next: 'give the .pub file that `holdfast evidence keygen` wrote beside the private key', cause: error });
  }
  if (key.asymmetricKeyType !== 'ed25519') throw new HoldfastError('public-key', `the public key is ${key.asymmetricKeyType}, expected ed25519`, { next: 'make one with `holdfast evidence keygen`' });
  return key;
}

export function readSigningKey(pem: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch (error) {
    throw new HoldfastError('signing-key', 'the evidence signing key is no readable private key', { next: 'make one with `holdfast evidence keygen` and refer to it in evidence.signingKey', cause: error });
  }
  if (key.asymmetricKeyType !== 'ed25519') throw new HoldfastError('signing-key', `the evidence signing key is ${key.asymmetricKeyType}, expected ed25519`, { next: 'make one with `holdfast evidence keygen`' });
  return key;
}

export function publicPem(key: KeyObject): string {
  return key.export({ type: 'spki', format: 'pem' }).toString();
}

/** The first 16 hex digits of the SHA-256 over the public key's DER form. */
export function keyIdOf(publicKey: KeyObject): string {
  return createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' })).digest('hex').slice(0, 16);
}

export interface SigningKeyPair {
  readonly privatePem: string;
  readonly publicPem: string;
  /** One line, as evidence.trustedKeys takes it. */
  readonly publicBase64: string;
  readonly keyId: string;
}

export function generateSigningKey(): SigningKeyPair {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return {
    privatePem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    publicPem: publicPem(publicKey),
    publicBase64: publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
    keyId: keyIdOf(publicKey),
  };
}
