// An error that a page can show to its user.

import { type Answer, type Failure } from '../shared/protocol.ts';

/** Carries a `Failure` through the worker. */
export class Failed extends Error {
  readonly failure: Failure;

  constructor(failure: Failure) {
    super(`${failure.message} ${failure.nextStep}`);
    this.failure = failure;
  }
}

/** Whatever was thrown, as a `Failure`. */
export function failureOf(error: unknown): Failure {
  if (error instanceof Failed) return error.failure;
  const message = error instanceof Error ? error.message : String(error);
  return { code: 'server-failed', message, nextStep: 'Reload the page. If it happens again, report it with this message.' };
}

/** The outcome of `work`, as it travels to a page. */
export async function answerOf<T>(work: () => Promise<T>): Promise<Answer<T>> {
  try {
    return { ok: true, value: await work() };
  } catch (error) {
    return { ok: false, failure: failureOf(error) };
  }
}
