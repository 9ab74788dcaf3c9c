// What the browser lends the engine: timers and turns.

/** Ends after so many milliseconds. */
export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Lets the events that wait be handled, then goes on: a `setTimeout` would wait 4 ms when nested. */
export const yieldNow: () => Promise<void> = 'scheduler' in self && 'yield' in self.scheduler ? () => self.scheduler.yield() : messageTurns();

// For browsers without scheduler.yield (Safari, 2026).
function messageTurns(): () => Promise<void> {
  const { port1, port2 } = new MessageChannel();
  const waiting: (() => void)[] = [];
  port1.onmessage = () => waiting.shift()?.();
  return () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      port2.postMessage(undefined);
    });
}
