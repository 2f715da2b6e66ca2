import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterEach, describe, expect, test } from 'vitest';
import { createNotifyActivities } from '../../activities/notify.ts';
import type { Notice } from '../../src/model/api.ts';
import { registerSecret } from '../../src/systems/log.ts';
import { sendNotice } from '../../src/systems/notify.ts';
import { testConfig } from '../support.ts';

interface Receiver {
  readonly url: string;
  readonly bodies: string[];
  close(): Promise<void>;
}

const receivers: Receiver[] = [];
afterEach(async () => {
  await Promise.all(receivers.splice(0).map((receiver) => receiver.close()));
});

/** A real HTTP server that takes webhooks the way Slack does: JSON in, `ok` out. */
async function receiver(answer: (request: IncomingMessage, response: ServerResponse, count: number) => void = (_, response) => void response.end('ok')): Promise<Receiver> {
  const bodies: string[] = [];
  const server: Server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => (body += text));
    request.on('end', () => {
      bodies.push(body);
      answer(request, response, bodies.length);
    });
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const made: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/services/T000/B000/s3cr3t-webhook-token`,
    bodies,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
  receivers.push(made);
  return made;
}

const NOTICE: Notice = { level: 'failure', title: 'backup of shop failed', text: 'pg_dump ended with 1 <no space>', fields: { datastore: 'shop', workflow: 'backup/shop/2026' } };

describe('notify', () => {
  test('a Slack-compatible receiver gets title, text and fields; others by level only', async () => {
    const [all, onlySuccess] = [await receiver(), await receiver()];
    Object.assign(process.env, { HOLDFAST_TEST_HOOK_ALL: all.url, HOLDFAST_TEST_HOOK_SUCCESS: onlySuccess.url });
    const context = await testConfig({ notify: { all: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_ALL' }, good: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_SUCCESS', on: ['success'] } } });
    const { notify } = createNotifyActivities(context);
    expect(await new MockActivityEnvironment().run(notify, NOTICE)).toEqual({ sent: ['all'], failed: [] });
    expect(onlySuccess.bodies).toEqual([]);
    const message = JSON.parse(all.bodies[0]!) as { text: string; attachments: { color: string; blocks: { type: string; text?: { text: string }; fields?: { text: string }[] }[] }[] };
    expect(message.text).toBe('[FAILED] backup of shop failed');
    expect(message.attachments[0]!.blocks[0]!.text!.text).toContain('pg_dump ended with 1 &lt;no space&gt;');
    expect(message.attachments[0]!.blocks[1]!.fields!.map(({ text }) => text)).toEqual(['*datastore*\nshop', '*workflow*\nbackup/shop/2026']);
    expect(await new MockActivityEnvironment().run(notify, { ...NOTICE, level: 'success' as const })).toEqual({ sent: ['all', 'good'], failed: [] });
  });

  test('a secret in the text does not leave', async () => {
    const hook = await receiver();
    process.env['HOLDFAST_TEST_HOOK'] = hook.url;
    registerSecret('hunter2-hunter2');
    const context = await testConfig({ notify: { ops: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK' } } });
    await sendNotice(context.config.notify, context.secrets, context.log, { ...NOTICE, title: 'hunter2-hunter2', text: 'postgresql://u:hunter2-hunter2@db/x', fields: { password: 'hunter2-hunter2' } });
    expect(hook.bodies).toHaveLength(1);
    expect(hook.bodies[0]).not.toContain('hunter2');
  });

  test('500 is tried again and then taken; 404 is not tried again', async () => {
    const recovering = await receiver((_, response, count) => {
      response.statusCode = count < 3 ? 500 : 200;
      response.end(count < 3 ? 'rollup_error' : 'ok');
    });
    const gone = await receiver((_, response) => {
      response.statusCode = 404;
      response.end('no_service');
    });
    Object.assign(process.env, { HOLDFAST_TEST_HOOK_A: recovering.url, HOLDFAST_TEST_HOOK_B: gone.url });
    const context = await testConfig({ notify: { a: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_A' }, b: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_B' } } });
    const result = await sendNotice(context.config.notify, context.secrets, context.log, NOTICE, { pauseMs: 1 });
    expect(result).toEqual({ sent: ['a'], failed: ['b: it answered 404 no_service (1 attempt)'] });
    expect(recovering.bodies).toHaveLength(3);
    expect(gone.bodies).toHaveLength(1);
  });

  test('down, silent, always failing, redirecting or without its secret: reported, never thrown, the address not told', async () => {
    const silent = await receiver(() => {});
    const failing = await receiver((_, response) => {
      response.statusCode = 500;
      response.end();
    });
    const redirecting = await receiver((_, response) => {
      response.writeHead(302, { location: silent.url });
      response.end();
    });
    const closed = await receiver();
    await closed.close();
    Object.assign(process.env, { HOLDFAST_TEST_HOOK_1: closed.url, HOLDFAST_TEST_HOOK_2: silent.url, HOLDFAST_TEST_HOOK_3: failing.url, HOLDFAST_TEST_HOOK_4: redirecting.url });
    const context = await testConfig({
      notify: {
        down: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_1' },
        silent: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_2' },
        failing: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_3' },
        redirecting: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_4' },
        unset: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_UNSET' },
      },
    });
    const result = await sendNotice(context.config.notify, context.secrets, context.log, NOTICE, { pauseMs: 1, timeoutMs: 200, attempts: 2 });
    expect(result.sent).toEqual([]);
    expect(result.failed.join('\n')).toMatch(/^down: ECONNREFUSED \(2 attempts\)\nfailing: it answered 500 \(2 attempts\)\nredirecting: .*\(2 attempts\)\nsilent: no answer in time \(2 attempts\)\nunset: environment variable HOLDFAST_TEST_HOOK_UNSET is not set/);
    expect(JSON.stringify(result)).not.toContain('s3cr3t');
    expect(silent.bodies).toHaveLength(2);
    expect(failing.bodies).toHaveLength(2);
  });
});
