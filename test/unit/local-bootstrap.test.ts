import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, watch, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import versions from '../../src/local/tools.json' with { type: 'json' };

const BOOTSTRAP = fileURLToPath(new URL('../../src/local/bootstrap.js', import.meta.url));

/** Installers that write what the real ones would, and note each call: compiling for minutes shows nothing about locks and leftovers. */
const GO = `#!/bin/sh
echo "go $2" >> "$CALLS"
if [ -n "$HANG" ]; then echo half > "$GOBIN/temporal"; exec sleep 60; fi
sleep 0.3
name=$(basename "\${2%@*}")
printf '#!/bin/sh\\n' > "$GOBIN/$name"; chmod +x "$GOBIN/$name"
`;
const PYTHON = `#!/bin/sh
echo "python3 $2" >> "$CALLS"
mkdir -p "$3/bin"
printf '#!/bin/sh\\nprintf "#!/bin/sh\\\\n" > "$(dirname "$0")/moto_server"; chmod +x "$(dirname "$0")/moto_server"\\n' > "$3/bin/python"
chmod +x "$3/bin/python"
`;

describe('the bootstrap installs', () => {
  let folder: string;
  let cache: string;
  let calls: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'holdfast-unit-'));
    cache = join(folder, 'cache');
    calls = join(folder, 'calls');
    writeFileSync(calls, '');
    mkdirSync(join(folder, 'bin'));
    for (const [name, text] of [['go', GO], ['python3', PYTHON]] as const) {
      writeFileSync(join(folder, 'bin', name), text);
      chmodSync(join(folder, 'bin', name), 0o755);
    }
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  /** The demo refuses `--rows x` before it starts anything, so that only the preparation runs. */
  function start(more: Record<string, string> = {}): { child: ReturnType<typeof spawn>; exited: Promise<{ code: number | null; stderr: string }> } {
    const path = [join(folder, 'bin'), dirname(process.execPath), '/usr/bin', '/bin'].join(':');
    const child = spawn(process.execPath, [BOOTSTRAP, 'demo', '--rows', 'x'], { env: { PATH: path, HOME: folder, HOLDFAST_CACHE: cache, CALLS: calls, ...more }, stdio: ['ignore', 'ignore', 'pipe'] });
    let stderr = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    return { child, exited: once(child, 'close').then(([code]) => ({ code: code as number | null, stderr })) };
  }
  const called = (): string[] => readFileSync(calls, 'utf8').trim().split('\n').sort();
  const everything = [`go github.com/temporalio/cli/cmd/temporal@v${versions.temporal}`, `go github.com/versity/versitygw/cmd/versitygw@v${versions.versitygw}`, 'python3 venv'];

  it('each thing once, also when two start at the same time, and nothing on the next start', async () => {
    const ends = await Promise.all([start().exited, start().exited]);
    expect(ends.map(({ code }) => code)).toEqual([2, 2]);
    expect(called()).toEqual(everything);
    expect(readdirSync(cache).filter((entry) => entry.startsWith('.'))).toEqual([]);
    expect((await start().exited).stderr).not.toContain('Preparing');
    expect(called()).toEqual(everything);
  });

  it('again what a killed start left half done', async () => {
    const first = start({ HANG: '1' });
    await new Promise<void>((resolve) => {
      const watcher = watch(folder, { recursive: true }, () => {
        if (!existsSync(cache) || !readdirSync(cache).some((entry) => entry.startsWith('.installing-temporal') && existsSync(join(cache, entry, 'temporal')))) return;
        watcher.close();
        resolve();
      });
    });
    first.child.kill('SIGKILL');
    // Closed only when the installers that held its stderr are gone too.
    await first.exited;
    const second = await start().exited;
    expect(second.code).toBe(2);
    expect(second.stderr).toContain('Prepared in');
    expect(readdirSync(cache).filter((entry) => entry.startsWith('.'))).toEqual([]);
    expect(readFileSync(join(cache, `temporal-${versions.temporal}`, 'temporal'), 'utf8')).toContain('#!/bin/sh');
  });

  it('what only tests need, Patroni, etcd, Redis, pgBackRest and Java, or says how: where there is no apt-get it stops with the exact command and counts', async () => {
    symlinkSync(process.execPath, join(folder, 'bin', 'node'));
    // Nothing else is on this PATH, so that no test run can begin inside this one.
    const child = spawn(process.execPath, [BOOTSTRAP, 'test'], { env: { PATH: join(folder, 'bin'), HOME: folder, HOLDFAST_CACHE: cache, CALLS: calls }, stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, err] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text));
    expect((await once(child, 'close'))[0]).toBe(1);
    expect(err).toMatch(/^These Debian packages are missing: .*patroni etcd-server redis-server pgbackrest default-jdk-headless maven\. Run as root:\n {2}apt-get update && apt-get install -y --no-install-recommends .*patroni etcd-server redis-server pgbackrest default-jdk-headless maven\n.*systemctl disable --now patroni etcd redis-server\nthen start this again\.$/m);
    expect(out).toBe('0 passed, 1 failed\n');
    expect(called()).toEqual(['']);
  });

  it('servers of Java artifacts into folders of their own, anew when their pom changed, and none with a Java that is too old', async () => {
    const fake = (name: string, text: string): void => {
      writeFileSync(join(folder, 'bin', name), `#!/bin/sh\n${text}\n`);
      chmodSync(join(folder, 'bin', name), 0o755);
    };
    for (const name of ['patroni', 'etcd', 'redis-server', 'pgbackrest', 'aws', 'temporal', 'versitygw', 'toxiproxy-server']) fake(name, 'exit 0');
    fake('go', 'while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo "#!/bin/sh" > "$2"; chmod +x "$2"; fi; shift; done');
    fake('java', 'echo \'openjdk version "17.0.1"\' >&2');
    fake('javac', 'while [ "$1" != -d ]; do shift; done; mkdir -p "$2"; echo "javac" >> "$CALLS"');
    fake('mvn', 'for word in "$@"; do case "$word" in -DoutputDirectory=*) mkdir -p "${word#*=}"; echo "mvn $(basename "$(dirname "${word#*=}")" | sed "s/-[0-9]*$//")" >> "$CALLS";; esac; done');
    // Vitest refuses it at once: only the preparation is looked at.
    const prepare = async (): Promise<string> => {
      const path = [join(folder, 'bin'), dirname(process.execPath), '/usr/bin', '/bin'].join(':');
      const child = spawn(process.execPath, [BOOTSTRAP, 'test', '--no-such-option'], { env: { PATH: path, HOME: folder, HOLDFAST_CACHE: cache, CALLS: calls }, stdio: ['ignore', 'ignore', 'pipe'] });
      let stderr = '';
      child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
      await once(child, 'close');
      return stderr;
    };
    const maven = (): string[] => called().filter((call) => /^(mvn|javac)/.test(call));
    await prepare();
    const first = maven();
    expect(first).toEqual(expect.arrayContaining(['mvn .installing-opensearch', 'mvn .installing-kafka', 'javac']));
    expect(readFileSync(join(cache, `opensearch-${versions.opensearch}`, 'pom.xml'), 'utf8')).toContain(`<artifactId>transport-netty4-client</artifactId><version>${versions.opensearch}</version>`);
    expect(existsSync(join(cache, `opensearch-${versions.opensearch}`, 'classes'))).toBe(true);
    expect(existsSync(join(folder, '.m2'))).toBe(false);
    expect(await prepare()).not.toContain('Preparing');
    expect(maven()).toEqual(first);
    writeFileSync(join(cache, `kafka-${versions.kafka}`, 'pom.xml'), 'of an older checkout');
    await prepare();
    expect(maven()).toEqual([...first, 'mvn .installing-kafka'].sort());
    rmSync(join(cache, `kafka-${versions.kafka}`), { recursive: true });
    fake('java', 'echo \'openjdk version "11.0.2"\' >&2');
    expect(await prepare()).toMatch(/Kafka .* needs Java 17 or newer; .*java says:\nopenjdk version "11\.0\.2"/);
  });

  it('nothing half: what fails is named with its output, its log and what to do', async () => {
    writeFileSync(join(folder, 'bin', 'go'), '#!/bin/sh\necho "no such module" >&2\nexit 1\n');
    const { code, stderr } = await start().exited;
    expect(code).toBe(1);
    expect(stderr).toMatch(/Temporal server .* ended with exit code 1:\nno such module\nThe whole output is in .*temporal\.log\. Start this again/s);
    expect(existsSync(join(cache, `temporal-${versions.temporal}`))).toBe(false);
  });
});
