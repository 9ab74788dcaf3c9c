// Thumbnails are not made here: who decodes a picture answers nobody meanwhile, and a service
// worker has no workers. A page lends one (`page/lend.ts`), which gets the script and the module
// from here, and which the page ends after a time.

import { type Loan, type Wish, mark } from '../shared/protocol.ts';
import { type Outcome, type Wanted } from '../shared/thumbnails.ts';
import { sleep } from './host.ts';
import { moduleBytes, thumbnails } from './module.ts';

declare const self: ServiceWorkerGlobalScope;

/** So many milliseconds pages have to answer, and a worker to start: a page may be frozen. */
const lendTimeout = 3_000;
/** So many milliseconds a thumbnail may take. */
const thumbnailTimeout = 10_000;

/** Makes a thumbnail of a file, whose bytes are gone then. */
export async function thumbnail(scope: string, file: Uint8Array<ArrayBuffer>, wanted: Wanted): Promise<Outcome> {
  try {
    const module = await moduleBytes(scope, thumbnails);
    const port = await lentWorker();
    if (!port) return 'unsupported';
    port.postMessage({ module, file, wanted }, [module.buffer, file.buffer]);
    const outcome = await Promise.race([answerOn<Outcome>(port), sleep(thumbnailTimeout)]);
    port.close();
    return outcome ?? 'too-large';
  } catch (error) {
    console.warn(`ephapse: no thumbnail: ${String(error)}`);
    return 'unsupported';
  }
}

/** The way to a worker that waits for its task; `undefined` where no page lends one in time. */
async function lentWorker(): Promise<MessagePort | undefined> {
  const pages = await self.clients.matchAll({ type: 'window' });
  const ready = pages.map(async (page) => {
    const { port1, port2 } = new MessageChannel();
    const answered = answerOn(port1);
    page.postMessage({ [mark]: 1, wish: 'worker' } satisfies Wish, [port2]);
    await answered;
    return port1;
  });
  const port = await Promise.race([Promise.race(ready), sleep(lendTimeout)]);
  if (!port) return undefined;
  const started = answerOn(port);
  port.postMessage({ script: EPHAPSE_THUMBNAILER, milliseconds: lendTimeout + thumbnailTimeout } satisfies Loan);
  const isReady = await Promise.race([started.then(() => true), sleep(lendTimeout)]);
  return isReady ? port : undefined;
}

/** The next message that comes. */
function answerOn<T>(port: MessagePort): Promise<T> {
  return new Promise((resolve) => {
    port.onmessage = ({ data }: MessageEvent<T>) => { resolve(data); };
  });
}
