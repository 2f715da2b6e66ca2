import { createServer, request, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface AwsRequest {
  readonly method: string;
  readonly path: string;
  /** Of the JSON protocols: `Service.Action`. */
  readonly target: string;
  readonly region: string;
  readonly body: string;
}

/** What becomes of a request: nothing special, an answer of the test's own, or an answer that never arrives although it took effect. */
export type Rule = (call: AwsRequest) => Promise<Verdict> | Verdict;
/** `half`: half of the answer, then the connection is cut. `torn`: half of it, ended as if it were all. `silent`: none, ever. */
export type Verdict = undefined | { readonly cut: true } | { readonly half: true } | { readonly torn: true } | { readonly silent: true } | { readonly answer: { readonly status: number; readonly headers?: Readonly<Record<string, string>>; readonly body: string } } | { readonly rewrite: (body: string) => string };

export interface AwsProxy {
  readonly url: string;
  readonly seen: AwsRequest[];
  /** The newest rule is asked first; the first that says something decides. */
  rule(rule: Rule): void;
  clear(): void;
  close(): Promise<void>;
}

/** Stands before the emulator: second operators, throttling and lost answers come from here, everything else from the real one. */
export async function awsProxy(upstream: string | null): Promise<AwsProxy> {
  const rules: Rule[] = [];
  const seen: AwsRequest[] = [];
  const server: Server = createServer((incoming, outgoing) => {
    void (async () => {
      const body = await text(incoming);
      const call: AwsRequest = {
        method: incoming.method!,
        path: incoming.url!,
        target: String(incoming.headers['x-amz-target'] ?? ''),
        region: /Credential=[^/]+\/\d+\/([^/]+)\//.exec(String(incoming.headers['authorization'] ?? ''))?.[1] ?? '',
        body,
      };
      seen.push(call);
      let verdict: Verdict;
      for (const rule of rules.slice()) {
        verdict = await rule(call);
        if (verdict !== undefined) break;
      }
      if (verdict !== undefined && 'answer' in verdict) {
        outgoing.writeHead(verdict.answer.status, verdict.answer.headers).end(verdict.answer.body);
        return;
      }
      if (verdict !== undefined && 'silent' in verdict) return;
      if (upstream === null) {
        outgoing.writeHead(501).end('nothing stands behind this');
        return;
      }
      const { status, headers, answer } = await forward(upstream, incoming, body);
      if (verdict !== undefined && 'cut' in verdict) {
        incoming.socket.destroy();
        return;
      }
      if (verdict !== undefined && ('half' in verdict || 'torn' in verdict)) {
        const half = answer.subarray(0, Math.floor(answer.length / 2));
        if ('torn' in verdict) outgoing.writeHead(status, { ...headers, 'content-length': String(half.length) }).end(half);
        else outgoing.writeHead(status, { ...headers, 'content-length': String(answer.length) }).write(half, () => setTimeout(() => incoming.socket.destroy(), 10));
        return;
      }
      const changed = verdict !== undefined && 'rewrite' in verdict ? Buffer.from(verdict.rewrite(answer.toString('utf8'))) : answer;
      outgoing.writeHead(status, { ...headers, 'content-length': String(changed.length) }).end(changed);
    })().catch(() => incoming.socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    rule: (rule) => rules.unshift(rule),
    clear() {
      rules.length = 0;
      seen.length = 0;
    },
    close: () => new Promise((resolve) => {
      server.closeAllConnections();
      server.close(() => resolve());
    }),
  };
}

async function text(stream: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part as Buffer);
  return Buffer.concat(parts).toString('utf8');
}

function forward(upstream: string, incoming: IncomingMessage, body: string): Promise<{ status: number; headers: Record<string, string | string[]>; answer: Buffer }> {
  return new Promise((resolve, reject) => {
    const { 'transfer-encoding': _chunked, ...headers } = incoming.headers;
    const sent = request(`${upstream}${incoming.url}`, { method: incoming.method!, headers: { ...headers, 'content-length': String(Buffer.byteLength(body)) } }, (reply) => {
      const parts: Buffer[] = [];
      reply.on('data', (part: Buffer) => parts.push(part));
      reply.on('end', () => {
        const { 'transfer-encoding': _ignored, 'content-length': _length, ...rest } = reply.headers;
        resolve({ status: reply.statusCode!, headers: rest as Record<string, string | string[]>, answer: Buffer.concat(parts) });
      });
      reply.on('error', reject);
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

/** As the services answer when too much is asked of them. */
export const THROTTLED_XML = { status: 400, headers: { 'content-type': 'text/xml' }, body: '<?xml version="1.0"?><ErrorResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error><RequestId>test</RequestId></ErrorResponse>' };
export const THROTTLED_JSON = { status: 400, headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amzn-errortype': 'ThrottlingException' }, body: '{"__type":"ThrottlingException","message":"Rate exceeded"}' };

/** An error of the REST-XML services by its name. */
export function xmlError(status: number, code: string, message: string): Verdict {
  return { answer: { status, headers: { 'content-type': 'text/xml' }, body: `<?xml version="1.0"?><ErrorResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Error><Type>Sender</Type><Code>${code}</Code><Message>${message}</Message></Error><RequestId>test</RequestId></ErrorResponse>` } };
}
