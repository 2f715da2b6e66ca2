// `npm run bench` after the bootstrap: every measurement of test/bench, or the named one with its arguments.
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { passSignalsOn } from './pass-on.ts';

const FOLDER = fileURLToPath(new URL('../../test/bench', import.meta.url));

async function main([wanted, ...args]: readonly string[]): Promise<number> {
  const names = readdirSync(FOLDER).filter((file) => file.endsWith('.ts')).map((file) => file.slice(0, -'.ts'.length)).sort();
  if (names.length === 0 || (wanted !== undefined && !names.includes(wanted))) {
    console.error(`usage: npm run bench -- [${names.join(' | ') || 'nothing is there yet'}] [arguments]`);
    return 2;
  }
  let failed = 0;
  const work = passSignalsOn();
  for (const name of wanted === undefined ? names : [wanted]) {
    if (work.interrupted) break;
    console.log(`== ${name}`);
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', join(FOLDER, `${name}.ts`), ...args], { stdio: 'inherit' });
    work.child = child;
    const code = await new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (exit) => resolve(exit ?? 1));
    });
    if (code !== 0) {
      console.error(`${name} ended with exit code ${code}`);
      failed += 1;
    }
  }
  return failed === 0 && !work.interrupted ? 0 : 1;
}

process.exit(await main(process.argv.slice(2)));
