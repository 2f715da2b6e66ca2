import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** One message as a Slack-compatible webhook gets it. */
export interface WebhookMessage {
  readonly receivedAtMs: number;
  readonly body: { readonly text?: string } & Readonly<Record<string, unknown>>;
}

export interface Webhook {
  readonly url: string;
  readonly messages: readonly WebhookMessage[];
  /** The first message, old or new, for which `matches` holds. */
  waitFor(matches: (message: WebhookMessage) => boolean): Promise<WebhookMessage>;
  /** What it answers from now on; 200 at first. */
  answerWith(status: number): void;
  close(): Promise<void>;
}

/** A receiver of Slack-compatible messages on 127.0.0.1. Its address carries a token, as a real one does. */
export async function startWebhook(): Promise<Webhook> {
  const messages: WebhookMessage[] = [];
  const waiting = new Set<() => void>();
  let status = 200;
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      let body: unknown;
      try {
        body = JSON.parse(Buffer.concat(chunks).toString('utf8'));
      } catch {
        body = undefined;
      }
      if (request.method !== 'POST' || typeof body !== 'object' || body === null) {
        response.writeHead(400).end('invalid_payload');
        return;
      }
      if (status === 200) {
        messages.push({ receivedAtMs: Date.now(), body: body as WebhookMessage['body'] });
        for (const check of waiting) check();
      }
      response.writeHead(status, { 'content-type': 'text/plain' }).end(status === 200 ? 'ok' : 'failed');
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  server.unref();
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/services/local/receiver-token`,
    messages,
    waitFor(matches) {
      return new Promise((resolve) => {
        const check = (): void => {
          const found = messages.find(matches);
          if (found === undefined) return;
          waiting.delete(check);
          resolve(found);
        };
        waiting.add(check);
        check();
      });
    },
    answerWith(next) {
      status = next;
    },
    close: () =>
      new Promise((resolve, reject) => {
        server.closeAllConnections();
        server.close((error) => (error === undefined ? resolve() : reject(error)));
      }),
  };
}
