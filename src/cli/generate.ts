import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { configJsonSchema, runbookJsonSchema } from '../model/json-schema.ts';
import { configurationReference, permissionsReference, stepKindReference } from '../model/reference.ts';

/** Files made from the definitions, relative to the repository: schemas for editors, reference pages for people. */
export function generatedFiles(): Readonly<Record<string, string>> {
  return {
    'holdfast.schema.json': json(configJsonSchema()),
    'runbooks/schema.json': json(runbookJsonSchema()),
    'docs/reference/configuration.md': configurationReference(),
    'docs/reference/step-kinds.md': stepKindReference(),
    'docs/reference/permissions.md': permissionsReference(),
  };
}

/** Names of the files below `root` that are missing or differ from what is generated now. */
export async function staleFiles(root: string): Promise<string[]> {
  const stale: string[] = [];
  for (const [name, content] of Object.entries(generatedFiles())) {
    const found = await readFile(join(root, name), 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (found !== content) stale.push(name);
  }
  return stale;
}

/** Writes the stale ones. @returns their names. */
export async function writeGenerated(root: string): Promise<string[]> {
  const stale = await staleFiles(root);
  for (const name of stale) {
    const path = join(root, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, generatedFiles()[name]!);
  }
  return stale;
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

if (import.meta.main) {
  const root = join(import.meta.dirname, '..', '..');
  if (process.argv.includes('--check')) {
    const stale = await staleFiles(root);
    for (const name of stale) console.error(`${name} is not what the definitions say; run \`npm run generate\` and commit it`);
    process.exitCode = stale.length > 0 ? 1 : 0;
  } else {
    const written = await writeGenerated(root);
    console.log(written.length === 0 ? 'all generated files are current' : written.map((name) => `wrote ${name}`).join('\n'));
  }
}
