// Keeps one engine running: under the scope's lock, rebuilt from disk after a panic, stopped for a
// newer version.

import { isMedia } from '../shared/matrix-url.ts';
import { type Broadcast, type Stage, channelName, mark } from '../shared/protocol.ts';
import { failureOf } from './failed.ts';
import { sleep } from './host.ts';
import { type Call, InstanceCrashed, type EngineResponse, Instance } from './instance.ts';
import { loadModule } from './module.ts';
import { ResponseBarrier } from './response-barrier.ts';

/**
 * While a hand-over is under way, answers that clients ask for again at once leave responses, this
 * often: between them nothing is pending.
 */
const handoverTick = 100;
/** Pages fall silent when a hand-over is asked for; by then they have heard of it. */
const quietDelay = 60;
/** From the word that all is quiet until the new version has asked the browser to switch. */
const skipWaitingDelay = 25;
/** A hand-over that does not come about ends after this long. */
const handoverTimeout = 30_000;
/** After a failed start the next one waits this long, so that a client's retries cost little. */
const restartDelay = 1_000;
/** What is under way when the server is stopped has this long to end. */
const shutdownTimeout = 5_000;

type Tell = (news: Broadcast) => void;

/** The homeserver of one scope, as the worker sees it. */
export class Server {
  readonly #scope: string;
  readonly #tell: Tell;
  /** How responses leave. */
  readonly responses = new ResponseBarrier();
  #starting: Promise<Instance> | undefined;
  #instance: Instance | undefined;
  #module: Promise<WebAssembly.Module> | undefined;
  #release: (() => void) | undefined;
  /** Ends when the instance that crashed last is done with the database. */
  #crashing: Promise<void> = Promise.resolve();
  /** Ends when all is stopped that was to be. */
  #stopping: Promise<void> = Promise.resolve();
  #starts = 0;
  #handingOver: ReturnType<typeof setTimeout> | undefined;
  #failedAt = -restartDelay;
  #rebuilds = 0;

  constructor(scope: string, tell: Tell) {
    this.#scope = scope;
    this.#tell = tell;
  }

  /**
   * Loads the module before anybody asks for it: the browser has started this worker for a request
   * that is on its way.
   */
  prepare(): void {
    this.#loadModule().catch(() => undefined);
  }

  /** The running instance; starts one where none runs. */
  running(): Promise<Instance> {
    if (this.#starting) return this.#starting;
    const start = (this.#starts += 1);
    this.#starting = this.#start(start, this.#stopping).catch((error: unknown) => {
      if (start === this.#starts) this.#starting = undefined;
      this.#failedAt = performance.now();
      this.#tell({ [mark]: 1, news: 'failed', failure: failureOf(error) });
      throw error;
    });
    return this.#starting;
  }

  /**
   * Answers a request. One that an engine had not applied when it crashed is done again, as far as
   * its body can be read again; one of unknown outcome only where that does no harm.
   */
  async handle(call: Call): Promise<EngineResponse> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const instance = await this.running();
        const response = await instance.handle(call);
        if (response.status === 503 && (instance.crashed || instance.closed || (await instance.hasLostDatabase()))) {
          // The browser closes a database that the user or a newer version wants gone; the next
          // instance opens what is there now.
          if (!instance.closed) instance.end('the database was closed');
          if (!isRepeatable(call)) return response;
          continue;
        }
        if (this.#handingOver !== undefined && isLongPoll(call)) await nextTick();
        return response;
      } catch (error) {
        const again = error instanceof InstanceCrashed && ((error.outcome === 'not-applied' && !call.rest?.begun) || (error.outcome === 'unknown' && isRepeatable(call)));
        if (!again || attempt === 3) throw error;
      }
    }
  }

  /** What the engine says of itself, and what the worker knows beside it. */
  async status(): Promise<Record<string, unknown>> {
    const instance = await this.running();
    // WebKitGTK 2.50 gives workers and pages no `navigator.storage`.
    const storage = navigator.storage as StorageManager | undefined;
    const { usage, quota }: StorageEstimate = (await storage?.estimate()) ?? {};
    return {
      ...instance.status(),
      version: EPHAPSE_VERSION,
      wasmBytes: EPHAPSE_MODULES.server.bytes,
      storageUsed: usage ?? 0,
      storageQuota: quota ?? 0,
      rebuilds: this.#rebuilds,
      workerStarted: performance.timeOrigin,
    };
  }

  /** A new version waits: hold nothing, so that the browser finds a moment to switch. */
  handOver(): void {
    clearTimeout(this.#handingOver);
    this.#handingOver = setTimeout(() => {
      this.#handingOver = undefined;
      this.#instance?.setHolding(true);
    }, handoverTimeout);
    this.#instance?.setHolding(false);
    void this.#becomeIdle();
  }

  /** Makes an instant in which nothing is pending, just after the new version has heard of it. */
  async #becomeIdle(): Promise<void> {
    await sleep(quietDelay);
    const release = await this.responses.hold();
    this.#tell({ [mark]: 1, news: 'quiet' });
    await sleep(skipWaitingDelay);
    release();
  }

  /**
   * Answers what is under way, closes the database and lets the next one have it. A request that
   * comes meanwhile is answered by an instance that starts after that.
   */
  stop(): Promise<void> {
    clearTimeout(this.#handingOver);
    this.#handingOver = undefined;
    const starting = this.#starting;
    this.#starting = undefined;
    this.#stopping = this.#stopping.then(() => this.#end(starting));
    return this.#stopping;
  }

  async #end(starting: Promise<Instance> | undefined): Promise<void> {
    // One that does not start has told why; one that crashes meanwhile has told that.
    const instance = await starting?.catch(() => undefined);
    instance?.setHolding(false);
    await instance?.idle(shutdownTimeout);
    await instance?.shutdown().catch(() => undefined);
    this.#instance = undefined;
    await this.#crashing;
    this.#release?.();
    this.#release = undefined;
  }

  /** An error that no promise carried: a trap in one of the engine's background tasks. */
  trapped(error: unknown): void {
    if (error instanceof WebAssembly.RuntimeError) this.#instance?.trapped(error);
  }

  async #start(start: number, stopped: Promise<void>): Promise<Instance> {
    await stopped;
    const pause = this.#failedAt + restartDelay - performance.now();
    if (pause > 0) await sleep(pause);
    const [module] = await Promise.all([this.#loadModule(), this.#lock(), this.#crashing]);
    this.#progress('open', 0, 1);
    const home = new URL(this.#scope);
    const publicUrl = home.href.replace(/\/$/, '');
    const instance = await Instance.open(module, `ephapse ${home.pathname}`, publicUrl, this.#scope, (reason, done) => { this.#crashed(start, reason, done); });
    this.#instance = instance;
    if (this.#handingOver !== undefined) instance.setHolding(false);
    return instance;
  }

  #loadModule(): Promise<WebAssembly.Module> {
    this.#module ??= loadModule(this.#scope, this.#progress).catch((error: unknown) => {
      this.#module = undefined;
      throw error;
    });
    return this.#module;
  }

  /**
   * Ends when this worker holds the scope's lock; the browser takes it back when the worker ends.
   */
  async #lock(): Promise<void> {
    if (this.#release) return;
    await new Promise<void>((locked, refused) => {
      navigator.locks
        .request(channelName(this.#scope), () => {
          locked();
          return new Promise<void>((release) => { this.#release = release; });
        })
        .catch(refused);
    });
  }

  #crashed(start: number, reason: string, done: Promise<void>): void {
    this.#crashing = done;
    // Where this one was being stopped, the next may already wait for that.
    if (start === this.#starts) {
      this.#starting = undefined;
      this.#instance = undefined;
    }
    this.#rebuilds += 1;
    this.#tell({ [mark]: 1, news: 'restarted', reason });
  }

  readonly #progress = (stage: Stage, loaded: number, total: number): void => {
    this.#tell({ [mark]: 1, news: 'progress', stage, loaded, total });
  };
}

/**
 * A large body is there once: keeping it to repeat it would hold in memory what streams so as not
 * to be. Its client is told, and does that better.
 */
function isRepeatable({ method, path, rest }: Call): boolean {
  // A media id gets its file once.
  const isUpload = method === 'PUT' && isMedia(path);
  return method !== 'POST' && !isUpload && !rest?.begun;
}

function isLongPoll({ method, path }: Call): boolean {
  return method === 'GET' && /\/(sync|events)\b/.test(path);
}

function nextTick(): Promise<void> {
  return sleep(handoverTick - (Date.now() % handoverTick));
}
