// Makes one thumbnail in a worker that a page lends to the service worker, and ends with its
// memory. It is told what to do by the port that comes with the page's only message.

import { createGlue } from 'ephapse:thumbnails-glue';
import { type Job, type Outcome } from '../shared/thumbnails.ts';

declare const self: DedicatedWorkerGlobalScope;

self.addEventListener('message', ({ ports: [port] }) => {
  if (!port) return;
  port.onmessage = ({ data }: MessageEvent<Job>) => {
    void made(data).then((outcome) => {
      port.postMessage(outcome, typeof outcome === 'string' ? [] : [outcome.bytes.buffer]);
      self.close();
    });
  };
  port.postMessage('ready');
});

async function made({ module, file, wanted }: Job): Promise<Outcome> {
  const glue = createGlue();
  try {
    await glue({ module_or_path: await WebAssembly.compile(module) });
  } catch {
    // The site's content security policy may leave WebAssembly to the service worker.
    return 'unsupported';
  }
  try {
    const { bytes, contentType, width, height } = glue.thumbnail(file, wanted.width, wanted.height, wanted.isCropped, wanted.isAnimated);
    return { bytes, contentType, width, height };
  } catch (error) {
    // A trap is mostly memory that has run out.
    return error === 'not-an-image' ? 'not-an-image' : 'too-large';
  }
}
