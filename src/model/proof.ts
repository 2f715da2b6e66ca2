/** One difference between what was backed up and what was restored. */
export interface Difference {
  readonly kind:
    | 'table-missing' | 'table-unexpected' | 'rows' | 'content' | 'sequence' | 'large-objects' | 'extension' | 'role'
    | 'schema-missing' | 'schema-unexpected' | 'schema-changed' | 'check' | 'archive';
  readonly object: string;
  readonly expected: string;
  readonly found: string;
}

/** The outcome of comparing a restore with its manifest. `exact` only when there is no difference at all. */
export interface Proof {
  readonly exact: boolean;
  readonly differences: readonly Difference[];
  /** How much was compared, so that an empty comparison cannot pass for a proof. */
  readonly compared: {
    readonly tables: number;
    readonly rows: string;
    readonly sequences: number;
    readonly largeObjects: string;
    readonly extensions: number;
    readonly roles: number;
    readonly schemaObjects: number;
  };
  /** What could not be or was deliberately not compared, in words. */
  readonly notes: readonly string[];
}
