/**
 * Rules of policy that a person may break on purpose. There is no general force: an override names one of these, says why, and
 * stands in plan, audit and evidence. A check that carries no rule cannot be overridden by anybody.
 */
export const RULES = {
  'two-facts': { says: 'a forced failover needs two independent facts that the primary is down', risk: 'the primary may be alive: what it acknowledges until it is fenced is lost' },
  unfenced: { says: 'a forced failover promotes nothing before the old primary is fenced', risk: 'a Region that nobody reaches may go on taking writes from within: there are two primaries until it is fenced' },
  'max-lag': { says: 'a candidate that lags more than the allowed lag is not promoted', risk: 'planned: writes are refused for as long as it takes to catch up' },
  cooldown: { says: 'after a failover the next one waits until its cooldown has passed or somebody has acknowledged it', risk: 'a failover may chase a fault from node to node' },
  'backup-age': { says: 'a service is not failed over without a backup younger than its RPO asks for', risk: 'if the failover goes wrong there is little to restore from' },
  'drill-freshness': { says: 'a service is not failed over without a backup that a drill has proved lately', risk: 'if the failover goes wrong the backups may not restore' },
  'runbook-rehearsed': { says: 'a runbook that was changed since it last ran in full is not trusted', risk: 'its changed steps run for the first time now' },
  'tainted-input': { says: 'what a skipped step would have found out does not feed a later step', risk: 'the step works with a value that nothing has confirmed' },
} as const satisfies Readonly<Record<string, { readonly says: string; readonly risk: string }>>;

export type RuleName = keyof typeof RULES;
export const RULE_NAMES = Object.keys(RULES) as RuleName[];

/** One rule broken on purpose. */
export interface Override {
  readonly rule: RuleName;
  readonly by: string;
  readonly reason: string;
}
