// A service worker has no workers of its own: what would keep it from answering runs in one that a
// page lends it.

import { type Loan, type Wish, isOurs } from '../shared/protocol.ts';

/** Lends workers to the site's service worker until the returned function is called. */
export function lendWorkers(): () => void {
  const onMessage = ({ data, ports: [port] }: MessageEvent<unknown>): void => {
    // A page that has called `start()` twice lends once.
    if (!isOurs(data) || (data as Partial<Wish>).wish !== 'worker' || !port || port.onmessage) return;
    // Of all pages that are ready one is chosen.
    port.onmessage = ({ data: loan }: MessageEvent<Loan>) => { lend(port, loan); };
    port.postMessage('ready');
  };
  navigator.serviceWorker.addEventListener('message', onMessage);
  navigator.serviceWorker.startMessages();
  return () => { navigator.serviceWorker.removeEventListener('message', onMessage); };
}

/** Starts a worker, which goes on with the port; it ends itself, or is ended. */
function lend(port: MessagePort, { script, milliseconds }: Loan): void {
  const blob = URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));
  const worker = new Worker(blob);
  worker.postMessage(undefined, [port]);
  setTimeout(() => {
    worker.terminate();
    URL.revokeObjectURL(blob);
  }, milliseconds);
}
