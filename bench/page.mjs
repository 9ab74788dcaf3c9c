// The part of the bench that runs in a page: the same work, through the page's own fetch and the service worker.

import { start } from 'ephapse';
import { Client, measure } from './work.mjs';

/** Starts the server and leaves `bench` in the page's global scope. */
globalThis.bench = async ({ large }) => {
  const server = await start();
  const connect = () => ({
    send: async (method, path, token, body) => {
      const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(body && { 'content-type': 'application/json' }) };
      const response = await fetch(server.baseUrl + path, { method, headers, body: body && JSON.stringify(body) });
      return { status: response.status, body: await response.text() };
    },
  });
  const target = {
    large,
    connect,
    member: (connection, name) => Client.register(connection, name),
    memory: async () => (await server.status()).memoryBytes / 2 ** 20,
    restart: async () => {
      await globalThis.stopWorker();
      return { connection: connect(), started: performance.now() };
    },
  };
  return measure(target, globalThis.say);
};
