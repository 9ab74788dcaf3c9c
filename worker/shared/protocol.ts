// What pages and the service worker say to each other. Pages of an older or newer version may be on
// the other end: fields are only ever added, and what is not understood is left alone.

/** Marks our messages among others. */
export const mark = 'ephapse';

/** What keeps a server from starting or going on. */
export type ErrorCode =
  | 'no-service-worker'
  | 'insecure-context'
  | 'storage-blocked'
  | 'newer-database'
  | 'out-of-scope'
  | 'foreign-worker'
  | 'blocked-by-policy'
  | 'worker-failed'
  | 'download-failed'
  | 'server-failed';

/** An error on its way from the worker to a page. */
export interface Failure {
  code: ErrorCode;
  message: string;
  nextStep: string;
}

/** The steps to a running server, in their order. */
export type Stage = 'download' | 'compile' | 'open';

/** Asked of the worker, with a port for the one answer. */
export type Question =
  /** Whether this worker has the server in it: any answer says so. */
  | { [mark]: 1; ask: 'hello' }
  /**
   * Start the server if it does not run. `maxUpload`: bytes that a file may have, `null` for the
   * default; a page that does not say leaves it.
   */
  | { [mark]: 1; ask: 'boot'; maxUpload?: number | null }
  /** What the server holds and does. */
  | { [mark]: 1; ask: 'status' }
  /** Control the pages in scope that nobody controls. */
  | { [mark]: 1; ask: 'claim' }
  /** This page no longer needs the server. */
  | { [mark]: 1; ask: 'stop' };

/** The answer to a question. */
export type Answer<T = unknown> = { ok: true; value: T } | { ok: false; failure: Failure };

/** What the answer to `boot` holds. */
export interface Booted {
  serverName: string;
  version: string;
  /** Where Cache Storage holds the module; older versions do not say. */
  module?: string;
}

/**
 * Told by the worker to pages, with a port: who lends a worker says `ready` there. One of them then
 * gets a `Loan`, and passes the port on to the worker.
 */
export interface Wish {
  [mark]: 1;
  wish: 'worker';
}

/** What a lent worker runs, and after how long the page ends it. */
export interface Loan {
  script: string;
  milliseconds: number;
}

/** Told to everybody on the scope's broadcast channel. */
export type Broadcast =
  | { [mark]: 1; news: 'progress'; stage: Stage; loaded: number; total: number }
  /**
   * A new version waits: whoever runs holds no requests any more, so that the browser can switch.
   */
  | { [mark]: 1; news: 'handover'; version: string }
  /** Nothing is pending at the running version, for a moment: now the browser can be asked. */
  | { [mark]: 1; news: 'quiet' }
  /**
   * The browser did not activate the new version: a page registers the script once more. Pages of
   * older versions know the message as `parked`.
   */
  | { [mark]: 1; news: 'parked'; script: string }
  /**
   * A new version is active: whoever still runs finishes its writes and lets go of the database.
   */
  | { [mark]: 1; news: 'activated'; version: string }
  /** The server starts anew from its database. */
  | { [mark]: 1; news: 'restarted'; reason: string }
  | { [mark]: 1; news: 'failed'; failure: Failure };

/**
 * The name of the broadcast channel, and of the lock that the running server holds, for one scope.
 */
export const channelName = (scope: string): string => `${mark} ${scope}`;

/** Whether a message is one of ours. */
export function isOurs(data: unknown): data is { [mark]: 1 } {
  return typeof data === 'object' && data !== null && mark in data;
}
