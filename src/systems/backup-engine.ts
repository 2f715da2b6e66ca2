import type { BackupResult, CheckResult } from '../model/api.ts';
import type { ServiceCheck } from '../model/config-schema.ts';
import type { BackupEngineName, Manifest } from '../model/manifest.ts';
import type { Proof } from '../model/proof.ts';
import type { ReadinessCheck } from '../model/readiness.ts';
import type { Context } from './context.ts';

export interface BackupRequest {
  readonly datastore: string;
  readonly id: string;
  /** Folder in the store, ends with `/`; nobody else's. */
  readonly location: string;
  readonly reason: string;
  readonly workflowId: string;
  readonly runId: string;
  /** Why it is less than was asked for, known before it begins: it stands in for a managed snapshot. */
  readonly degraded?: string | undefined;
  /** From 1, which is the default. Matters to a resumable engine: it writes below a folder of its own for each attempt. */
  readonly attempt?: number;
}

export interface BackupProgress {
  readonly phase: 'connect' | 'dump' | 'commit';
  readonly location: string;
  readonly plainBytes: number;
  readonly storedBytes: number;
  /** Plain bytes a second since the dump began. */
  readonly bytesPerSecond: number;
  /** Of whatever the engine counts: tables, collections. */
  readonly tables: number;
  readonly ofTables: number;
}

export interface BackupOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: BackupProgress) => void;
  /** Asked last of all; throws when this backup must not be committed any more. */
  readonly mayCommit?: () => Promise<void>;
}

/** A committed backup and where it lies. */
export interface StoredBackup<M extends Manifest = Manifest> {
  readonly storeName: string;
  /** Ends with `/`. */
  readonly location: string;
  readonly manifest: M;
}

export interface ReadBack {
  readonly objects: number;
  readonly storedBytes: number;
  readonly plainBytes: number;
  /** One line for people: by what it was read to its end. */
  readonly how: string;
}

export interface DrillCall {
  readonly datastore: string;
  readonly service: string | null;
  readonly workflowId: string;
  readonly runId: string;
  readonly storeName: string;
  readonly location: string;
  readonly targetName: string;
}

export interface TargetMade {
  readonly name: string;
  readonly serverVersion: string;
  readonly isolation: string;
  readonly systemIdentifier: string;
  readonly tookMs: number;
}

export interface Restored {
  readonly startedAtMs: number;
  readonly finishedAtMs: number;
  readonly globalsMs: number | null;
  readonly dataMs: number | null;
  readonly plainBytes: number;
  /** What in the backup kept it from being restored; null when it was. */
  readonly bad: string | null;
}

export interface DrillOptions {
  readonly signal: AbortSignal;
  readonly onProgress: (what: string) => void;
}

/**
 * How backups of an engine are rehearsed. Every function finds the target by its name, which follows from the run: another worker, or
 * another attempt, goes on with what an earlier one made.
 */
export interface DrillTargets<M extends Manifest = Manifest> {
  /** A fresh target that cannot be taken for production. What an earlier attempt of the same run left is destroyed first. */
  start(context: Context, call: DrillCall, manifest: M, options: DrillOptions): Promise<TargetMade>;
  /** A fault of the backup is a result (`bad`); a fault of this host or of the target is thrown, `drill-target-gone` when it is lost. */
  restore(context: Context, call: DrillCall, manifest: M, options: DrillOptions): Promise<Restored>;
  /** Reads everything there is in the target and compares it with the manifest. */
  prove(context: Context, call: DrillCall, manifest: M, options: DrillOptions): Promise<Proof>;
  check(context: Context, call: DrillCall, checks: readonly ServiceCheck[], options: DrillOptions & { readonly timeoutMs: number }): Promise<CheckResult[]>;
  /** Notes on how far the source has moved on since: asked after the checks, so no part of what was measured. Not in time is a note as well. */
  drift?(context: Context, call: DrillCall, manifest: M, options: DrillOptions & { readonly timeoutMs: number }): Promise<string[]>;
  /** How long one try of `destroy` may take, in milliseconds; left out: minutes are enough. */
  destroyMs?(context: Context, datastore: string): number;
  /** A target that is not there is no error. */
  destroy(context: Context, call: { readonly datastore: string; readonly targetName: string }, options?: { readonly signal?: AbortSignal }): Promise<{ existed: boolean }>;
  /** At the start of a worker: destroys targets whose drill no longer runs. Never throws. @returns their names. */
  sweep(context: Context, isRunning: (workflowId: string, runId: string) => Promise<boolean>): Promise<string[]>;
}

/** What an engine must do to have scheduled backups, retention, drills and evidence. src/systems/engines.ts lists them. */
export interface BackupEngine<M extends Manifest = Manifest> {
  readonly name: BackupEngineName;
  /**
   * All attempts of one run share a folder, and a later one goes on with what an earlier one has finished. What an attempt that is taken for
   * dead still does must not disturb: each writes below a folder of its own. Otherwise each attempt has its own location and starts anew.
   */
  readonly resumable: boolean;
  /** One backup up to its COMMIT. When it throws nothing is committed; what a later attempt cannot use is removed. */
  backUp(context: Context, request: BackupRequest, options: BackupOptions): Promise<BackupResult>;
  /** Ends what lost attempts still hold at the source; of a resumable engine only when no other attempt follows. @returns how many. */
  endSessions(context: Context, datastore: string, ids: readonly string[]): Promise<number>;
  /** Every checksum, and that the content is whole and has the manifest's fingerprint as far as that can be known without restoring it. */
  readBack(context: Context, backup: StoredBackup<M>, options: { signal?: AbortSignal; onProgress?: (object: string, plainBytes: number, ofBytes: number) => void }): Promise<ReadBack>;
  readonly drill: DrillTargets<M>;
  /** For readiness and doctor: whether the source answers, with the rights and programs that a backup needs. Only reads; never throws for what it finds. */
  ready?(context: Context, datastore: string, signal: AbortSignal): Promise<ReadinessCheck[]>;
  /** For backups that lie outside the store: those whose manifest has a part `managed`. Without it there are none. */
  readonly outside?: {
    /** Why it must not be deleted, e.g. it carries the tags of somebody else; null: it may. Asked before COMMIT is removed. */
    mayDelete(context: Context, manifest: M): Promise<string | null>;
    /** After COMMIT was removed and before the manifest is. @throws when it cannot be deleted now; a later retention run goes on. */
    delete(context: Context, manifest: M): Promise<void>;
    /** What killed runs have left: ours, of no backup whose id is `known`, and older than any backup can still be running. @returns how many were removed. */
    reap(context: Context, datastore: string, known: ReadonlySet<string>, nowMs: number, signal?: AbortSignal): Promise<number>;
  };
}
