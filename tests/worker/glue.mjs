// An engine of JavaScript in place of the wasm one: `engines` holds every instance that was made,
// and each does what its test tells it.

export const engines = [];

/** As wasm-bindgen's glue, made anew for each instance. */
export function createGlue() {
  const engine = {
    calls: [],
    current: 0,
    holding: true,
    closed: false,
    /** The calls that have handed in a write. */
    written: new Set(),
    /**
     * Ends the instance as a panic does: the hook is called, and none but those who have written
     * are answered any more.
     */
    panic(call) {
      engine.host.panicked(call, 'a panic of the test');
    },
    serverName: () => 'k51.test',
    status: () => ({ position: 7 }),
    setHolding: (holding) => { engine.holding = holding; },
    setMaxUpload: async (bytes) => { engine.maxUpload = bytes; },
    hasLostDatabase: async () => engine.lost === true,
    shutdown: async () => { engine.closed = true; },
    handle: (call, method, path, headers, ownPage, body, rest) =>
      new Promise((resolve, reject) => {
        const answer = (status = 200, content = new Uint8Array()) => resolve({ status, headers: [], body: content });
        engine.calls.push({ call, method, path, ownPage, body, rest, answer, reject });
        engine.arrived?.();
      }),
  };
  engines.push(engine);
  const glue = async () => ({ memory: new WebAssembly.Memory({ initial: 1 }) });
  glue.current_call = () => engine.current;
  glue.has_written = (call) => engine.written.has(call);
  glue.end_turns = () => { engine.written.delete(engine.current); };
  glue.open = async (database, publicUrl, host) => {
    Object.assign(engine, { database, publicUrl, host });
    const failure = failures.shift();
    if (failure) throw failure;
    return engine;
  };
  return glue;
}

/** What the next instances fail with when they open. */
export const failures = [];
