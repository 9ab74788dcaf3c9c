// A scope's server on engines of JavaScript, with as much of a service worker around it as it
// needs.

import { Server } from '../../worker/service/server.ts';
import { engines, failures } from './glue.mjs';

export const scope = 'https://chat.example/app/';
const emptyModule = () => new Response(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]), { headers: { 'content-type': 'application/wasm' } });

/** A server, what it tells its pages, and the locks that are held. */
export function freshServer() {
  engines.length = 0;
  failures.length = 0;
  const locked = [];
  const news = [];
  globalThis.location = { href: `${scope}ephapse-worker.js` };
  globalThis.caches = { open: async () => ({ match: async () => emptyModule() }) };
  Object.defineProperty(globalThis, 'navigator', {
    configurable: true,
    value: { locks: { request: async (name, held) => { locked.push(name); await held(); locked.splice(locked.indexOf(name), 1); } }, storage: { estimate: async () => ({ usage: 1, quota: 2 }) } },
  });
  console.error = () => undefined;
  return { news, locked, server: new Server(scope, (item) => news.push(item)) };
}

/** The engine's nth instance, once it has been asked for so many things. */
export async function engine(index, calls) {
  while (!engines[index] || engines[index].calls.length < calls) await new Promise((resolve) => setTimeout(resolve, 1));
  return engines[index];
}
