// The service worker of a node: answers the pages' Matrix requests from the engine, and hands over to newer versions of itself.

import { type Answer, type Booted, type News, type Question, channelName, isOurs, mark } from '../shared/protocol.ts';
import { matrixPath } from '../shared/matrix-url.ts';
import { answer } from './answer.ts';
import { answerOf } from './failed.ts';
import { sleep } from './host.ts';
import { cacheModule, dropOtherModules } from './module.ts';
import { Server } from './server.ts';

declare const self: ServiceWorkerGlobalScope;

/** While it waits to be activated, a new version asks this often that requests be let go. */
const askToHandOver = 2_000;
/** Pages fall silent for 300 ms when a hand-over is asked for; by then what they had under way has mostly ended. */
const untilSilence = 100;

const scope = self.registration.scope;
const channel = new BroadcastChannel(channelName(scope));
const tell = (news: News): void => { channel.postMessage(news); };
const server = new Server(scope, tell);

self.addEventListener('fetch', (event) => {
  const path = matrixPath(event.request.url, scope);
  if (path !== undefined) event.respondWith(answer(server, event.request, path));
});

self.addEventListener('install', (event) => {
  event.waitUntil(
    (async () => {
      await cacheModule(scope, (stage, loaded, total) => { tell({ [mark]: 1, news: 'progress', stage, loaded, total }); });
      void becomeActive();
    })(),
  );
});

self.addEventListener('activate', (event) => {
  tell({ [mark]: 1, news: 'activated', version: EPHAPSE_VERSION });
  event.waitUntil(Promise.all([self.clients.claim(), dropOtherModules(scope)]));
});

self.addEventListener('message', (event) => {
  if (!isOurs(event.data)) return;
  const question = event.data as Question;
  const sender = event.source instanceof Client ? event.source.id : undefined;
  const port = event.ports[0];
  event.waitUntil(
    (async () => {
      const reply: Answer = await answerOf(() => answerTo(question, sender));
      port?.postMessage(reply);
    })(),
  );
});

channel.addEventListener('message', ({ data }) => {
  if (!isOurs(data)) return;
  const news = data as News;
  // A broadcast never comes back to its sender, so these are another version's words.
  if (news.news === 'handover') server.handOver();
  if (news.news === 'activated') void server.stop();
});

self.addEventListener('error', ({ error }) => { server.trapped(error); });
self.addEventListener('unhandledrejection', ({ reason }) => { server.trapped(reason); });

async function answerTo(question: Question, sender: string | undefined): Promise<unknown> {
  switch (question.ask) {
    case 'boot': {
      const { serverName } = await server.running();
      return { serverName, version: EPHAPSE_VERSION } satisfies Booted;
    }
    case 'status':
      return server.status();
    case 'claim':
      return self.clients.claim();
    case 'stop': {
      const others = (await self.clients.matchAll({ type: 'window' })).filter(({ id }) => id !== sender);
      if (others.length === 0) await server.stop();
      return undefined;
    }
  }
}

/**
 * The browser activates this version in a moment in which the running one has nothing to do. Chromium looks for that moment only right after it was asked,
 * so it is asked again in each of the pages' silences.
 */
async function becomeActive(): Promise<void> {
  while (self.registration.active && self.serviceWorker.state !== 'activating' && self.serviceWorker.state !== 'activated') {
    tell({ [mark]: 1, news: 'handover', version: EPHAPSE_VERSION });
    await sleep(untilSilence);
    void self.skipWaiting();
    await sleep(askToHandOver);
  }
}
