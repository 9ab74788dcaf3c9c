// A fetch for the server's own URLs that outlives the worker: browsers end workers when they like.

import { isMedia } from '../shared/matrix-url.ts';
import { type Control } from './control.ts';

const repeatable = new Set(['GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS']);
/**
 * Of files: what carries none, since a file can be read once where it is not to be kept in memory.
 */
const repeatableOfMedia = new Set(['GET', 'HEAD', 'OPTIONS']);
const pauses = [0, 100, 400, 1_600];

/** A moment in which this page asks for nothing. */
export class Pause {
  #over: Promise<void> = Promise.resolve();
  #end: () => void = () => undefined;

  /** Lets requests wait, for so many milliseconds from now at most. */
  begin(milliseconds: number): void {
    this.#end();
    this.#over = new Promise((resolve) => {
      this.#end = resolve;
      setTimeout(resolve, milliseconds);
    });
  }

  /** Ends the pause now. */
  end(): void {
    this.#end();
  }

  /** Ends with the pause. */
  over(): Promise<void> {
    return this.#over;
  }
}

/**
 * `fetch`, in a page that is controlled, repeated where the method allows it. A large answer can
 * break off when the worker ends, so one that can be asked for again is waited for to its end; any
 * other arrives as it comes, and so do files.
 */
export function retryingFetch(control: Control, pause: Pause): typeof globalThis.fetch {
  return async (input, init) => {
    const request = new Request(input, init);
    const { pathname } = new URL(request.url);
    const media = isMedia(pathname.slice(pathname.indexOf('/_matrix/')));
    const mayRepeat = (media ? repeatableOfMedia : repeatable).has(request.method);
    for (let attempt = 0; ; attempt += 1) {
      await pause.over();
      await control.controlled();
      try {
        const response = await fetch(mayRepeat ? request.clone() : request);
        if (mayRepeat && !media) await arrived(response);
        return response;
      } catch (error) {
        const wait = pauses[attempt];
        if (wait === undefined || !mayRepeat || request.signal.aborted) throw error;
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  };
}

/**
 * Ends when all of an answer is here; rejects when it breaks off. `response` keeps it for whoever
 * reads it.
 */
async function arrived(response: Response): Promise<void> {
  await response.clone().body?.pipeTo(new WritableStream());
}
