import { hash } from 'node:crypto';
import { canonicalText, type Item } from '../model/dynamodb-item.ts';

/** Order-free: the count and two sums, modulo 2^64, of the two halves of 128 bits of a hash of each item. */
export interface ItemSums {
  readonly items: number;
  readonly sum1: string;
  readonly sum2: string;
}

export interface SumBuilder {
  add(item: Item): void;
  sums(): ItemSums;
}

const MASK = (1n << 64n) - 1n;

export function createSums(from: ItemSums = { items: 0, sum1: '0', sum2: '0' }): SumBuilder {
  let { items } = from;
  let sum1 = BigInt(from.sum1);
  let sum2 = BigInt(from.sum2);
  return {
    add(item) {
      const digest = hash('sha256', canonicalText(item), 'buffer');
      items += 1;
      sum1 = (sum1 + digest.readBigUInt64LE(0)) & MASK;
      sum2 = (sum2 + digest.readBigUInt64LE(8)) & MASK;
    },
    sums: () => ({ items, sum1: String(sum1), sum2: String(sum2) }),
  };
}

export function addSums(all: readonly ItemSums[]): ItemSums {
  return {
    items: all.reduce((sum, one) => sum + one.items, 0),
    sum1: String(all.reduce((sum, one) => (sum + BigInt(one.sum1)) & MASK, 0n)),
    sum2: String(all.reduce((sum, one) => (sum + BigInt(one.sum2)) & MASK, 0n)),
  };
}

export function sameSums(a: ItemSums, b: ItemSums): boolean {
  return a.items === b.items && a.sum1 === b.sum1 && a.sum2 === b.sum2;
}
