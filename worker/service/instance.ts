// One instance of the engine. A panic leaves its memory in an unknown state, so the instance is
// dead from then on. Calls that had handed in what they write are still answered by it; all others
// learn that it died, and whether they may be done again.

import { createGlue, type Engine, type Glue, type OpenFailure } from 'ephapse:glue';
import { type Rest, streamOf } from './body.ts';
import { sleep, yieldNow } from './host.ts';
import { Failed } from './failed.ts';

/** So many milliseconds a dead instance has for the answers of calls that have written. */
const lastAnswers = 3_000;

/** A request as the engine takes it. */
export interface Call {
  method: string;
  path: string;
  headers: string[];
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
 * What became of a call whose instance died: it was the `culprit`, during which it happened; it was
 * left `undone`, and has changed nothing; or it is `unknown` whether what it wrote was stored.
 */
export type Fate = 'culprit' | 'undone' | 'unknown';

/** Rejects the calls of an instance that died. */
export class Died extends Error {
  readonly fate: Fate;

  constructor(reason: string, fate: Fate) {
    super(reason);
    this.fate = fate;
  }
}

interface Waiting {
  reject: (error: Died) => void;
}

type OnDeath = (reason: string, done: Promise<void>) => void;

/** One instance, open on its database. */
export class Instance {
  /** Whether it has been shut down, or is about to be. */
  closed = false;
  readonly #engine: Engine;
  readonly #memory: WebAssembly.Memory;
  readonly #life: Life;

  private constructor(engine: Engine, memory: WebAssembly.Memory, life: Life) {
    this.#engine = engine;
    this.#memory = memory;
    this.#life = life;
  }

  /**
   * Opens the database; `onDeath` is called once, when the instance dies. What it gets ends when
   * the instance is done with the database.
   */
  static async open(module: WebAssembly.Module, database: string, publicUrl: string, onDeath: OnDeath): Promise<Instance> {
    const glue = createGlue();
    const life = new Life(glue, onDeath);
    const { memory } = await glue({ module_or_path: module });
    const host = {
      sleep,
      yieldNow,
      panicked: (call: number, message: string) => { life.end(message, call); },
      log: (level: 'error' | 'warn' | 'info', line: string) => { console[level](`ephapse: ${line}`); },
    };
    const engine = await life.during(0, () => glue.open(database, publicUrl, host).catch((error: unknown) => { throw openFailure(error); }));
    return new Instance(engine, memory, life);
  }

  /** Whether it died. */
  get dead(): boolean {
    return this.#life.over;
  }

  /** The server's name. */
  get serverName(): string {
    return this.#engine.serverName();
  }

  /** Answers one request; rejects with `Died`. */
  async handle({ method, path, headers, body, rest }: Call): Promise<EngineResponse> {
    const call = this.#life.nextCall();
    const response = await this.#life.during(call, () => this.#engine.handle(call, method, path, headers, body, rest));
    const answered = response.body;
    if (answered instanceof Uint8Array) return { ...response, body: answered };
    // What is there as a whole leaves whatever becomes of the engine.
    return { ...response, body: streamOf(answered, (work) => (answered.whole ? work() : this.#life.during(call, work)), rest) };
  }

  /** What the engine says of itself, and how much memory it has. */
  status(): Record<string, unknown> {
    return { ...this.#engine.status(), memoryBytes: this.#memory.buffer.byteLength };
  }

  /** See `Engine.setHolding`. */
  setHolding(holding: boolean): void {
    if (!this.dead) this.#engine.setHolding(holding);
  }

  /** See `Engine.hasLostDatabase`. */
  async hasLostDatabase(): Promise<boolean> {
    // A request waits for this, which has a panic of another as little on its conscience as any.
    return this.#life.during(this.#life.nextCall(), () => this.#engine.hasLostDatabase());
  }

  /** See `Engine.setMaxUpload`. */
  async setMaxUpload(bytes: number | undefined): Promise<void> {
    await this.#life.during(this.#life.nextCall(), () => this.#engine.setMaxUpload(bytes));
  }

  /** Dies of something that the engine itself survived. */
  end(reason: string): void {
    this.#life.endTurns(reason);
  }

  /** Ends when no call is under way, or after `patience` milliseconds. */
  async idle(patience: number): Promise<void> {
    await this.#life.idle(patience);
  }

  /** Finishes what is being written and closes the database. */
  async shutdown(): Promise<void> {
    this.closed = true;
    if (!this.dead) await this.#life.during(0, () => this.#engine.shutdown());
  }

  /** A trap in a background task reaches nobody but the worker's error events. */
  trapped(error: WebAssembly.RuntimeError): void {
    this.#life.trapped(error);
  }
}

/** Ends once, and tells everybody who waits. */
class Life {
  over = false;
  readonly #waiting = new Map<number, Set<Waiting>>();
  readonly #glue: Glue;
  readonly #onDeath: OnDeath;
  #calls = 0;
  #whenIdle: (() => void)[] = [];

  constructor(glue: Glue, onDeath: OnDeath) {
    this.#glue = glue;
    this.#onDeath = onDeath;
  }

  nextCall(): number {
    this.#calls += 1;
    return this.#calls;
  }

  /** Ends when nothing is under way, or after `patience` milliseconds. */
  async idle(patience: number): Promise<void> {
    // A call may have ended in this turn, and a request that has just found the instance comes into
    // it; both are seen by the next turn.
    await sleep(0);
    if (this.#waiting.size === 0) return;
    await Promise.race([new Promise<void>((resolve) => this.#whenIdle.push(resolve)), sleep(patience)]);
  }

  /** `work`, unless the instance dies first. */
  during<T>(call: number, work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.over) {
        reject(new Died('the engine has stopped', 'undone'));
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

  /** Dies of something that the engine has not noticed, in the turn of the current call. */
  endTurns(reason: string): void {
    this.#glue.end_turns();
    this.end(reason, this.#glue.current_call());
  }

  end(reason: string, culprit: number): void {
    const first = !this.over;
    this.over = true;
    console.error(`ephapse: the engine stopped: ${reason}`);
    for (const call of [culprit, 0]) this.#reject(call, new Died(reason, 'culprit'));
    if (first) this.#onDeath(reason, this.#answerTheRest(reason));
  }

  /** Ends when those who have written are answered, or have waited long enough. */
  async #answerTheRest(reason: string): Promise<void> {
    // A call may have ended in the turn in which another panicked; that reaches whoever waits for
    // it by the next turn.
    await sleep(0);
    for (const call of [...this.#waiting.keys()]) if (!this.#glue.has_written(call)) this.#reject(call, new Died(reason, 'undone'));
    await this.idle(lastAnswers);
    for (const call of [...this.#waiting.keys()]) this.#reject(call, new Died(reason, 'unknown'));
  }

  #reject(call: number, error: Died): void {
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
