// The page's side of the package: `start()` makes a homeserver run in the site's service worker and
// says where it answers.

import { type Booted, type Broadcast, channelName, isOurs } from '../shared/protocol.ts';
import { EphapseError, type Events, type Server, type StartOptions, type Status } from './api.ts';
import { ask, askTo } from './ask.ts';
import { Compiled } from './compiled.ts';
import { type Control, takeControl } from './control.ts';
import { Pause, retryingFetch } from './fetch.ts';
import { keepAlive } from './keep-alive.ts';
import { workerName } from './identify.ts';
import { lendWorkers } from './lend.ts';
import { reachabilityError } from './reachability.ts';
import { checkEnvironment, register, registerAgain, registerWaiting } from './register.ts';

export * from './api.ts';

/**
 * A browser switches to a new version of the worker when the old one has nothing to do, and needs
 * some 10 to 50 ms for it, which a client that asks again at once never gives it; so at a hand-over
 * each page is silent until the switch, and for this long at most.
 */
const handoverPause = 1_500;

/**
 * Starts the homeserver of this site, or finds it running, and resolves when it answers.
 *
 * ```js
 * const server = await start({ onProgress: ({ stage, loaded, total }) => bar(stage, loaded / total)
 * }); const client = createClient({ baseUrl: server.baseUrl, fetchFn: server.fetch });
 * ```
 *
 * The server speaks the Client-Server API of Matrix, for clients with end-to-end encryption. Not
 * there yet: other servers (everybody has an account of the same browser), lists of threads,
 * search, reports, e-mail addresses, OAuth and single sign-on, sliding sync, push to devices, URL
 * previews, and calls. Such endpoints answer 404 with `M_UNRECOGNIZED`.
 *
 * @throws {EphapseError} whose message tells the user what to do next.
 */
export async function start(options: StartOptions = {}): Promise<Server> {
  const { maxUpload = null } = options;
  if (maxUpload !== null && !(Number.isSafeInteger(maxUpload) && maxUpload >= 0)) throw new RangeError('Pass a whole number of bytes as `maxUpload`, such as 20 * 1024 * 1024.');
  await checkEnvironment();
  const workerUrl = options.workerUrl === undefined ? defaultWorkerUrl() : new URL(options.workerUrl, document.baseURI);
  const scope = new URL(options.scope?.replace(/[^/]$/, '$&/') ?? './', options.scope === undefined ? workerUrl : document.baseURI).href;

  const channel = new BroadcastChannel(channelName(scope));
  const listeners = new Listeners();
  const pause = new Pause();
  let failure: EphapseError | undefined;
  channel.addEventListener('message', ({ data }: MessageEvent<unknown>) => {
    if (!isOurs(data)) return;
    const news = data as Broadcast;
    switch (news.news) {
      case 'progress':
        if (!listeners.started) options.onProgress?.({ stage: news.stage, loaded: news.loaded, total: news.total });
        break;
      case 'restarted':
        listeners.tell('restart', { reason: news.reason });
        break;
      case 'activated':
        pause.end();
        if (listeners.started) listeners.tell('update', { version: news.version });
        break;
      case 'failed':
        failure = new EphapseError(news.failure.code, news.failure.message, news.failure.nextStep);
        if (listeners.started) listeners.tell('error', failure);
        break;
      case 'handover':
        pause.begin(handoverPause);
        break;
      case 'parked':
        void registerAgain(news.script, scope);
    }
  });

  try {
    const registration = await register(workerUrl, scope, { byDefault: options.workerUrl === undefined, failure: () => failure });
    void registerWaiting(registration, scope);
    const control = await takeControl(registration);
    const baseUrl = scope.replace(/\/$/, '');
    const reachability = reachabilityError(baseUrl);
    const { serverName } = await ask<Booted>(control, { ask: 'boot', maxUpload });
    const error = await reachability;
    if (error) throw error;
    listeners.started = true;
    options.onProgress?.({ stage: 'open', loaded: 1, total: 1 });
    return new PageServer(baseUrl, serverName, control, pause, channel, listeners);
  } catch (error) {
    channel.close();
    throw error;
  }
}

/**
 * At the root of the site, or where the page says that its files are. A bundler moves this script,
 * so where that lies says nothing.
 */
function defaultWorkerUrl(): URL {
  const base = document.querySelector('base[href]') ? new URL(document.baseURI) : undefined;
  return new URL(workerName, base?.origin === location.origin ? base : `${location.origin}/`);
}

class PageServer implements Server {
  readonly baseUrl: string;
  readonly serverName: string;
  readonly fetch: typeof globalThis.fetch;
  readonly #control: Control;
  readonly #channel: BroadcastChannel;
  readonly #listeners: Listeners;
  readonly #compiled = new Compiled();
  readonly #letGo: (() => void)[];

  constructor(baseUrl: string, serverName: string, control: Control, pause: Pause, channel: BroadcastChannel, listeners: Listeners) {
    this.baseUrl = baseUrl;
    this.serverName = serverName;
    this.#control = control;
    this.#channel = channel;
    this.#listeners = listeners;
    this.fetch = retryingFetch(control, pause);
    const versions = `${baseUrl}/_matrix/client/versions`;
    this.#letGo = [keepAlive(versions, () => this.fetch(versions)), lendWorkers()];
    this.on('update', () => { this.#holdModule(); });
    this.#holdModule();
  }

  /**
   * Holds what the worker runs: once it does, since what both of them compile at the same time is
   * not shared.
   */
  #holdModule(): void {
    ask<Booted>(this.#control, { ask: 'boot' }).then(({ module }) => this.#compiled.hold(module)).catch(() => undefined);
  }

  status(): Promise<Status> {
    return ask<Status>(this.#control, { ask: 'status' });
  }

  async stop(): Promise<void> {
    for (const letGo of this.#letGo) letGo();
    this.#channel.close();
    this.#listeners.clear();
    this.#compiled.release();
    const worker = this.#control.worker();
    if (worker) await askTo(worker, { ask: 'stop' });
  }

  on<E extends keyof Events>(event: E, listener: (detail: Events[E]) => void): () => void {
    return this.#listeners.add(event, listener);
  }
}

class Listeners {
  started = false;
  readonly #listeners = new Map<keyof Events, Set<(detail: never) => void>>();

  add<E extends keyof Events>(event: E, listener: (detail: Events[E]) => void): () => void {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener));
    return () => { listeners.delete(listener); };
  }

  tell<E extends keyof Events>(event: E, detail: Events[E]): void {
    for (const listener of this.#listeners.get(event) ?? []) (listener as (detail: Events[E]) => void)(detail);
  }

  clear(): void {
    this.#listeners.clear();
  }
}
