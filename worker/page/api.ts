// What the package offers besides `start()`: its options, the running server, its events and its
// errors.

/** What keeps the server from starting or going on. */
export type EphapseErrorCode =
  /** The browser has no service workers. */
  | 'no-service-worker'
  /** The page was loaded over plain HTTP from another machine. */
  | 'insecure-context'
  /** The site may not store anything here, or nothing more. */
  | 'storage-blocked'
  /** The database was written by a newer version; it was not changed. */
  | 'newer-database'
  /** The page lies outside the part of the site that the service worker serves. */
  | 'out-of-scope'
  /** The site has a service worker of its own for this scope, without the server in it. */
  | 'foreign-worker'
  /** The site's content security policy forbids what the server needs. */
  | 'blocked-by-policy'
  /** The worker's script could not be installed. */
  | 'worker-failed'
  /**
   * `ephapse.wasm` could not be loaded, is something else, or is of another version than the
   * worker.
   */
  | 'download-failed'
  /** The server itself could not start. */
  | 'server-failed';

/** An error whose message says what happened and what to do next. */
export class EphapseError extends Error {
  override readonly name = 'EphapseError';
  /** For programs. */
  readonly code: EphapseErrorCode;
  /** For people: what to do now; the last part of `message`. */
  readonly nextStep: string;

  constructor(code: EphapseErrorCode, message: string, nextStep: string) {
    super(`${message} ${nextStep}`);
    this.code = code;
    this.nextStep = nextStep;
  }
}

/** How far the start has come. */
export interface Progress {
  /**
   * `download`: the module comes over the network (first visit and updates only); `compile`: it is
   * compiled; `open`: the database is opened.
   */
  stage: 'download' | 'compile' | 'open';
  /** Bytes loaded in stage `download`; else 0, then 1 when the stage is over. */
  loaded: number;
  /** What `loaded` is going to be. */
  total: number;
}

/**
 * Options of `start`; none is needed where `ephapse-worker.js` and its `.wasm` files lie at the
 * root of the site.
 */
export interface StartOptions {
  /**
   * Where `ephapse-worker.js` is, relative to the page; the `.wasm` files lie beside it. Must be
   * of the page's own origin. Where the site has a service worker of its own that begins with
   * `importScripts('/ephapse-worker.js')`, the URL of that one. Default: `/ephapse-worker.js`, or
   * `ephapse-worker.js` in the directory that the page's `<base href>` names.
   */
  workerUrl?: string | URL;
  /**
   * The part of the site that the server serves, a path that ends in `/`; the page must lie in it.
   * Every scope has a server of its own. Default: the directory of the worker. A wider one needs
   * the HTTP header `Service-Worker-Allowed` on the worker's script.
   */
  scope?: string;
  /**
   * The largest allowed upload in bytes; a larger one is refused with `M_TOO_LARGE`,
   * and clients are told by `/media/config`. It holds for all pages of the scope, until one of them
   * starts with another. Default: 100 MiB.
   */
  maxUpload?: number;
  /** Called while the server starts. */
  onProgress?: (progress: Progress) => void;
}

/** What a durable queue holds: what the server has to pass on, and must not lose on the way. */
export interface StreamStatus {
  name: string;
  /** Destinations for which something waits. */
  subjects: number;
  /** What waits, and its bytes. */
  length: number;
  bytes: number;
  /** What was ever given up, because it could not be processed. */
  deadLetters: number;
  /** The newest of that, oldest first: at most 100. */
  newestDeadLetters: {
    subject: string;
    consumer: string;
    /** Its number in its queue. */
    position: number;
    attempts: number;
    lastError: string;
    /** When it was appended and given up, in milliseconds since 1970. */
    appended: number;
    givenUp: number;
  }[];
  /** What reached a limit before it was passed on. */
  dropped: number;
  /** How far behind each consumer is. */
  consumers: { name: string; lag: number }[];
}

/** Another server that something is sent to. */
export interface DestinationStatus {
  server: string;
  /** Whether it answered when it was last asked; null: it was not asked since the worker started. */
  reachable: boolean | null;
  /** Events and messages that wait for it. */
  queued: number;
  /** Whether events were dropped that it catches up with once it answers. */
  catchingUp: boolean;
  /** Why it did not take what it was last sent. */
  lastError: string | null;
  /** When it is tried again, in milliseconds since 1970, where it failed. */
  nextTry: number | null;
}

/** A join that is under way: events come first, and are then verified and kept. */
export interface JoinStatus {
  /** The server that is asked. */
  server: string;
  /** The room. */
  room: string;
  /** How many events of its state have come. */
  eventsRead: number;
  /** How many of them are kept. */
  eventsKept: number;
}

/** What a server holds and does, as of one moment. */
export interface Status {
  /** The server's name: what follows the colon in user ids. */
  serverName: string;
  /** The version of the package that runs. */
  version: string;
  /** Size of `ephapse.wasm`, uncompressed. */
  wasmBytes: number;
  /** Memory of the WebAssembly instance. */
  memoryBytes: number;
  /**
   * Bytes that the whole origin stores, as the browser estimates it; 0 where it does not tell
   * (WebKitGTK).
   */
  storageUsed: number;
  /** Bytes that the origin may store, as the browser estimates it; 0 where it does not tell. */
  storageQuota: number;
  /** Bytes that the server keeps: its records, and the files that were uploaded. */
  bytesStored: number;
  /** Bytes that the server handed in to be stored since the worker started. */
  bytesWritten: number;
  /** What waits in durable queues. */
  streams: StreamStatus[];
  /** Joins that wait for other servers, and the servers that things are sent to. */
  federation: { joins: JoinStatus[]; destinations: DestinationStatus[] };
  /** How often the engine was rebuilt from its database since the worker started. */
  rebuilds: number;
  /**
   * When the worker started, in milliseconds since 1970: browsers end it when nothing needs it, and
   * start it with the next request.
   */
  workerStarted: number;
  /** What else the server tells of itself; may change from version to version. */
  [detail: string]: unknown;
}

/** What can be listened to with `on`. */
export interface Events {
  /** A newer version of the worker took over; this page goes on working with it. */
  update: { version: string };
  /**
   * The server started anew from its database, after an error of its own. Nothing acknowledged is
   * lost.
   */
  restart: { reason: string };
  /** The server cannot run; it is tried again at the next request. */
  error: EphapseError;
}

/** A running server, as one page holds it. */
export interface Server {
  /** The homeserver's base URL, for any Matrix client in this page. No `/` at its end. */
  readonly baseUrl: string;
  /** The server's name: what follows the colon in user ids. */
  readonly serverName: string;
  /**
   * As `globalThis.fetch`, for requests to the server: when the browser ends the worker under a
   * request that may be repeated (GET, HEAD, PUT, DELETE, OPTIONS), it is repeated, and it resolves
   * when all of the answer is here, which else could break off; a page that the worker does not
   * control is put under its control first; and when a new version of the worker waits, the page is
   * silent for a moment in which the browser can switch. Hand it to clients that take one
   * (`fetchFn` in matrix-js-sdk). With the global `fetch`, clients see such a request fail and
   * repeat it in their own way, and one that never pauses can put off an update for as long as it
   * goes on, five minutes at most.
   */
  readonly fetch: typeof globalThis.fetch;
  /** What the server holds and does now. */
  status(): Promise<Status>;
  /**
   * This page needs the server no longer. It stops keeping the worker alive, and with the last page
   * the server closes its database. Rejects nothing that is under way, and a later request starts
   * the server again.
   */
  stop(): Promise<void>;
  /** Calls `listener` at every `event` until the returned function is called. */
  on<E extends keyof Events>(event: E, listener: (detail: Events[E]) => void): () => void;
}
