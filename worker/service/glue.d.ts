// The build puts wasm-bindgen's glue under this name, and a few facts about the build into
// constants.

declare const EPHAPSE_VERSION: string;
declare const EPHAPSE_MODULES: Record<'server' | 'thumbnails', { sha256: string; bytes: number }>;
/** The script that makes thumbnails in a worker. */
declare const EPHAPSE_THUMBNAILER: string;

declare module 'ephapse:glue' {
  /** What the engine asks of the worker. */
  export interface Host {
    /** Ends after so many milliseconds. */
    sleep(milliseconds: number): Promise<void>;
    /** Lets waiting events be handled, then goes on. */
    yieldNow(): Promise<void>;
    /**
     * Called from the panic hook; `call` is the number of the call whose turn it was, 0 when it was
     * a background task.
     */
    panicked(call: number, message: string): void;
    /** A line for the console. */
    log(level: 'error' | 'warn' | 'info', line: string): void;
    /** Makes a thumbnail; resolves to a word for the reason where there is none. */
    thumbnail(file: Uint8Array<ArrayBuffer>, width: number, height: number, isCropped: boolean, isAnimated: boolean): Promise<object | string>;
  }

  /** What is still to come of a request's body. */
  export interface Rest {
    /** Resolves to `undefined` at the end. */
    next(): Promise<Uint8Array | undefined>;
  }

  /** The body of a large answer. */
  export interface Pieces {
    /** Whether all of it is there, so that it can be had from an instance that has ended. */
    readonly whole: boolean;
    /** Resolves to `undefined` at the end. */
    next(): Promise<Uint8Array<ArrayBuffer> | undefined>;
    /** Drops what nobody will read. */
    cancel(): void;
    /** Ends this object. */
    free(): void;
  }

  /** A response as the engine gives it. */
  export interface RawResponse {
    status: number;
    headers: [string, string][];
    body: Uint8Array<ArrayBuffer> | Pieces;
  }

  /** Why the engine does not open. */
  export interface OpenFailure {
    kind: 'newer-format' | 'quota' | 'storage' | 'unreadable' | 'failed';
    message: string;
  }

  export interface Engine {
    handle(call: number, method: string, pathAndQuery: string, headers: string[], ownPage: boolean, body: Uint8Array, rest: Rest | undefined): Promise<RawResponse>;
    serverName(): string;
    status(): Record<string, unknown>;
    /**
     * Whether requests such as `/sync` may wait for something to happen; `false` also answers those
     * that wait.
     */
    setHolding(holding: boolean): void;
    /**
     * Whether the database is gone for good: closed by the browser, or taken over by another
     * engine.
     */
    hasLostDatabase(): Promise<boolean>;
    /**
     * How many bytes an uploaded file may have, until something else is said; the default where
     * none are given.
     */
    setMaxUpload(bytes: number | undefined): Promise<void>;
    shutdown(): Promise<void>;
  }

  export interface Glue {
    (options: { module_or_path: WebAssembly.Module }): Promise<{ memory: WebAssembly.Memory }>;
    /** Rejects with an `OpenFailure`. */
    open(database: string, publicUrl: string, host: Host): Promise<Engine>;
    /** The number of the call whose turn it is or, after a trap, was. */
    current_call(): number;
    /**
     * Whether a call has handed in a write; after the end of the instance, whether it still goes on
     * to its answer.
     */
    has_written(call: number): boolean;
    /** Ends the instance as a panic does, for what no panic hook sees. */
    end_turns(): void;
  }

  /** Every call makes an independent instance. */
  export function createGlue(): Glue;
}
