// Chromium shares the code of a module among all who hold it in a process, and a page and its
// service worker mostly live in one. So the page holds the server's module while the worker comes
// and goes: a worker that starts again finds it compiled, with every function that ran before. A
// hint only.

/** The module that a page holds for its worker. */
export class Compiled {
  #url: string | undefined;
  #module: WebAssembly.Module | undefined;

  /** Holds the module that the worker has stored under `url`, in place of the one before. */
  async hold(url: string | undefined): Promise<void> {
    // Other engines share no code: there it would be compiled once more, for nothing.
    if (url === undefined || url === this.#url || !('userAgentData' in navigator)) return;
    this.#url = url;
    this.#module = undefined;
    try {
      const stored = await caches.match(url);
      const module = stored && (await WebAssembly.compileStreaming(stored));
      // Meanwhile there may be another, or none wanted any more.
      if (this.#url === url) this.#module = module;
    } catch {
      // The site's content security policy may leave WebAssembly to the worker.
    }
  }

  /** The module that is held. */
  get module(): WebAssembly.Module | undefined {
    return this.#module;
  }

  /** Lets it go. */
  release(): void {
    this.#url = undefined;
    this.#module = undefined;
  }
}
