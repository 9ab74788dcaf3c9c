// Bodies between the browser and the engine. A small one crosses with its request, in one call; of
// a large one the engine asks for the next chunk when it wants it, and may refuse the request
// before that.

import { type Pieces } from 'ephapse:glue';
import { sleep } from './host.ts';

/** What is larger than this comes and goes in pieces. */
const small = 64 * 1024;

/**
 * So many milliseconds a body may pause. Chromium tells nobody of a request that its page gave up:
 * its stream stays as it is.
 */
const bodyTimeout = 60_000;

/** A body of more bytes than this is one whose sender may have gone while it came. */
const large = 1 << 20;

/**
 * So many milliseconds an answer to such a body waits for somebody to take it. Chromium cancels
 * what nobody takes one to six milliseconds after it asked for it (2026-11-30), and that is all
 * that it tells of a page that gave its request up.
 */
const cancelDelay = 25;

/**
 * What the engine has not been given yet of a body. It can be read once, so that a request with one
 * is not repeated once that was begun.
 */
export class Rest {
  begun = false;
  #given = 0;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #givenUp: AbortSignal;

  constructor(reader: ReadableStreamDefaultReader<Uint8Array>, givenUp: AbortSignal) {
    this.#reader = reader;
    this.#givenUp = givenUp;
    // A browser may leave the stream of a request that was given up as it is.
    givenUp.addEventListener('abort', () => { this.cancel(); }, { once: true });
  }

  /**
   * The next chunk; `undefined` at the end. Rejects when the page gave the request up, or pauses
   * for too long.
   */
  async next(): Promise<Uint8Array | undefined> {
    this.begun = true;
    let late: ReturnType<typeof setTimeout> | undefined;
    const tooLate = new Promise<never>((_, reject) => {
      late = setTimeout(() => { reject(new Error('timed out')); }, bodyTimeout);
    });
    try {
      const { value } = await Promise.race([this.#reader.read(), tooLate]);
      this.#givenUp.throwIfAborted();
      this.#given += value?.length ?? 0;
      return value;
    } finally {
      clearTimeout(late);
    }
  }

  /** Whether so much was given that the sender may have gone meanwhile. */
  get tookLong(): boolean {
    return this.#given > large;
  }

  /** Lets the browser drop what nobody will read. */
  cancel(): void {
    this.#reader.cancel().catch(() => undefined);
  }
}

/**
 * The body of `request` as far as it has to be held here, and what follows where that is not all.
 */
export async function received(request: Request): Promise<{ body: Uint8Array; rest?: Rest }> {
  if (request.method === 'GET' || request.method === 'HEAD') return { body: new Uint8Array() };
  // Firefox gives a Request no `body` stream (bug 1387483): there the browser collects it, out of
  // our memory where it can.
  const given = request.body as ReadableStream<Uint8Array> | null | undefined;
  const stream = given === undefined ? (await request.blob()).stream() : given;
  if (!stream) return { body: new Uint8Array() };
  const reader = stream.getReader();
  const chunks: Uint8Array[] = [];
  let length = 0;
  while (length <= small) {
    const { done, value } = await reader.read();
    if (done) return { body: joined(chunks, length) };
    chunks.push(value);
    length += value.length;
  }
  return { body: joined(chunks, length), rest: new Rest(reader, request.signal) };
}

function joined(chunks: Uint8Array[], length: number): Uint8Array {
  if (chunks.length === 1 && chunks[0]) return chunks[0];
  const body = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    body.set(chunk, offset);
    offset += chunk.length;
  }
  return body;
}

/**
 * A stream of all of `body`. Chromium makes a Blob of a body that is bytes, which its browser
 * process keeps and the page's has to fetch from there: 0.7 to 0.8 ms a request, and more for a
 * large one. A stream goes to the page's process directly.
 */
export function streamOfBytes(body: Uint8Array<ArrayBuffer>): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    start: (controller) => {
      if (body.length > 0) controller.enqueue(body);
      controller.close();
    },
  });
}

/**
 * A stream of what the engine has of an answer; `during` is told of every call into it. It takes a
 * piece when there is room for one, and never ahead: what answers a large body not before it is
 * clear that somebody takes it, since of a file whose id nobody was told the engine keeps nothing.
 */
export function streamOf(pieces: Pieces, during: <T>(work: () => Promise<T>) => Promise<T>, request?: Rest): ReadableStream<Uint8Array<ArrayBuffer>> {
  let cancelled = false;
  let wait = request?.tookLong === true;
  // Not a byte stream: Safari has learnt those only lately, and nobody here reads into a buffer of
  // their own.
  return new ReadableStream(
    {
      pull: async (controller) => {
        if (wait) await sleep(cancelDelay);
        wait = false;
        if (cancelled) return;
        const piece = await during(() => pieces.next());
        if (piece) { controller.enqueue(piece); return; }
        controller.close();
        pieces.free();
      },
      cancel: () => {
        cancelled = true;
        pieces.cancel();
        pieces.free();
      },
    },
    { highWaterMark: 0 },
  );
}
