// The part of the bench that runs in a page: the same work, through the page's own fetch and the service worker.

import { start } from 'ephapse';
import { channelName } from '../worker/shared/protocol.ts';
import { Client, coldStart, measure } from './work.mjs';

/** A worker lives that long before it is ended, as the shortest do in life; what it learns from its first reads is stored by then. */
const life = 3_000;
/** The browser has put it away by then. */
const rest = 500;

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** All the work, or one part of it, in a browser that is looked into. */
globalThis.bench = async ({ large, only }) => {
  const restart = only && (() => globalThis.stopWorker());
  return measure({ ...(await started(restart)), large }, globalThis.say, only);
};

/** The cold start alone, in one that is not: what it takes is told to the site. */
globalThis.coldStart = async () => {
  const restart = async () => {
    await sleep(life);
    await fetch('/stop-worker', { method: 'POST' });
    await sleep(rest);
  };
  Client.started = Date.now();
  const measured = async () => {
    const target = await started(restart);
    return coldStart(target, target.connect);
  };
  const figures = await measured().catch((error) => ({ failed: String(error) }));
  await fetch('/figures', { method: 'POST', body: JSON.stringify(figures) });
};

/** The server in this page's service worker, as something to measure; `restart` ends the worker. */
async function started(restart) {
  const server = await start();
  // How far a start has come, as the worker tells it to all pages.
  const heard = [];
  const channel = new BroadcastChannel(channelName(`${server.baseUrl}/`));
  channel.onmessage = ({ data: { news, stage, loaded } }) => {
    if (news === 'progress' && loaded === 0) heard.push([stage, performance.now()]);
  };
  const connect = () => ({
    send: async (method, path, token, body) => {
      const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(body && { 'content-type': 'application/json' }) };
      const response = await fetch(server.baseUrl + path, { method, headers, body: body && JSON.stringify(body) });
      return { status: response.status, body: await response.text() };
    },
  });
  return {
    connect,
    member: (connection, name) => Client.register(connection, name),
    memory: async () => (await server.status()).memoryBytes / 1e6,
    bytesWritten: async () => (await server.status()).bytesWritten,
    restart: restart && (async () => {
      await restart();
      heard.length = 0;
      return { connection: connect(), started: performance.now(), stages: () => heard };
    }),
  };
}
