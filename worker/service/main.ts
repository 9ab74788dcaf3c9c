// The service worker of a node: answers the pages' Matrix requests from the engine, and hands over
// to newer versions of itself.

import { type Answer, type Booted, type Broadcast, type Question, channelName, isOurs, mark } from '../shared/protocol.ts';
import { matrixPath } from '../shared/matrix-url.ts';
import { answer } from './answer.ts';
import { answerOf, failureOf } from './failed.ts';
import { sleep } from './host.ts';
import { cacheModule, dropOtherModules, moduleUrl, server as serverModule } from './module.ts';
import { Server } from './server.ts';

declare const self: ServiceWorkerGlobalScope;

/**
 * How long a new version waits for the running one to fall quiet; one that is too old for that
 * never says so.
 */
const quietTimeout = 1_500;
/** How long the browser may take for the switch. */
const activationTimeout = 3_000;

const scope = self.registration.scope;
const channel = new BroadcastChannel(channelName(scope));
const tell = (news: Broadcast): void => { channel.postMessage(news); };
const server = new Server(scope, tell);

self.addEventListener('fetch', (event) => {
  const path = matrixPath(event.request.url, scope);
  if (path !== undefined) event.respondWith(server.responses.pass(answer(server, event.request, path, isOwnPage(event))));
});

self.addEventListener('install', (event) => {
  event.waitUntil(
    (async () => {
      await cacheModule(scope, (stage, loaded, total) => { tell({ [mark]: 1, news: 'progress', stage, loaded, total }); }).catch(tellFailure);
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
  const news = data as Broadcast;
  // A broadcast never comes back to its sender, so these are another version's words. One that
  // waits itself has nothing to hand over, and must not say for the running one that all is quiet.
  if (news.news === 'handover' && !isWaiting()) server.handOver();
  if (news.news === 'activated') void server.stop();
});

if (self.registration.active && stateOf() === 'activated') server.prepare();

self.addEventListener('error', ({ error }) => { server.trapped(error); });
self.addEventListener('unhandledrejection', ({ reason }) => { server.trapped(reason); });

/**
 * Whether a page, or a worker of one, asks that this worker controls: so its origin is ours. What a
 * browser is to show as a page is asked for by nobody.
 */
function isOwnPage({ clientId, request }: FetchEvent): boolean {
  return clientId !== '' && request.mode !== 'navigate';
}

/** The browser tells a page that the installation failed, and not why. */
function tellFailure(error: unknown): never {
  tell({ [mark]: 1, news: 'failed', failure: failureOf(error) });
  throw error;
}

async function answerTo(question: Question, sender: string | undefined): Promise<unknown> {
  switch (question.ask) {
    case 'hello':
      return undefined;
    case 'boot': {
      await activated();
      const instance = await server.running();
      const { serverName } = instance;
      // Where it cannot be stored, as on a full disk, it holds until the worker ends.
      if (question.maxUpload !== undefined) await instance.setMaxUpload(question.maxUpload ?? undefined).catch(() => undefined);
      return { serverName, version: EPHAPSE_VERSION, module: moduleUrl(serverModule) } satisfies Booted;
    }
    case 'status':
      await activated();
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
 * Of this version; a browser that does not tell it leaves every version to take itself for the
 * active one.
 */
function stateOf(): ServiceWorkerState {
  return (self.serviceWorker as ServiceWorker | undefined)?.state ?? 'activated';
}

function isWaiting(): boolean {
  return stateOf() === 'installing' || stateOf() === 'installed';
}

/** Ends when this version is active: until then the database is another one's. */
async function activated(): Promise<void> {
  while (isWaiting() || stateOf() === 'activating') {
    await new Promise((changed) => { self.serviceWorker.addEventListener('statechange', changed, { once: true }); });
  }
}

/**
 * The browser activates this version when the running one has nothing to do and stays so until it
 * has ended. Chromium tries that once for each new version, when it is asked; a request that comes
 * while the old worker ends starts that one again, and the new version waits in vain. So the
 * question comes in a silence, and where it was in vain the pages register the script once more, as
 * another new version.
 */
async function becomeActive(): Promise<void> {
  if (!self.registration.active) return;
  const quiet = broadcastReceived('quiet', quietTimeout);
  tell({ [mark]: 1, news: 'handover', version: EPHAPSE_VERSION });
  await quiet;
  void self.skipWaiting();
  await sleep(activationTimeout);
  if (stateOf() === 'installed') tell({ [mark]: 1, news: 'parked', script: self.serviceWorker.scriptURL });
}

/** Ends when another version says so, or after `timeout` milliseconds. */
function broadcastReceived(news: Broadcast['news'], timeout: number): Promise<void> {
  return new Promise((resolve) => {
    const listen = ({ data }: MessageEvent): void => {
      if (isOurs(data) && (data as Broadcast).news === news) end();
    };
    const end = (): void => {
      clearTimeout(late);
      channel.removeEventListener('message', listen);
      resolve();
    };
    const late = setTimeout(end, timeout);
    channel.addEventListener('message', listen);
  });
}
