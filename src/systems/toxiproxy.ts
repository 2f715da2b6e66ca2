/** The HTTP interface of Toxiproxy, as far as a drill needs it. Source: its README, HTTP API. */
import { HoldfastError, messageOf } from '../model/errors.ts';

export interface LinkState {
  readonly enabled: boolean;
  readonly toxics: readonly string[];
}

const LIMIT_MS = 5000;

export interface Link {
  look(): Promise<LinkState>;
  setEnabled(enabled: boolean): Promise<void>;
  addLatency(name: string, ms: number): Promise<void>;
  removeToxic(name: string): Promise<void>;
}

export function linkAt(place: { api: string; proxy: string }, signal: AbortSignal): Link {
  const base = `${place.api.replace(/\/$/, '')}/proxies/${encodeURIComponent(place.proxy)}`;
  async function call(method: string, path: string, body?: object, missing = false): Promise<unknown> {
    let answer: Response;
    try {
      answer = await fetch(`${base}${path}`, {
        method,
        // It refuses anything that looks like a browser.
        headers: { 'user-agent': 'holdfast', ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: AbortSignal.any([signal, AbortSignal.timeout(LIMIT_MS)]),
      });
    } catch (error) {
      throw new HoldfastError('toxiproxy-silent', `Toxiproxy at ${place.api} did not answer: ${messageOf(error)}`, { next: "check the link's api and that it runs", retryable: true, cause: error });
    }
    const text = await answer.text();
    if (answer.ok) return text === '' ? undefined : JSON.parse(text);
    if (answer.status === 404 && missing) return undefined;
    throw new HoldfastError('toxiproxy', `Toxiproxy at ${place.api} answered ${method} of proxy ${place.proxy}${path} with ${answer.status}: ${text.slice(0, 300)}`, { next: answer.status === 404 ? "check the link's proxy: it has none of this name" : 'see its answer', retryable: answer.status >= 500 });
  }
  return {
    async look() {
      const proxy = (await call('GET', '')) as { enabled: boolean; toxics?: readonly { name: string }[] };
      return { enabled: proxy.enabled, toxics: (proxy.toxics ?? []).map(({ name }) => name) };
    },
    setEnabled: async (enabled) => void (await call('POST', '', { enabled })),
    async addLatency(name, ms) {
      for (const stream of ['upstream', 'downstream'] as const) {
        const own = `${name}-${stream}`;
        await call('DELETE', `/toxics/${encodeURIComponent(own)}`, undefined, true);
        await call('POST', '/toxics', { name: own, type: 'latency', stream, toxicity: 1, attributes: { latency: ms } });
      }
    },
    async removeToxic(name) {
      for (const stream of ['upstream', 'downstream']) await call('DELETE', `/toxics/${encodeURIComponent(`${name}-${stream}`)}`, undefined, true);
    },
  };
}
