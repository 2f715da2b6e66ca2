// `npm run bench` after the bootstrap: every measurement of test/bench, or the named one with its arguments.
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const FOLDER = fileURLToPath(new URL('../../test/bench', import.meta.url));

async function main([wanted, ...args]: readonly string[]): Promise<number> {
  const names = readdirSync(FOLDER).filter((file) => file.endsWith('.ts')).map((file) => file.slice(0, -'.ts'.length)).sort();
  if (names.length === 0 || (wanted !== undefined && !names.includes(wanted))) {
    console.error(`usage: npm run bench -- [${names.join(' | ') || 'nothing is there yet'}] [arguments]`);
    return 2;
  }
  let failed = 0;
  for (const name of wanted === undefined ? names : [wanted]) {
    console.log(`== ${name}`);
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', join(FOLDER, `${name}.ts`), ...args], { stdio: 'inherit' });
    const passOn = (signal: NodeJS.Signals): void => void child.kill(signal);
    process.on('SIGTERM', passOn).on('SIGHUP', passOn);
    const code = await new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (exit) => resolve(exit ?? 1));
    });
    process.off('SIGTERM', passOn).off('SIGHUP', passOn);
    if (code !== 0) {
      console.error(`${name} ended with exit code ${code}`);
      failed += 1;
    }
  }
  return failed === 0 ? 0 : 1;
}

process.exit(await main(process.argv.slice(2)));
