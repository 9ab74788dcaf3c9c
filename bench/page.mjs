// The part of the bench that runs in a page: the same work, through the page's own fetch and the service worker.

import { start } from 'ephapse';
import { channelName } from '../worker/shared/protocol.ts';
import { Client, measure } from './work.mjs';

/** Starts the server and leaves `bench` in the page's global scope. */
globalThis.bench = async ({ large, only }) => {
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
  const target = {
    large,
    connect,
    member: (connection, name) => Client.register(connection, name),
    memory: async () => (await server.status()).memoryBytes / 1e6,
    bytesWritten: async () => (await server.status()).bytesWritten,
    restart: async () => {
      await globalThis.stopWorker();
      heard.length = 0;
      return { connection: connect(), started: performance.now(), stages: () => heard };
    },
  };
  return measure(target, globalThis.say, only);
};
