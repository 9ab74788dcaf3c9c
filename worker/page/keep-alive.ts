// Browsers end a service worker that has had nothing to do for 30 seconds. A request every 20 keeps
// it; it comes from a dedicated worker, since the timers of a hidden page fall to one a minute.

const interval = 20_000;

/**
 * Keeps the server's worker alive until the returned function is called. `byPage` is what a page
 * does where it may not have a worker of its own.
 */
export function keepAlive(url: string, byPage: () => Promise<unknown>): () => void {
  let stop = (): void => undefined;
  const fallBack = (): void => {
    const timer = setInterval(() => { byPage().catch(() => undefined); }, interval);
    stop = () => { clearInterval(timer); };
  };
  try {
    const script = `setInterval(() => { fetch(${JSON.stringify(url)}).catch(() => undefined); }, ${String(interval)});`;
    const blob = URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));
    const worker = new Worker(blob);
    // A site's content security policy may forbid blob: workers.
    worker.addEventListener('error', fallBack, { once: true });
    stop = () => { worker.terminate(); URL.revokeObjectURL(blob); };
  } catch {
    fallBack();
  }
  return () => { stop(); };
}
