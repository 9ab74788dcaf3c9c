// The part of the bench that runs in a page: the same work, through the page's own fetch and the
// service worker.

import { start } from 'ephapse';
import { channelName } from '../worker/shared/protocol.ts';
import { Client, measure } from './work.mjs';

/**
 * A worker lives that long before it is ended, as the shortest do in life; what it learns from its
 * first reads is stored by then.
 */
const life = 3_000;
/** The browser has put it away by then. */
const rest = 500;

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Tells the site something; done when the site has done what it does with it. */
const tell = (what, value = null) => fetch(`/tell/${what}`, { method: 'POST', body: JSON.stringify(value) });

/**
 * All the work, or one part of it. Where it is looked at, only this server's worker is there to be
 * seen.
 */
async function work({ large, only, looked }) {
  return measure({ ...(await started()), large, alone: looked ? undefined : alone }, (part) => tell('part', part), only);
}

const figures = await work(JSON.parse(decodeURIComponent(location.search.slice(1)))).catch((error) => ({ failed: String(error) }));
await tell('figures', figures);

/**
 * What the browser alone takes (alone.js): `{ answer, write, end }`; the first two each make one
 * request.
 */
async function alone() {
  const registration = await navigator.serviceWorker.register('/alone/worker.js', { scope: '/alone/' });
  while (registration.active?.state !== 'activated') await sleep(10);
  const frame = document.createElement('iframe');
  frame.src = '/alone/';
  const loaded = new Promise((resolve) => { frame.onload = resolve; });
  document.body.append(frame);
  await loaded;
  const ask = async (path, options) => (await frame.contentWindow.fetch(path, options)).text();
  return {
    answer: () => ask('/alone/answer'),
    write: () => ask('/alone/write', { method: 'PUT', headers: { 'content-type': 'application/json' }, body: '{"msgtype":"m.text","body":"Hello"}' }),
    end: async () => {
      frame.remove();
      await registration.unregister();
    },
  };
}

/** The server in this page's service worker, as something to measure. */
async function started() {
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
    restart: async () => {
      await sleep(life);
      await tell('stop');
      await sleep(rest);
      heard.length = 0;
      return { connection: connect(), started: performance.now(), stages: () => heard };
    },
  };
}
