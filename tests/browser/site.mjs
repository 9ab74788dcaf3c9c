// A site with nothing but the package on it, and a page's few words with its server.

import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';

/** Serves the built package, with an empty page at `/`. */
export function packageSite(override = () => undefined, port = 0) {
  return serve(path('dist'), {
    port,
    override: async (pathname, request) => (await override(pathname, request)) ?? (pathname === '/' ? { body: '<!doctype html><title>a page</title>', type: 'text/html' } : undefined),
  });
}

/** Opens a page of the site with the server started and two functions: `api` for a request, `until` to wait. */
export async function openPage(context, url) {
  const page = await context.newPage();
  await page.goto(`${url}/`);
  await page.evaluate(async () => {
    const { start } = await import('/index.js');
    globalThis.server = await start();
    globalThis.news = [];
    for (const event of ['update', 'restart', 'error']) globalThis.server.on(event, (detail) => globalThis.news.push({ event, ...detail }));
    globalThis.api = async (method, endpoint, body) => {
      const headers = globalThis.token ? { authorization: `Bearer ${globalThis.token}` } : {};
      const response = await globalThis.server.fetch(`${globalThis.server.baseUrl}/_matrix/client/v3/${endpoint}`, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) });
      const answer = await response.json();
      if (!response.ok) throw new Error(`${method} ${endpoint}: ${response.status} ${JSON.stringify(answer)}`);
      return answer;
    };
  });
  return page;
}

/** Registers in the page, which uses the token from then on; gives the session. */
export function register(page, username) {
  return page.evaluate(async (name) => {
    const session = await globalThis.api('POST', 'register', { username: name, password: 'a long enough password', auth: { type: 'm.login.dummy' } });
    globalThis.token = session.access_token;
    return session;
  }, username);
}

/** Every message of a room as its page reads it, oldest first: event id, body, transaction id. */
export function messages(page, roomId) {
  return page.evaluate(async (room) => {
    const all = [];
    for (let from = ''; ; ) {
      const { chunk, end } = await globalThis.api('GET', `rooms/${encodeURIComponent(room)}/messages?dir=f&limit=100${from && `&from=${from}`}`);
      all.push(...chunk.filter(({ type }) => type === 'm.room.message').map(({ event_id: id, content, unsigned }) => ({ id, body: content.body, transaction: unsigned?.transaction_id })));
      if (!end) return all;
      from = end;
    }
  }, roomId);
}

/** Numbers from 0 to 1 that follow from a seed (mulberry32). */
export function dice(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
