import type { Command } from 'commander';
import { EXIT, type Io } from '../io.ts';

export function define(command: Command, io: Io): void {
  command
    .description(
      'Check this host and everything it must reach: tools and versions, Temporal, stores (written, read, overwritten, deleted), databases, rights, ' +
        'replication, secrets (resolved, never shown), signing key. Run it where the worker runs, as the user of the worker.',
    )
    .option('--fix', 'register missing search attributes')
    .option('--notify-test', 'really send a notice to every receiver')
    .action(async (options: { fix?: boolean; notifyTest?: boolean }) => {
      const context = await io.context();
      const { runDoctor } = await import('../../engine/doctor.ts');
      const findings = await runDoctor(context, { fix: options.fix === true, notifyTest: options.notifyTest === true });
      const count = (level: string): number => findings.filter((finding) => finding.level === level).length;
      io.result({ ok: count('fail') === 0, findings }, () => {
        const lines: string[] = [];
        let area = '';
        for (const finding of findings) {
          if (finding.area !== area) lines.push(...(area === '' ? [] : ['']), finding.area);
          area = finding.area;
          lines.push(`  ${finding.level.padEnd(4)}  ${finding.what}`);
          if (finding.next !== undefined) lines.push(`        next: ${finding.next}`);
        }
        lines.push('', `${count('ok')} ok, ${count('warn')} to look at, ${count('fail')} failed`);
        return lines.join('\n');
      });
      if (count('fail') > 0) io.exit(EXIT.failed);
    });
}
