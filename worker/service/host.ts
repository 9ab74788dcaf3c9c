// What the browser lends the engine: timers and turns.

/** Ends after so many milliseconds. */
export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Lets the events that wait be handled, then goes on: a `setTimeout` would wait 4 ms when nested. */
export function yieldNow(): Promise<void> {
  return 'scheduler' in globalThis && 'yield' in scheduler ? scheduler.yield() : messageTurn();
}

let turns: { port: MessagePort; waiting: (() => void)[] } | undefined;

// For browsers without scheduler.yield (Safari, 2026).
function messageTurn(): Promise<void> {
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
