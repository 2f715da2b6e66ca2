import type { Command } from 'commander';
import { exactText, minus, shownAmount } from '../../model/amount.ts';
import type { PriceTable } from '../../model/config-cost.ts';
import { costOf, jsonOfCost, serviceTotal, type Consequence, type DatastoreCost, type TierCost } from '../../model/cost.ts';
import { formatDuration } from '../../model/units.ts';
import { serviceOf } from '../../systems/context.ts';
import { formatTable, type Io } from '../io.ts';

interface ServiceCost {
  readonly service: string;
  readonly objectives: { readonly rtoMs: number; readonly rpoMs: number };
  readonly datastores: readonly DatastoreCost[];
}

export function define(command: Command, io: Io): void {
  command
    .description(
      'What the objectives of each service cost a month, by the price table of the configuration (costs.prices), beside each other tier and what it would mean for RTO and RPO. ' +
        'Each figure says whether it is measured, declared or assumed; what has no price is never counted as 0.',
    )
    .argument('[service...]', 'default: every service of the configuration')
    .action(async (given: string[]) => {
      const context = await io.context();
      const { readPrices, costInputs } = await import('../../systems/cost.ts');
      const { table, file } = await readPrices(context);
      const names = given.length > 0 ? [...new Set(given)] : Object.keys(context.config.services);
      const found: ServiceCost[] = [];
      for (const name of names) {
        const { objectives } = serviceOf(context.config, name);
        const { inputs, notes } = await costInputs(context, name, io.interrupted);
        for (const note of notes) io.note(`note: ${note}`);
        found.push({ service: name, objectives: { rtoMs: objectives.rto, rpoMs: objectives.rpo }, datastores: inputs.map((input) => costOf(input, table)) });
      }
      const { currency, asOf, source } = table;
      io.result({ currency, asOf, source, prices: file, services: found.map(jsonOf) }, () => [`prices: ${file}, ${currency}, as of ${asOf}, ${source}`, ...found.map((service) => shownService(service, table))].join('\n\n'));
    });
}

function jsonOf(cost: ServiceCost): unknown {
  const { total, incomplete } = serviceTotal(cost.datastores);
  return { service: cost.service, objectives: cost.objectives, total: exactText(total), complete: incomplete.length === 0, incomplete, datastores: cost.datastores.map(jsonOfCost) };
}

function shownService(cost: ServiceCost, table: PriceTable): string {
  const { total, incomplete } = serviceTotal(cost.datastores);
  return [
    `${cost.service}: ${money(total, table)} a month${incomplete.length === 0 ? '' : ` at least: ${incomplete.length} figure(s) missing`}  (RTO ${formatDuration(cost.objectives.rtoMs)}, RPO ${formatDuration(cost.objectives.rpoMs)})`,
    ...cost.datastores.map((datastore) => shownDatastore(datastore, table)),
  ].join('\n\n');
}

function money(amount: Parameters<typeof shownAmount>[0], table: PriceTable): string {
  return `${shownAmount(amount, table.decimals)} ${table.currency}`;
}

function shownDatastore(cost: DatastoreCost, table: PriceTable): string {
  const now = cost.tiers.find(({ current }) => current)!;
  const lines = now.lines.map((line) => [
    line.name,
    line.quantity === null ? '?' : shownAmount(line.quantity, 3),
    line.unit,
    line.basis,
    line.price === null ? 'no price' : exactText(line.price),
    line.amount === null ? '?' : shownAmount(line.amount, table.decimals),
    line.missing ?? line.how,
  ]);
  return [
    `${cost.datastore}, now ${cost.tier}${now.impossible === null ? '' : ` (${now.impossible})`}`,
    formatTable(['item', 'quantity', 'unit', 'basis', 'price', table.currency, 'how, or what is missing'], lines),
    '',
    formatTable(['tier', `${table.currency} a month`, 'against now', 'RTO', 'RPO'], cost.tiers.map((tier) => [`${tier.tier}${tier.current ? ' (now)' : ''}`, shownTotal(tier, table), shownDifference(tier, now, table), shownConsequence(tier.rto), shownConsequence(tier.rpo)])),
    ...cost.tiers.flatMap((tier) => [`  ${tier.tier}: RTO ${tier.rto.how}`, `  ${tier.tier}: RPO ${tier.rpo.how}`, ...(tier.current || tier.impossible !== null ? [] : tier.incomplete.map((missing) => `  ${tier.tier}: missing: ${missing}`))]),
  ].join('\n');
}

function shownTotal(tier: TierCost, table: PriceTable): string {
  if (tier.impossible !== null) return tier.impossible;
  return `${tier.incomplete.length === 0 ? '' : '>= '}${shownAmount(tier.total, table.decimals)}${tier.incomplete.length === 0 ? '' : ` (${tier.incomplete.length} missing)`}`;
}

/** Of two sums of which one is incomplete nobody knows the difference. */
function shownDifference(tier: TierCost, now: TierCost, table: PriceTable): string {
  if (tier.current) return '';
  if ([tier, now].some(({ impossible, incomplete }) => impossible !== null || incomplete.length > 0)) return '?';
  const difference = minus(tier.total, now.total);
  return `${difference.over > 0n ? '+' : ''}${shownAmount(difference, table.decimals)}`;
}

function shownConsequence({ ms, basis, meets }: Consequence): string {
  if (ms === null) return 'not known';
  return `${formatDuration(ms)} ${basis}${meets === false ? ', MISSES' : ''}`;
}
