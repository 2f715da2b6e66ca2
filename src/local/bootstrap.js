// Makes a bare machine able to run Holdfast from its checkout, then runs it:
//   node src/local/bootstrap.js demo | demo region | demo mongodb | demo dynamodb | test | test:fault | bench | holdfast   [arguments]
//
// Plain JavaScript without dependencies, since it runs before there are any, on the host's own Node (18 or newer). It installs what is
// missing into a cache folder ($HOLDFAST_CACHE, else $XDG_CACHE_HOME/holdfast, else ~/.cache/holdfast), each tool into a folder that
// carries its version and appears only when it is complete, then starts the command under Node 24.
import { spawn } from 'node:child_process';
import { accessSync, chmodSync, constants, copyFileSync, cpSync, createWriteStream, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const VERSIONS = JSON.parse(readFileSync(new URL('./tools.json', import.meta.url), 'utf8'));
const CACHE = process.env.HOLDFAST_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'holdfast');
const KUBERNETES = join(ROOT, 'src', 'local', 'kube');
const FERRETDB = join(ROOT, 'src', 'local', 'ferret');
const OLDEST_NODE = [22, 18];
/** Debian's packages ask this program whether they may start a service. */
const POLICY = '/usr/sbin/policy-rc.d';
const POLICY_SAVED = `${POLICY}.holdfast-saved`;
const POLICY_TEXT = '#!/bin/sh\n# Made by the bootstrap of Holdfast while it installs: no service is started.\nexit 101\n';

/** What each command needs, and the file that Node 24 runs for it. */
const COMMANDS = {
  demo: { needs: ['node', 'packages', 'system', 'temporal', 'versitygw', 'moto'], script: 'src/local/demo.ts', first: [] },
  'demo region': { needs: ['node', 'packages', 'system', 'redis', 'java', 'temporal', 'versitygw', 'moto', 'opensearch', 'kubernetes'], script: 'src/local/demo-region.ts', first: [] },
  'demo mongodb': { needs: ['node', 'packages', 'system', 'temporal', 'versitygw', 'moto', 'ferretdb'], script: 'src/local/demo-mongodb.ts', first: [] },
  'demo dynamodb': { needs: ['node', 'packages', 'system', 'java', 'temporal', 'versitygw', 'dynamodb'], script: 'src/local/demo-dynamodb.ts', first: [] },
  test: { needs: ['node', 'packages', 'system', 'controllers', 'redis', 'pgbackrest', 'java', 'temporal', 'versitygw', 'moto', 'aws', 'toxiproxy', 'opensearch', 'kafka', 'dynamodb', 'kubernetes', 'ferretdb'], script: 'src/local/run-tests.ts', first: ['all'] },
  'test:fault': { needs: ['node', 'packages', 'system', 'temporal', 'versitygw', 'moto', 'toxiproxy'], script: 'src/local/run-tests.ts', first: ['fault'] },
  bench: { needs: ['node', 'packages', 'system', 'java', 'temporal', 'versitygw', 'moto', 'toxiproxy', 'dynamodb', 'ferretdb'], script: 'src/local/run-bench.ts', first: [] },
  holdfast: { needs: ['node', 'packages'], script: 'src/cli/main.ts', first: [] },
};

/**
 * One thing that may have to be installed. `lane`: steps of one lane run one after the other, lanes at the same time; on a small
 * machine two compilations at once gain nothing, but a download beside a compilation does.
 */
const STEPS = {
  node: { lane: 'npm', what: `Node.js ${VERSIONS.node} (npm package node)`, seconds: 15, ready: () => nodeIsNew() || executable(cachedNode()), install: installNode },
  packages: { lane: 'npm', what: 'npm packages (npm ci)', seconds: 20, ready: packagesAreInstalled, install: installPackages },
  system: { lane: 'system', what: 'Debian packages', seconds: 40, ready: () => missingSystemPackages().length === 0, install: installSystemPackages },
  controllers: { lane: 'system', what: 'Debian packages of Patroni and etcd', seconds: 10, ready: () => quietReady('controllers'), install: () => installQuietly('controllers') },
  redis: { lane: 'system', what: 'Debian package of Redis', seconds: 10, ready: () => quietReady('redis'), install: () => installQuietly('redis') },
  pgbackrest: { lane: 'system', what: 'Debian package of pgBackRest', seconds: 10, ready: () => quietReady('pgbackrest'), install: () => installQuietly('pgbackrest') },
  java: { lane: 'system', what: 'Debian packages of Java and Maven', seconds: 60, ready: () => missingJava().length === 0, install: installJava },
  temporal: { lane: 'go', what: `Temporal server ${VERSIONS.temporal} (compiled by go install)`, seconds: 200, ready: () => tool('temporal', 'temporal', 'temporal'), install: installTemporal },
  versitygw: { lane: 'go', what: `S3 server VersityGW ${VERSIONS.versitygw} (compiled by go install)`, seconds: 60, ready: () => tool('versitygw', 'versitygw', 'versitygw'), install: installVersity },
  toxiproxy: { lane: 'go', what: `Toxiproxy ${VERSIONS.toxiproxy} (compiled by go install)`, seconds: 15, ready: () => tool('toxiproxy', 'toxiproxy-server', 'toxiproxy-server'), install: installToxiproxy },
  opensearch: { lane: 'maven', what: `OpenSearch ${VERSIONS.opensearch} (Maven)`, seconds: 25, ready: () => mavenReady('opensearch'), install: () => installMaven('opensearch') },
  kafka: { lane: 'maven', what: `Kafka ${VERSIONS.kafka} (Maven)`, seconds: 15, ready: () => mavenReady('kafka'), install: () => installMaven('kafka') },
  dynamodb: { lane: 'maven', what: `DynamoDB Local ${VERSIONS.dynamodb} (Maven)`, seconds: 60, ready: () => mavenReady('dynamodb'), install: () => installMaven('dynamodb') },
  kubernetes: { lane: 'go', what: `Kubernetes API server ${VERSIONS.kubernetes} (compiled by go build)`, seconds: 250, ready: kubernetesReady, install: installKubernetes },
  ferretdb: { lane: 'go', what: `MongoDB wire server FerretDB ${VERSIONS.ferretdb} (compiled by go build)`, seconds: 90, ready: () => which('holdfast-ferretdb') !== undefined || builtReady('ferretdb', 'ferretdb', FERRETDB), install: installFerret },
  moto: { lane: 'python', what: `AWS emulator moto ${VERSIONS.moto} (Python virtual environment)`, seconds: 30, ready: () => tool('moto', 'moto_server', join('bin', 'moto_server')), install: installMoto },
  aws: { lane: 'python', what: `AWS command line ${VERSIONS.aws} (Python virtual environment)`, seconds: 15, ready: () => tool('aws', 'aws', join('bin', 'aws')), install: installAws },
};

/** Packages that would start services and have them started at every boot: program -> package -> service. Only the programs are wanted. */
const QUIET = {
  controllers: [['patroni', 'patroni', 'patroni'], ['etcd', 'etcd-server', 'etcd']],
  redis: [['redis-server', 'redis-server', 'redis-server']],
  // It brings no service.
  pgbackrest: [['pgbackrest', 'pgbackrest', undefined]],
};

/** Servers of Java artifacts: what Maven copies into `lib`, and the main class of ours that is compiled into `classes`, where one is needed. */
const MAVEN = {
  opensearch: {
    dependencies: [
      `org.opensearch:opensearch:${VERSIONS.opensearch}`,
      `org.opensearch.plugin:transport-netty4-client:${VERSIONS.opensearch}`,
      `org.opensearch.plugin:reindex-client:${VERSIONS.opensearch}`,
      // The release of its own log4j-api; it does not start without.
      `org.apache.logging.log4j:log4j-core:${VERSIONS.log4j}`,
    ],
    main: 'SearchNode.java',
  },
  kafka: { dependencies: [`org.apache.kafka:kafka_2.13:${VERSIONS.kafka}`, `org.slf4j:slf4j-simple:${VERSIONS.slf4j}`] },
  // With its native SQLite beside the jars.
  dynamodb: { dependencies: [`com.amazonaws:DynamoDBLocal:${VERSIONS.dynamodb}`], main: 'DynamoNode.java' },
};
/** What the newest of them asks for. */
const OLDEST_JAVA = 17;

/** An error whose text is all that the user needs. */
class Refusal extends Error {}

const running = new Set();
let stopping = false;

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error) => {
    process.stderr.write(`${error instanceof Refusal ? error.message : (error?.stack ?? error)}\n`);
    // Whoever counts tests must see that none ran.
    if (process.argv[2]?.startsWith('test')) process.stdout.write('0 passed, 1 failed\n');
    process.exit(1);
  },
);

async function main([first, ...rest]) {
  // `npm run demo -- region` is a demo of its own.
  const [name, ...args] = COMMANDS[`${first} ${rest[0]}`] === undefined ? [first, ...rest] : [`${first} ${rest[0]}`, ...rest.slice(1)];
  const command = COMMANDS[name];
  if (command === undefined) throw new Refusal(`usage: node src/local/bootstrap.js ${Object.keys(COMMANDS).join(' | ')} [arguments]`);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => passOn(signal));
  endWithParent();
  await prepare(command.needs);
  return start(command, args);
}

async function prepare(needs) {
  const started = Date.now();
  if (missing(needs).length === 0) return;
  mkdirSync(CACHE, { recursive: true });
  const release = await lock();
  try {
    removeLeftovers();
    // Somebody else may have installed meanwhile.
    const steps = missing(needs);
    if (steps.length === 0) return;
    refuseEarly(steps);
    const lanes = groupBy(steps, (name) => laneOf(name));
    const longest = Math.max(...[...lanes.values()].map((names) => names.reduce((sum, name) => sum + STEPS[name].seconds, 0)));
    say(`Preparing this machine, once: ${steps.length} thing(s) to install into ${CACHE}${longest > 60 ? `; expect about ${Math.ceil(longest / 60)} min on 2 cores` : `; expect about ${longest} s`}.`);
    const results = await Promise.allSettled([...lanes.values()].map((names) => lane(names)));
    const failed = results.filter((result) => result.status === 'rejected').map((result) => result.reason);
    if (failed.length > 0) throw new Refusal(failed.map((error) => (error instanceof Refusal ? error.message : (error?.stack ?? String(error)))).join('\n\n'));
    const still = missing(needs);
    if (still.length > 0) throw new Refusal(`still missing after installing: ${still.join(', ')}; remove ${CACHE} and try again`);
    // Everything was copied out of it; kept only while something is missing, so that the next start loads less.
    rmSync(join(CACHE, 'maven-repository'), { recursive: true, force: true });
    say(`Prepared in ${seconds(started)}. The next start finds all this in place.`);
  } finally {
    release();
  }
}

async function lane(names) {
  for (const name of names) {
    if (stopping) throw new Refusal('interrupted');
    const step = STEPS[name];
    const started = Date.now();
    say(`  ${step.what}: installing, about ${step.seconds} s the first time`);
    const still = setInterval(() => say(`  ${step.what}: still at it after ${seconds(started)}`), 30_000);
    try {
      await step.install(step);
    } catch (error) {
      say(`  ${step.what}: failed after ${seconds(started)}`);
      throw error;
    } finally {
      clearInterval(still);
    }
    say(`  ${step.what}: done in ${seconds(started)}`);
  }
}

/** moto waits for Debian's Python where that is missing too, and Maven's artifacts for Maven. */
function laneOf(name) {
  if (STEPS[name].lane === 'maven') return missingJava().length > 0 ? 'system' : 'maven';
  return (name === 'moto' || name === 'aws') && missingSystemPackages().some((entry) => entry.startsWith('python3')) ? 'system' : STEPS[name].lane;
}

function missing(needs) {
  return needs.filter((name) => !STEPS[name].ready());
}

/** What no waiting helps is said before minutes are spent on the rest. */
function refuseEarly(steps) {
  const problems = [];
  const unwanted = Object.keys(QUIET).filter((name) => steps.includes(name)).flatMap(missingQuiet);
  const debian = [...(steps.includes('system') ? missingSystemPackages() : []), ...unwanted.map(([, name]) => name), ...(steps.includes('java') ? missingJava() : [])];
  if (debian.length > 0 && !mayInstallSystemPackages()) {
    const services = unwanted.map(([, , service]) => service).filter((service) => service !== undefined);
    const quiet = services.length > 0 ? `\nOnly the programs are called; no service is needed: systemctl disable --now ${services.join(' ')}` : '';
    problems.push(`These Debian packages are missing: ${debian.join(' ')}. Run as root:\n  apt-get update && apt-get install -y --no-install-recommends ${debian.join(' ')}${quiet}\nthen start this again.`);
  }
  const compiled = steps.filter((name) => STEPS[name].lane === 'go');
  const withoutGo = compiled.filter((name) => name !== 'temporal');
  if (withoutGo.length > 0 && which('go') === undefined) {
    const onPath = withoutGo.filter((name) => name !== 'kubernetes' && name !== 'ferretdb').map((name) => (name === 'toxiproxy' ? 'toxiproxy-server' : name));
    problems.push(`Go is missing; it compiles ${listed(withoutGo)}. Install Go 1.24 or newer (https://go.dev/dl)${onPath.length < withoutGo.length ? '' : `, or put ${listed(onPath)} on PATH`}.`);
  }
  if (problems.length > 0) throw new Refusal(problems.join('\n\n'));
}

function listed(names) {
  return names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}

// ---------------------------------------------------------------- Node and npm packages

function nodeIsNew() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  return major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1]);
}

function cachedNode() {
  return join(CACHE, `node-${VERSIONS.node}`, 'node_modules', 'node', 'bin', 'node');
}

function nodePath() {
  return nodeIsNew() ? process.execPath : cachedNode();
}

async function installNode() {
  await intoCache('node', async (folder) => {
    writeFileSync(join(folder, 'package.json'), '{"private":true}\n');
    await run('node', ['npm', 'install', '--prefix', folder, '--no-audit', '--no-fund', '--loglevel=error', `node@${VERSIONS.node}`], { cwd: folder });
    await run('node', [join(folder, 'node_modules', 'node', 'bin', 'node'), '--version']);
  });
}

/** npm writes node_modules/.package-lock.json last, so it tells both what is installed and that the installation was finished. */
function packagesAreInstalled() {
  try {
    const wanted = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')).packages;
    const found = JSON.parse(readFileSync(join(ROOT, 'node_modules', '.package-lock.json'), 'utf8')).packages;
    return Object.entries(wanted).every(([path, entry]) => path === '' || entry.link || (found[path] === undefined ? entry.optional === true || entry.peer === true : found[path].version === entry.version));
  } catch {
    return false;
  }
}

async function installPackages() {
  const quiet = ['--no-audit', '--no-fund', '--loglevel=error'];
  const options = { cwd: ROOT, env: { PATH: `${dirname(nodePath())}${delimiter}${process.env.PATH}` } };
  try {
    await run('packages', ['npm', 'ci', ...quiet], options);
  } catch (error) {
    // npm drops optional packages of other platforms from the lock where a registry mirror does not carry them, and then its own
    // `npm ci` refuses that lock. `npm install` takes the same versions from it.
    if (!/Missing: .* from lock file/.test(error.output ?? '')) throw error;
    await run('packages', ['npm', 'install', '--no-save', ...quiet], options);
  }
}

// ---------------------------------------------------------------- Debian packages

function missingSystemPackages() {
  const names = [];
  if (postgresFolder() === undefined) names.push('postgresql', 'postgresql-contrib');
  else if (!existsSync(join(postgresFolder().replace(/^\/usr\/lib\//, '/usr/share/').replace(/\/bin$/, ''), 'extension', 'pg_trgm.control')) && postgresFolder().startsWith('/usr/lib/')) names.push('postgresql-contrib');
  if (which('zstd') === undefined) names.push('zstd');
  if (which('setpriv') === undefined || which('flock') === undefined) names.push('util-linux');
  if (!tool('moto', 'moto_server', join('bin', 'moto_server'))) {
    if (which('python3') === undefined) names.push('python3', 'python3-venv');
    else if (!pythonHasVenv()) names.push('python3-venv');
  }
  return names;
}

function postgresFolder() {
  const root = '/usr/lib/postgresql';
  const majors = existsSync(root) ? readdirSync(root).filter((entry) => /^\d+$/.test(entry)).sort((a, b) => Number(b) - Number(a)) : [];
  return [...majors.map((major) => join(root, major, 'bin')), ...(process.env.PATH ?? '').split(delimiter)].find(
    (folder) => folder !== '' && executable(join(folder, 'initdb')) && executable(join(folder, 'postgres')),
  );
}

/** Debian ships `venv` without what makes it work in a package of its own. */
function pythonHasVenv() {
  const python = which('python3');
  if (!python.startsWith('/usr/bin/')) return true;
  return readdirSync('/usr/lib').some((entry) => /^python3(\.\d+)?$/.test(entry) && existsSync(join('/usr/lib', entry, 'ensurepip')));
}

function mayInstallSystemPackages() {
  return process.getuid?.() === 0 && which('apt-get') !== undefined;
}

function aptGet(name, args) {
  return run(name, ['apt-get', '-y', '-q', '-o', 'DPkg::Lock::Timeout=300', '-o', 'Dpkg::Options::=--force-confold', ...args], { env: { DEBIAN_FRONTEND: 'noninteractive' } });
}

async function installSystemPackages() {
  const names = missingSystemPackages();
  const apt = (args) => aptGet('system', args);
  await apt(['update']);
  if (!names.includes('postgresql')) return apt(['install', '--no-install-recommends', ...names]);
  // The package would make and start a cluster of its own on port 5432; only its programs are wanted.
  const settings = '/etc/postgresql-common/createcluster.conf';
  await apt(['install', '--no-install-recommends', 'postgresql-common']);
  const before = existsSync(settings) ? readFileSync(settings, 'utf8') : undefined;
  if (before !== undefined) writeFileSync(settings, `${before}\ncreate_main_cluster = false\n`);
  try {
    await apt(['install', '--no-install-recommends', ...names]);
  } finally {
    if (before !== undefined) writeFileSync(settings, before);
  }
}

function missingQuiet(step) {
  return QUIET[step].filter(([program]) => which(program) === undefined);
}

function quietReady(step) {
  return missingQuiet(step).length === 0 && !(process.getuid?.() === 0 && policyLeft());
}

/** A killed start left it: it would keep every later package of this machine from starting its service. */
function policyLeft() {
  return existsSync(POLICY_SAVED) || (existsSync(POLICY) && readFileSync(POLICY, 'utf8') === POLICY_TEXT);
}

function restorePolicy() {
  if (existsSync(POLICY_SAVED)) renameSync(POLICY_SAVED, POLICY);
  else if (policyLeft()) rmSync(POLICY);
}

async function installQuietly(step) {
  const entries = missingQuiet(step);
  restorePolicy();
  if (entries.length === 0) return;
  await aptGet(step, ['update']);
  if (existsSync(POLICY)) renameSync(POLICY, POLICY_SAVED);
  writeFileSync(POLICY, POLICY_TEXT);
  chmodSync(POLICY, 0o755);
  try {
    await aptGet(step, ['install', '--no-install-recommends', ...entries.map(([, name]) => name)]);
    for (const [, , service] of entries) if (service !== undefined) await run(step, ['update-rc.d', service, 'disable']);
  } finally {
    restorePolicy();
  }
}

function missingJava() {
  return [...(which('java') === undefined || which('javac') === undefined ? ['default-jdk-headless'] : []), ...(which('mvn') === undefined ? ['maven'] : [])];
}

async function installJava() {
  await aptGet('java', ['update']);
  await aptGet('java', ['install', '--no-install-recommends', ...missingJava()]);
}

// ---------------------------------------------------------------- servers

async function installTemporal() {
  await intoCache('temporal', async (folder) => {
    if (which('go') !== undefined) return goInstall('temporal', folder, `github.com/temporalio/cli/cmd/temporal@v${VERSIONS.temporal}`, 'temporal', 'temporal');
    const architecture = { x64: 'amd64', arm64: 'arm64' }[process.arch];
    const url = `https://temporal.download/cli/archive/v${VERSIONS.temporal}?platform=linux&arch=${architecture}`;
    const archive = join(folder, 'temporal.tar.gz');
    try {
      const answer = await fetch(url, { signal: AbortSignal.timeout(60_000) });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      writeFileSync(archive, Buffer.from(await answer.arrayBuffer()));
    } catch (error) {
      throw new Refusal(`Temporal is missing: there is no Go to compile it, and ${url} could not be loaded (${error.cause?.code ?? error.message}).\nInstall Go 1.24 or newer (https://go.dev/dl), or put the temporal command line on PATH (https://docs.temporal.io/cli).`);
    }
    await run('temporal', ['tar', '-xzf', archive, '-C', folder, 'temporal']);
    rmSync(archive);
    await run('temporal', [join(folder, 'temporal'), '--version']);
  });
}

async function installVersity() {
  await intoCache('versitygw', (folder) => goInstall('versitygw', folder, `github.com/versity/versitygw/cmd/versitygw@v${VERSIONS.versitygw}`, 'versitygw', 'versitygw'));
}

async function installToxiproxy() {
  await intoCache('toxiproxy', (folder) => goInstall('toxiproxy', folder, `github.com/Shopify/toxiproxy/v2/cmd/server@v${VERSIONS.toxiproxy}`, 'server', 'toxiproxy-server'));
}

/** No release of Kubernetes can be had by `go install` (its modules replace each other); a program of ours, of its packages, can be built. */
async function installKubernetes() {
  await intoCache('kubernetes', async (folder) => {
    cpSync(KUBERNETES, join(folder, 'source'), { recursive: true });
    const build = () => run('kubernetes', ['go', 'build', '-ldflags=-s -w', '-o', join(folder, 'kube'), '.'], { cwd: join(folder, 'source'), env: { GOFLAGS: '-buildvcs=false' } });
    await build().catch(build);
  });
}

/** Complete, and of the source of this checkout. */
function kubernetesReady() {
  if (which('holdfast-kube') !== undefined) return true;
  return builtReady('kubernetes', 'kube', KUBERNETES);
}

/** Its own command cannot be had by `go install` either (it reads files of its repository); its embeddable package can be built. */
async function installFerret() {
  await intoCache('ferretdb', async (folder) => {
    cpSync(FERRETDB, join(folder, 'source'), { recursive: true });
    const build = () => run('ferretdb', ['go', 'build', '-ldflags=-s -w', '-o', join(folder, 'ferretdb'), '.'], { cwd: join(folder, 'source'), env: { GOFLAGS: '-buildvcs=false' } });
    await build().catch(build);
  });
}

function builtReady(name, program, source) {
  const folder = join(CACHE, `${name}-${VERSIONS[name]}`);
  return executable(join(folder, program)) && readdirSync(source).every((file) => existsSync(join(folder, 'source', file)) && readFileSync(join(folder, 'source', file)).equals(readFileSync(join(source, file))));
}

async function goInstall(name, folder, module, built, wanted) {
  const first = await goInstallOnce(name, folder, module).catch((error) => error);
  // A module proxy's hiccup is the usual reason; what was loaded is kept, so that a second try is quick.
  if (first instanceof Error) await goInstallOnce(name, folder, module);
  if (built !== wanted) renameSync(join(folder, built), join(folder, wanted));
  accessSync(join(folder, wanted), constants.X_OK);
}

function goInstallOnce(name, folder, module) {
  return run(name, ['go', 'install', module], { cwd: folder, env: { GOBIN: folder, GOFLAGS: '-buildvcs=false' } });
}

async function installMoto() {
  // A virtual environment knows its own path, so it is made in its final place and a mark says that it is complete.
  const folder = join(CACHE, `moto-${VERSIONS.moto}`);
  rmSync(folder, { recursive: true, force: true });
  await run('moto', ['python3', '-m', 'venv', folder]);
  await run('moto', [join(folder, 'bin', 'python'), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', `moto[server]==${VERSIONS.moto}`]);
  writeFileSync(join(folder, 'complete'), '');
}

async function installAws() {
  const folder = join(CACHE, `aws-${VERSIONS.aws}`);
  rmSync(folder, { recursive: true, force: true });
  await run('aws', ['python3', '-m', 'venv', folder]);
  await run('aws', [join(folder, 'bin', 'python'), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', `awscli==${VERSIONS.aws}`]);
  writeFileSync(join(folder, 'complete'), '');
}

/** The servers that are Java artifacts, with a repository of our own: the user's ~/.m2 stays as it is; settings there (a mirror) are used. */
async function installMaven(name) {
  const { dependencies, main } = MAVEN[name];
  await refuseOldJava(name);
  await intoCache(name, async (folder) => {
    writeFileSync(join(folder, 'pom.xml'), pom(name, dependencies));
    const copy = ['mvn', '-q', '-B', `-Dmaven.repo.local=${join(CACHE, 'maven-repository')}`, '-f', join(folder, 'pom.xml'), `org.apache.maven.plugins:maven-dependency-plugin:${VERSIONS.mavenDependencyPlugin}:copy-dependencies`, `-DoutputDirectory=${join(folder, 'lib')}`, '-DincludeScope=runtime'];
    // As with Go: what was loaded is kept, so that a second try after a hiccup is quick.
    await run(name, copy, { cwd: folder }).catch(() => run(name, copy, { cwd: folder }));
    if (main === undefined) return;
    copyFileSync(join(ROOT, 'src/local/java', main), join(folder, main));
    await run(name, ['javac', '-cp', join(folder, 'lib', '*'), '-d', join(folder, 'classes'), join(folder, main)], { cwd: folder });
  });
}

async function refuseOldJava(name) {
  const found = await run(name, ['java', '-version']);
  const major = Number(/version "(\d+)/.exec(found)?.[1]);
  if (!(major >= OLDEST_JAVA)) throw new Refusal(`${STEPS[name].what} needs Java ${OLDEST_JAVA} or newer; ${which('java')} says:\n${found.trim()}`);
}

function pom(name, dependencies) {
  const entries = dependencies.map((dependency) => {
    const [group, artifact, version] = dependency.split(':');
    return `    <dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency>\n`;
  });
  return `<project xmlns="http://maven.apache.org/POM/4.0.0">\n  <modelVersion>4.0.0</modelVersion>\n  <groupId>holdfast.local</groupId><artifactId>${name}</artifactId><version>1</version><packaging>pom</packaging>\n  <dependencies>\n${entries.join('')}  </dependencies>\n</project>\n`;
}

/** Complete, and of what this checkout asks for: a dependency or our main class may change while the version stays. */
function mavenReady(name) {
  const { dependencies, main } = MAVEN[name];
  const folder = join(CACHE, `${name}-${VERSIONS[name]}`);
  const same = (path, text) => existsSync(path) && readFileSync(path, 'utf8') === text;
  return same(join(folder, 'pom.xml'), pom(name, dependencies)) && (main === undefined || same(join(folder, main), readFileSync(join(ROOT, 'src/local/java', main), 'utf8')));
}

/** Installed into a folder of another name and renamed when complete, so that an interrupted installation is never taken for one. */
async function intoCache(name, install) {
  const final = join(CACHE, `${name}-${VERSIONS[name]}`);
  const folder = join(CACHE, `.installing-${name}-${process.pid}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await install(folder);
  rmSync(final, { recursive: true, force: true });
  renameSync(folder, final);
}

/** Only under the lock: nobody else can be installing. */
function removeLeftovers() {
  for (const entry of readdirSync(CACHE)) {
    if (entry.startsWith('.installing-')) rmSync(join(CACHE, entry), { recursive: true, force: true });
  }
}

/** On PATH, or complete in the cache. tools.ts looks in the same places. */
function tool(name, onPath, inCache) {
  const folder = join(CACHE, `${name}-${VERSIONS[name]}`);
  if (executable(join(folder, inCache)) && ((name !== 'moto' && name !== 'aws') || existsSync(join(folder, 'complete')))) return true;
  // Another moto would bring other gaps of the emulated services.
  return name !== 'moto' && which(onPath) !== undefined;
}

// ---------------------------------------------------------------- running things

/** A kernel lock held by a small child: it is released however we end. */
async function lock() {
  if (which('flock') === undefined) return () => {};
  const child = spawn('flock', [join(CACHE, 'lock'), '/bin/sh', '-c', 'echo locked; exec cat >/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const waiting = setTimeout(() => say(`Another start is installing into ${CACHE}; waiting for it.`), 700);
  await new Promise((resolve, reject) => {
    child.stdout.once('data', resolve);
    child.once('error', reject);
    child.once('exit', () => reject(new Refusal(`${join(CACHE, 'lock')} could not be locked`)));
  });
  clearTimeout(waiting);
  return () => child.stdin.end();
}

/** Runs an installer; its output goes to a log, whose end is given back, and shown when it fails. */
async function run(name, [command, ...args], options = {}) {
  if (which(command) === undefined) throw new Refusal(`${STEPS[name].what}: ${command} is missing on this machine; install it and start this again.`);
  mkdirSync(join(CACHE, 'logs'), { recursive: true });
  const path = join(CACHE, 'logs', `${name}.log`);
  const log = createWriteStream(path, { flags: 'a' });
  log.write(`$ ${command} ${args.join(' ')}\n`);
  const [program, ...rest] = endingWithUs([command, ...args]);
  const child = spawn(program, rest, { cwd: options.cwd ?? CACHE, env: { ...process.env, ...options.env }, stdio: ['ignore', 'pipe', 'pipe'] });
  running.add(child);
  let tail = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      log.write(chunk);
      tail = (tail + chunk).slice(-20_000);
    });
  }
  const [code, signal] = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (...exit) => resolve(exit));
  });
  running.delete(child);
  log.end();
  if (stopping) throw new Refusal('interrupted');
  if (code === 0) return tail;
  const refusal = new Refusal(`${STEPS[name].what}: \`${command} ${args.join(' ')}\` ended with ${signal ?? `exit code ${code}`}:\n${tail.trim().slice(-2000)}\nThe whole output is in ${path}. Start this again when the cause is gone.`);
  throw Object.assign(refusal, { output: tail });
}

/** The command itself, under Node 24; it ends when we do, however we do. */
function start(command, args) {
  const argv = [nodePath(), '--disable-warning=ExperimentalWarning', join(ROOT, command.script), ...command.first, ...args];
  const [program, ...rest] = endingWithUs(argv);
  const child = spawn(program, rest, {
    cwd: process.cwd(),
    stdio: 'inherit',
    env: { ...process.env, HOLDFAST_CACHE: CACHE, PATH: `${dirname(nodePath())}${delimiter}${process.env.PATH}` },
  });
  running.add(child);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code ?? 128 + ({ SIGINT: 2, SIGTERM: 15, SIGKILL: 9, SIGHUP: 1 }[signal] ?? 0)));
  });
}

/** The kernel sends it TERM when we are gone, also by SIGKILL. */
function endingWithUs(argv) {
  return which('setpriv') === undefined ? argv : ['setpriv', '--pdeathsig', 'TERM', '--', ...argv];
}

/** The terminal gives Ctrl-C to every process of the foreground; everything else is ours to pass on. */
function passOn(signal) {
  stopping = true;
  if (signal === 'SIGINT' && process.stdin.isTTY) return;
  for (const child of running) child.kill(signal);
}

/** npm cannot pass a SIGKILL on to us; that our parent changed can be seen. */
function endWithParent() {
  if (process.env.npm_lifecycle_event === undefined) return;
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid === parent) return;
    stopping = true;
    for (const child of running) child.kill('SIGTERM');
  }, 500).unref();
}

function which(name) {
  if (name.includes('/')) return executable(name) ? name : undefined;
  return [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find(executable);
}

function executable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return groups;
}

/** On stderr: stdout belongs to the command, which may print JSON. */
function say(line) {
  process.stderr.write(`${line}\n`);
}

function seconds(since) {
  return `${((Date.now() - since) / 1000).toFixed(1)} s`;
}
