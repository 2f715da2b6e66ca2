import type { Notice } from '../model/api.ts';
import type { Config } from '../model/config-schema.ts';
import { messageOf } from '../model/errors.ts';
import { redact, type Logger } from './log.ts';
import type { SecretResolver } from './secrets.ts';

export interface NotifyResult {
  /** Names of the receivers that took it. */
  readonly sent: string[];
  /** `name: what went wrong`; never the address, which is a secret. */
  readonly failed: string[];
}

export interface NotifyOptions {
  /** For one answer; default 5000 ms. */
  readonly timeoutMs?: number;
  /** Default 3. */
  readonly attempts?: number;
  /** Before the second attempt, doubled before each further one; default 250 ms. */
  readonly pauseMs?: number;
}

const COLOURS: Readonly<Record<Notice['level'], string>> = { success: '#2e7d32', failure: '#c62828', attention: '#ef6c00' };
const MARKS: Readonly<Record<Notice['level'], string>> = { success: 'OK', failure: 'FAILED', attention: 'ATTENTION' };
/** Slack refuses section texts over 3000 and field texts over 2000 characters, and more than 10 fields. */
const TEXT_LIMIT = 2900;
const FIELD_LIMIT = 1900;
const FIELDS_PER_SECTION = 10;

/**
 * Tell every receiver whose `on` has the notice's level. A receiver that is down, slow or answers an error is
 * logged and reported in the result: a recovery never stops because a chat is down.
 */
export async function sendNotice(
  notify: Config['notify'],
  secrets: SecretResolver,
  log: Logger,
  notice: Notice,
  options: NotifyOptions = {},
): Promise<NotifyResult> {
  const body = JSON.stringify(slackMessage(notice));
  const sent: string[] = [];
  const failed: string[] = [];
  const receivers = Object.entries(notify).filter(([, receiver]) => receiver.on.includes(notice.level));
  await Promise.all(
    receivers.map(async ([name, receiver]) => {
      try {
        await post(await secrets.resolve(receiver.url), body, options);
        sent.push(name);
      } catch (error) {
        const why = redact(messageOf(error));
        failed.push(`${name}: ${why}`);
        log.warn({ receiver: name, title: notice.title, why }, 'a notification was not delivered');
      }
    }),
  );
  return { sent: sent.sort(), failed: failed.sort() };
}

/** The message of a Slack-compatible incoming webhook, every text with secrets masked. */
export function slackMessage(notice: Notice): Record<string, unknown> {
  const title = escape(notice.title);
  const headline = `[${MARKS[notice.level]}] ${title}`;
  const fields = Object.entries(notice.fields).map(([key, value]) => ({
    type: 'mrkdwn',
    text: clip(`*${escape(key)}*\n${escape(value)}`, FIELD_LIMIT),
  }));
  const sections = [{ type: 'section', text: { type: 'mrkdwn', text: clip(`*${headline}*\n${escape(notice.text)}`, TEXT_LIMIT) } } as Record<string, unknown>];
  for (let start = 0; start < fields.length; start += FIELDS_PER_SECTION) {
    sections.push({ type: 'section', fields: fields.slice(start, start + FIELDS_PER_SECTION) });
  }
  // `text` is what clients without blocks and push notifications show.
  return { text: clip(headline, TEXT_LIMIT), attachments: [{ color: COLOURS[notice.level], blocks: sections }] };
}

async function post(url: string, body: string, options: NotifyOptions): Promise<void> {
  const attempts = options.attempts ?? 3;
  const pauseMs = options.pauseMs ?? 250;
  for (let attempt = 1; ; attempt += 1) {
    try {
      const answer = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
        // A redirect would carry the message to a place nobody configured.
        redirect: 'error',
        signal: AbortSignal.timeout(options.timeoutMs ?? 5000),
      });
      const said = await answer.text();
      if (answer.ok) return;
      throw new Refused(answer.status, said.slice(0, 200));
    } catch (error) {
      const again = !(error instanceof Refused) || error.status >= 500 || error.status === 429;
      if (!again || attempt >= attempts) throw reason(error, attempt);
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs * 2 ** (attempt - 1)));
  }
}

class Refused extends Error {
  readonly status: number;

  constructor(status: number, said: string) {
    super(`it answered ${status}${said === '' ? '' : ` ${said}`}`);
    this.status = status;
  }
}

/** `fetch` hides what happened in `cause`, and some of its messages repeat the address. */
function reason(error: unknown, attempts: number): Error {
  const cause = (error as { cause?: { code?: string } }).cause?.code;
  const name = error instanceof Error && error.name === 'TimeoutError' ? 'no answer in time' : undefined;
  const text = error instanceof Refused ? error.message : (name ?? cause ?? (error instanceof Error ? error.name : 'unknown error'));
  return new Error(`${text} (${attempts} attempt${attempts === 1 ? '' : 's'})`);
}

function escape(text: string): string {
  return redact(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function clip(text: string, limit: number): string {
  return text.length <= limit ? text : `${text.slice(0, limit - 1)}…`;
}
