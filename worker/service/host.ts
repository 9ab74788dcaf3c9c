// What the browser lends the engine: timers and turns.

/** Ends after so many milliseconds. */
export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

let turns: { port: MessagePort; waiting: (() => void)[] } | undefined;

/**
 * Lets the events that wait be handled, then goes on. A `setTimeout` would wait 4 ms when nested;
 * what follows a `scheduler.yield()` comes before the requests that wait (Chromium 2026), so that
 * they were answered only when all of a long work was done.
 */
export function yieldNow(): Promise<void> {
  if (!turns) {
    const { port1, port2 } = new MessageChannel();
    const waiting: (() => void)[] = [];
    port1.onmessage = () => waiting.shift()?.();
    turns = { port: port2, waiting };
  }
  const { port, waiting } = turns;
  return new Promise((resolve) => {
    waiting.push(resolve);
    port.postMessage(undefined);
  });
}
