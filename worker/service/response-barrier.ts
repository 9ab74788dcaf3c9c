// Responses that leave together. Clients that ask again as soon as they are answered leave no
// instant in which nothing is pending. When all pending requests are answered at once, there is one
// before the first client can ask again.

/** No response waits longer than this for the others. */
const holdTimeout = 1_000;

/** The pending requests of one worker, and their responses as they leave. */
export class ResponseBarrier {
  #pending = 0;
  #held: (() => void)[] = [];
  #allHeld: (() => void) | undefined;

  /**
   * Holds responses back until every pending request has one; resolves to the function that
   * releases them.
   */
  async hold(): Promise<() => void> {
    await new Promise<void>((allHeld) => {
      this.#allHeld = allHeld;
      setTimeout(allHeld, holdTimeout);
      this.#check();
    });
    return () => {
      this.#allHeld = undefined;
      for (const release of this.#held.splice(0)) release();
    };
  }

  /** `response`, once it may leave. It must not reject. */
  async pass<T>(response: Promise<T>): Promise<T> {
    this.#pending += 1;
    const answered = await response;
    if (this.#allHeld) {
      const released = new Promise<void>((release) => this.#held.push(release));
      this.#check();
      await released;
    }
    this.#pending -= 1;
    return answered;
  }

  #check(): void {
    if (this.#held.length === this.#pending) this.#allHeld?.();
  }
}
