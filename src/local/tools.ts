import { accessSync, constants, existsSync, readdirSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { HoldfastError } from '../model/errors.ts';
import versions from './tools.json' with { type: 'json' };

/** Programs of the local stack. `postgres` is the server; its folder holds the client tools of the same version. */
export type ToolName = 'temporal' | 'aws' | 'versitygw' | 'toxiproxy' | 'kube' | 'ferretdb' | 'moto_server' | 'postgres' | 'patroni' | 'etcd' | 'redis-server' | 'java' | 'pgbackrest';

/** Servers that are Java artifacts: `lib` and, where one is needed, a main class of ours in `classes`. */
export type JavaServer = 'opensearch' | 'kafka' | 'dynamodb';

/** Programs that only Debian's packages bring. */
const SYSTEM_TOOLS = { patroni: 'patroni', etcd: 'etcd-server', 'redis-server': 'redis-server', java: 'default-jdk-headless', pgbackrest: 'pgbackrest' } as const;

/** Where the bootstrap installs tools; bootstrap.js computes the same. */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  if (environment['HOLDFAST_CACHE']) return environment['HOLDFAST_CACHE'];
  return join(environment['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'holdfast');
}

type CachedTool = Exclude<ToolName, 'postgres' | keyof typeof SYSTEM_TOOLS>;

const IN_CACHE: Readonly<Record<CachedTool, string>> = {
  temporal: join(`temporal-${versions.temporal}`, 'temporal'),
  versitygw: join(`versitygw-${versions.versitygw}`, 'versitygw'),
  toxiproxy: join(`toxiproxy-${versions.toxiproxy}`, 'toxiproxy-server'),
  kube: join(`kubernetes-${versions.kubernetes}`, 'kube'),
  ferretdb: join(`ferretdb-${versions.ferretdb}`, 'ferretdb'),
  moto_server: join(`moto-${versions.moto}`, 'bin', 'moto_server'),
  aws: join(`aws-${versions.aws}`, 'bin', 'aws'),
};
const ON_PATH: Readonly<Record<CachedTool, string>> = {
  temporal: 'temporal',
  versitygw: 'versitygw',
  toxiproxy: 'toxiproxy-server',
  kube: 'holdfast-kube',
  ferretdb: 'holdfast-ferretdb',
  moto_server: 'moto_server',
  aws: 'aws',
};

/** Path of a tool: a cache named by HOLDFAST_CACHE, else PATH, else the default cache. @throws HoldfastError `tool-missing`. */
export function findTool(name: ToolName, environment: NodeJS.ProcessEnv = process.env): string {
  if (name === 'postgres') return join(postgresBinDirectory(environment), 'postgres');
  if (name === 'patroni' || name === 'etcd' || name === 'redis-server' || name === 'java' || name === 'pgbackrest') return systemTool(name, environment);
  const cached = join(cacheFolder(environment), IN_CACHE[name]);
  if (environment['HOLDFAST_CACHE'] && executable(cached)) return cached;
  for (const folder of (environment['PATH'] ?? '').split(delimiter)) {
    const candidate = join(folder, ON_PATH[name]);
    if (folder !== '' && executable(candidate)) return candidate;
  }
  if (executable(cached)) return cached;
  throw new HoldfastError('tool-missing', `${ON_PATH[name]} was found neither on PATH nor at ${cached}`, {
    next: 'run `npm run demo` or `npm test` once: they install what is missing into that folder',
  });
}

function systemTool(name: keyof typeof SYSTEM_TOOLS, environment: NodeJS.ProcessEnv): string {
  const found = [...(environment['PATH'] ?? '').split(delimiter), '/usr/bin'].filter((folder) => folder !== '').map((folder) => join(folder, name)).find(executable);
  if (found !== undefined) return found;
  throw new HoldfastError('tool-missing', `${name} was not found on PATH`, { next: `run \`npm test\` once as root: it installs it; or apt-get install -y --no-install-recommends ${SYSTEM_TOOLS[name]}` });
}

/** What `java -cp` takes. @throws HoldfastError `tool-missing`. */
export function javaClassPath(name: JavaServer, environment: NodeJS.ProcessEnv = process.env): string {
  const folder = join(cacheFolder(environment), `${name}-${versions[name]}`);
  if (existsSync(join(folder, 'lib'))) return [join(folder, 'classes'), join(folder, 'lib', '*')].join(delimiter);
  throw new HoldfastError('tool-missing', `${name} was not found at ${folder}`, { next: 'run `npm test` once: it installs what is missing into that folder' });
}

/** The newest installed PostgreSQL's folder of programs. */
export function postgresBinDirectory(environment: NodeJS.ProcessEnv = process.env): string {
  const root = '/usr/lib/postgresql';
  let majors: string[] = [];
  try {
    majors = readdirSync(root).filter((entry) => /^\d+$/.test(entry)).sort((a, b) => Number(b) - Number(a));
  } catch {
    // Not a Debian layout; PATH may still have it.
  }
  const folders = [...majors.map((major) => join(root, major, 'bin')), ...(environment['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '')];
  for (const folder of folders) {
    if (executable(join(folder, 'initdb')) && executable(join(folder, 'postgres'))) return realpathSync(folder);
  }
  throw new HoldfastError('tool-missing', 'no PostgreSQL server programs (initdb, postgres) were found in /usr/lib/postgresql/*/bin or on PATH', {
    next: 'apt-get install postgresql postgresql-contrib',
  });
}

function executable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
