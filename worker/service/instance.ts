// One instance of the engine. A panic leaves its memory in an unknown state, so the instance has
// crashed from then on. It still answers the calls that had submitted their writes. All others
// learn that it crashed, and whether they may be done again.

import { createGlue, type Engine, type Glue, type OpenFailure } from 'ephapse:glue';
import { type Rest, streamOf } from './body.ts';
import { sleep, yieldNow } from './host.ts';
import { Failed } from './failed.ts';
import { thumbnail } from './thumbnails.ts';

/** So many milliseconds a crashed instance has for the answers of calls that have written. */
const remainingTimeout = 3_000;

/** A request as the engine takes it. */
export interface Call {
  method: string;
  path: string;
  headers: string[];
  /** Whether a page of our own origin sent it. */
  ownPage: boolean;
  /** All of the body, or its beginning. */
  body: Uint8Array;
  /** What follows `body`, where that is not all. */
  rest?: Rest | undefined;
}

/** The engine's answer. */
export interface EngineResponse {
  status: number;
  headers: [string, string][];
  body: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array<ArrayBuffer>>;
}

/**
 * What became of a call whose instance crashed: it was the `cause`, during which it happened; it
 * was `not-applied`, and has changed nothing; or it is `unknown` whether its writes were stored.
 */
export type CallOutcome = 'cause' | 'not-applied' | 'unknown';

/** Rejects the calls of an instance that crashed. */
export class InstanceCrashed extends Error {
  readonly outcome: CallOutcome;

  constructor(reason: string, outcome: CallOutcome) {
    super(reason);
    this.outcome = outcome;
  }
}

interface Waiting {
  reject: (error: InstanceCrashed) => void;
}

type OnCrash = (reason: string, done: Promise<void>) => void;

/** One instance, open on its database. */
export class Instance {
  /** Whether it has been shut down, or is about to be. */
  closed = false;
  readonly #engine: Engine;
  readonly #memory: WebAssembly.Memory;
  readonly #lifecycle: InstanceLifecycle;

  private constructor(engine: Engine, memory: WebAssembly.Memory, lifecycle: InstanceLifecycle) {
    this.#engine = engine;
    this.#memory = memory;
    this.#lifecycle = lifecycle;
  }

  /**
   * Opens the database; `onCrash` is called once, when the instance crashes. What it gets ends when
   * the instance is done with the database.
   */
  static async open(module: WebAssembly.Module, database: string, publicUrl: string, scope: string, onCrash: OnCrash): Promise<Instance> {
    const glue = createGlue();
    const lifecycle = new InstanceLifecycle(glue, onCrash);
    const { memory } = await glue({ module_or_path: module });
    const host = {
      sleep,
      yieldNow,
      panicked: (call: number, message: string) => { lifecycle.end(message, call); },
      log: (level: 'error' | 'warn' | 'info', line: string) => { console[level](`ephapse: ${line}`); },
      thumbnail: (file: Uint8Array<ArrayBuffer>, width: number, height: number, isCropped: boolean, isAnimated: boolean) => thumbnail(scope, file, { width, height, isCropped, isAnimated }),
    };
    const engine = await lifecycle.during(0, () => glue.open(database, publicUrl, host).catch((error: unknown) => { throw openFailure(error); }));
    return new Instance(engine, memory, lifecycle);
  }

  /** Whether it crashed. */
  get crashed(): boolean {
    return this.#lifecycle.over;
  }

  /** The server's name. */
  get serverName(): string {
    return this.#engine.serverName();
  }

  /** Answers one request; rejects with `InstanceCrashed`. */
  async handle({ method, path, headers, ownPage, body, rest }: Call): Promise<EngineResponse> {
    const call = this.#lifecycle.nextCall();
    const response = await this.#lifecycle.during(call, () => this.#engine.handle(call, method, path, headers, ownPage, body, rest));
    const answered = response.body;
    if (answered instanceof Uint8Array) return { ...response, body: answered };
    // What is there as a whole leaves whatever becomes of the engine.
    return { ...response, body: streamOf(answered, (work) => (answered.whole ? work() : this.#lifecycle.during(call, work)), rest) };
  }

  /** What the engine says of itself, and how much memory it has. */
  status(): Record<string, unknown> {
    return { ...this.#engine.status(), memoryBytes: this.#memory.buffer.byteLength };
  }

  /** See `Engine.setHolding`. */
  setHolding(holding: boolean): void {
    if (!this.crashed) this.#engine.setHolding(holding);
  }

  /** See `Engine.hasLostDatabase`. */
  async hasLostDatabase(): Promise<boolean> {
    // A request waits for this, which has a panic of another as little on its conscience as any.
    return this.#lifecycle.during(this.#lifecycle.nextCall(), () => this.#engine.hasLostDatabase());
  }

  /** See `Engine.setMaxUpload`. */
  async setMaxUpload(bytes: number | undefined): Promise<void> {
    await this.#lifecycle.during(this.#lifecycle.nextCall(), () => this.#engine.setMaxUpload(bytes));
  }

  /** Ends the instance for a reason that the engine has not noticed. */
  end(reason: string): void {
    this.#lifecycle.endTurns(reason);
  }

  /** Ends when no call is under way, or after `timeout` milliseconds. */
  async idle(timeout: number): Promise<void> {
    await this.#lifecycle.idle(timeout);
  }

  /** Finishes what is being written and closes the database. */
  async shutdown(): Promise<void> {
    this.closed = true;
    if (!this.crashed) await this.#lifecycle.during(0, () => this.#engine.shutdown());
  }

  /** A trap in a background task reaches nobody but the worker's error events. */
  trapped(error: WebAssembly.RuntimeError): void {
    this.#lifecycle.trapped(error);
  }
}

/** Ends once, and tells everybody who waits. */
class InstanceLifecycle {
  over = false;
  readonly #waiting = new Map<number, Set<Waiting>>();
  readonly #glue: Glue;
  readonly #onCrash: OnCrash;
  #calls = 0;
  #whenIdle: (() => void)[] = [];

  constructor(glue: Glue, onCrash: OnCrash) {
    this.#glue = glue;
    this.#onCrash = onCrash;
  }

  nextCall(): number {
    this.#calls += 1;
    return this.#calls;
  }

  /** Ends when nothing is under way, or after `timeout` milliseconds. */
  async idle(timeout: number): Promise<void> {
    // A call may have ended in this turn, and a request that has just found the instance comes into
    // it; both are seen by the next turn.
    await sleep(0);
    if (this.#waiting.size === 0) return;
    await Promise.race([new Promise<void>((resolve) => this.#whenIdle.push(resolve)), sleep(timeout)]);
  }

  /** `work`, unless the instance crashes first. */
  during<T>(call: number, work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.over) {
        reject(new InstanceCrashed('the engine has stopped', 'not-applied'));
        return;
      }
      const waiting: Waiting = { reject };
      const others = this.#waiting.get(call) ?? new Set();
      this.#waiting.set(call, others.add(waiting));
      const settle = (): void => {
        others.delete(waiting);
        if (others.size === 0) this.#ended(call);
      };
      try {
        work().then(resolve, reject).finally(settle);
      } catch (error) {
        // The first steps of a call run inside this one, and so does their trap.
        if (error instanceof WebAssembly.RuntimeError) this.trapped(error);
        else { settle(); reject(error instanceof Error ? error : new Error(String(error))); }
      }
    });
  }

  /** A panic has told before that it ends the instance; memory that ran out has not. */
  trapped(error: WebAssembly.RuntimeError): void {
    this.endTurns(error.message);
  }

  /** Ends for a reason that the engine has not noticed, during the current call. */
  endTurns(reason: string): void {
    this.#glue.end_turns();
    this.end(reason, this.#glue.current_call());
  }

  end(reason: string, cause: number): void {
    const first = !this.over;
    this.over = true;
    console.error(`ephapse: the engine stopped: ${reason}`);
    for (const call of [cause, 0]) this.#reject(call, new InstanceCrashed(reason, 'cause'));
    if (first) this.#onCrash(reason, this.#answerRemaining(reason));
  }

  /** Ends when those who have written are answered, or have waited long enough. */
  async #answerRemaining(reason: string): Promise<void> {
    // A call may have ended in the turn in which another panicked; that reaches whoever waits for
    // it by the next turn.
    await sleep(0);
    for (const call of [...this.#waiting.keys()]) if (!this.#glue.has_written(call)) this.#reject(call, new InstanceCrashed(reason, 'not-applied'));
    await this.idle(remainingTimeout);
    for (const call of [...this.#waiting.keys()]) this.#reject(call, new InstanceCrashed(reason, 'unknown'));
  }

  #reject(call: number, error: InstanceCrashed): void {
    const waiting = this.#waiting.get(call) ?? [];
    this.#ended(call);
    for (const { reject } of waiting) reject(error);
  }

  #ended(call: number): void {
    this.#waiting.delete(call);
    if (this.#waiting.size === 0) for (const tell of this.#whenIdle.splice(0)) tell();
  }
}

function openFailure(error: unknown): Error {
  if (typeof error !== 'object' || error === null || !('kind' in error)) return error instanceof Error ? error : new Error(String(error));
  const { kind, message } = error as OpenFailure;
  switch (kind) {
    case 'newer-format':
      return new Failed({ code: 'newer-database', message, nextStep: 'Nothing was changed. Reload all tabs of this site to load the newer version that wrote it.' });
    case 'quota':
      return new Failed({ code: 'storage-blocked', message, nextStep: 'Free some disk space or allow this site to store more, then reload.' });
    case 'storage':
      return new Failed({ code: 'storage-blocked', message, nextStep: 'Allow this site to store data, then reload.' });
    case 'unreadable':
      return new Failed({
        code: 'server-failed',
        message: `${message}, and the server cannot run without it.`,
        nextStep: 'Restore the browser\'s profile from a backup, or delete this site\'s data to begin anew: accounts and rooms are lost then.',
      });
    default:
      return new Failed({ code: 'server-failed', message, nextStep: 'Reload the page. If it happens again, report it with this message.' });
  }
}
