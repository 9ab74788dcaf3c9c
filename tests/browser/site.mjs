// A site with nothing but the package on it, and a page's few words with its server.

import { readFile } from 'node:fs/promises';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';

/** Ends after so many milliseconds. */
export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/**
 * Serves the built package and an empty page. `worker(script)` may change the worker's script;
 * `answer(pathname, request)` may answer what is asked for besides. The site goes when the test `t`
 * ends.
 */
export async function packageSite(t, { worker = (script) => script, answer = () => undefined } = {}) {
  const script = await readFile(path('dist', 'ephapse-worker.js'), 'utf8');
  const site = await serve(path('dist'), {
    override: async (pathname, request) => {
      if (pathname === '/') return { body: '<!doctype html><title>a page</title>', type: 'text/html' };
      if (pathname === '/ephapse-worker.js') return { body: await worker(script), type: 'text/javascript' };
      return answer(pathname, request);
    },
  });
  t.after(() => site.close());
  return site;
}

/** A page of the site in which the server was started. */
export async function openPage(context, site) {
  const page = await context.newPage();
  await page.goto(`${site.url}/`);
  await page.evaluate(async () => {
    const { start } = await import('/index.js');
    globalThis.server = await start();
    globalThis.news = [];
    for (const event of ['update', 'restart', 'error']) globalThis.server.on(event, (detail) => globalThis.news.push({ event, ...detail }));
  });
  return page;
}

/**
 * One request of the Client-Server API, from the page; resolves to `{ status, body, headers }`.
 * With `global` it goes through the page's own `fetch`, as of clients that were not given the
 * package's.
 */
export function ask(page, token, method, endpoint, content, { global = false } = {}) {
  return page.evaluate(async (given) => {
    const fetch = given.global ? globalThis.fetch : globalThis.server.fetch;
    const headers = given.token ? { authorization: `Bearer ${given.token}` } : {};
    const response = await fetch(`/_matrix/client/v3${given.endpoint}`, { method: given.method, headers, body: given.content && JSON.stringify(given.content) });
    return { status: response.status, body: await response.json(), headers: Object.fromEntries(response.headers) };
  }, { token, method, endpoint, content, global });
}

/** As `ask`, for what has to succeed; resolves to the answer's body. */
export async function ok(page, token, method, endpoint, content, options) {
  const { status, body } = await ask(page, token, method, endpoint, content, options);
  if (status !== 200) throw new Error(`${method} ${endpoint} answered ${status}: ${JSON.stringify(body)}`);
  return body;
}

/** A new account; resolves to `{ user_id, access_token, device_id }`. */
export function register(page, username) {
  return ok(page, undefined, 'POST', '/register', { username, password: 'a long enough password', auth: { type: 'm.login.dummy' } });
}

/** The message events of a room, oldest first. */
export async function messagesOf(page, token, room) {
  const events = [];
  for (let from = ''; ;) {
    const { chunk, end } = await ok(page, token, 'GET', `/rooms/${encodeURIComponent(room)}/messages?dir=f&limit=500${from && `&from=${from}`}`);
    events.push(...chunk.filter(({ type }) => type === 'm.room.message'));
    if (!end || chunk.length === 0) return events;
    from = end;
  }
}
