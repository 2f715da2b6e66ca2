/**
 * Exact amounts: a fraction of two whole numbers. Sums and products of prices and quantities are never rounded; only what is shown is.
 */
export interface Amount {
  readonly over: bigint;
  readonly under: bigint;
}

export const ZERO: Amount = { over: 0n, under: 1n };

function reduced(over: bigint, under: bigint): Amount {
  let [a, b] = [over < 0n ? -over : over, under];
  while (b !== 0n) [a, b] = [b, a % b];
  return a === 0n ? ZERO : { over: over / a, under: under / a };
}

/** A whole number, or a decimal as written (`0.115`, `1e-7`). @throws RangeError for anything else. */
export function amountOf(value: string | number | bigint): Amount {
  if (typeof value === 'bigint') return { over: value, under: 1n };
  const match = /^(\d+)(?:\.(\d+))?(?:e([+-]?\d{1,3}))?$/i.exec(String(value).trim());
  if (match === null) throw new RangeError(`"${value}" is no decimal number of zero or more`);
  const [, whole, fraction = '', exponent = '0'] = match;
  const shift = Number(exponent) - fraction.length;
  const digits = BigInt(`${whole}${fraction}`);
  return shift >= 0 ? reduced(digits * 10n ** BigInt(shift), 1n) : reduced(digits, 10n ** BigInt(-shift));
}

export function plus(a: Amount, b: Amount): Amount {
  return reduced(a.over * b.under + b.over * a.under, a.under * b.under);
}

export function minus(a: Amount, b: Amount): Amount {
  return reduced(a.over * b.under - b.over * a.under, a.under * b.under);
}

export function times(a: Amount, b: Amount): Amount {
  return reduced(a.over * b.over, a.under * b.under);
}

/** @throws RangeError when `b` is zero. */
export function per(a: Amount, b: Amount): Amount {
  if (b.over === 0n) throw new RangeError('divided by zero');
  return b.over < 0n ? reduced(-a.over * b.under, a.under * -b.over) : reduced(a.over * b.under, a.under * b.over);
}

export function sum(amounts: readonly Amount[]): Amount {
  return amounts.reduce(plus, ZERO);
}

/** The next whole number, upwards. */
export function ceiling(a: Amount): Amount {
  const whole = a.over / a.under;
  return amountOf(a.over > 0n && a.over % a.under !== 0n ? whole + 1n : whole);
}

/** Rounded for people, half away from zero, with exactly so many decimals: `1234.50`. */
export function shownAmount(amount: Amount, decimals: number): string {
  const scale = 10n ** BigInt(decimals);
  const negative = amount.over < 0n;
  const over = negative ? -amount.over : amount.over;
  const scaled = (over * scale * 2n + amount.under) / (amount.under * 2n);
  const text = scaled.toString().padStart(decimals + 1, '0');
  const body = decimals === 0 ? text : `${text.slice(0, -decimals)}.${text.slice(-decimals)}`;
  return negative && scaled !== 0n ? `-${body}` : body;
}

/** All of its decimals where they end within twelve, else rounded to twelve: for JSON. */
export function exactText(amount: Amount): string {
  return shownAmount(amount, 12).replace(/0+$/, '').replace(/\.$/, '');
}
