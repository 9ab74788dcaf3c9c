// One question to the worker, one answer. A worker may end before it answers, so questions are
// asked again.

import { type Answer, type Question, mark } from '../shared/protocol.ts';
import { EphapseError } from './api.ts';
import { type Control } from './control.ts';

/**
 * An answer that takes longer than this is asked for again: the worker that was asked may be gone.
 */
const answerTimeout = 10_000;
const attempts = 6;

type Unmarked<T> = T extends unknown ? Omit<T, typeof mark> : never;

/** A question without its mark. */
export type Asked = Unmarked<Question>;

/** Asks whichever worker is active, until one answers. */
export async function ask<T>(control: Control, question: Asked): Promise<T> {
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    const answer = await askTo<T>(await control.active(), question);
    if (answer?.ok) return answer.value;
    if (answer) throw new EphapseError(answer.failure.code, answer.failure.message, answer.failure.nextStep);
  }
  throw new EphapseError('server-failed', 'The server does not respond.', 'Close all tabs of this site and open it again.');
}

/** Asks one worker; `undefined` when no answer came in time. */
export function askTo<T>(worker: ServiceWorker, question: Asked, within = answerTimeout): Promise<Answer<T> | undefined> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    const late = setTimeout(() => { end(undefined); }, within);
    const end = (answer: Answer<T> | undefined): void => {
      clearTimeout(late);
      port1.close();
      resolve(answer);
    };
    port1.onmessage = ({ data }: MessageEvent<Answer<T>>) => { end(data); };
    worker.postMessage({ [mark]: 1, ...question }, [port2]);
  });
}
