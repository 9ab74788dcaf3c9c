// Answers that leave together. Clients that ask again as soon as they are answered leave no instant
// in which nothing is pending; when all that are pending are answered at once, there is one before
// the first can ask again.

/** Nobody waits longer than this for the others. */
const patience = 1_000;

/** The requests of one worker, as their answers leave. */
export class Together {
  #pending = 0;
  #ready: (() => void)[] = [];
  #gathered: (() => void) | undefined;

  /**
   * Holds answers back until every request has its answer; resolves to the function that lets them
   * leave.
   */
  async gather(): Promise<() => void> {
    await new Promise<void>((gathered) => {
      this.#gathered = gathered;
      setTimeout(gathered, patience);
      this.#look();
    });
    return () => {
      this.#gathered = undefined;
      for (const leave of this.#ready.splice(0)) leave();
    };
  }

  /** `answer`, when it may leave. It must not reject. */
  async leave<T>(answer: Promise<T>): Promise<T> {
    this.#pending += 1;
    const answered = await answer;
    if (this.#gathered) {
      const leaving = new Promise<void>((leave) => this.#ready.push(leave));
      this.#look();
      await leaving;
    }
    this.#pending -= 1;
    return answered;
  }

  #look(): void {
    if (this.#ready.length === this.#pending) this.#gathered?.();
  }
}
