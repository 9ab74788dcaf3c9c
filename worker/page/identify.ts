// Whether a service worker has the server in it. One scope has one worker, and a site may have one
// of its own: with the server imported into it, or without.

import { EphapseError } from './api.ts';
import { askTo } from './ask.ts';

/** The name of the package's own script. */
export const workerName = 'ephapse-worker.js';
/** A worker that has the server answers within milliseconds of its start. */
const helloTimeout = 4_000;

const answered = new WeakSet<ServiceWorker>();

/** The last part of a script's path. */
export function scriptName(script: string): string {
  return new URL(script).pathname.split('/').at(-1) ?? '';
}

/** Whether a worker is known to have the server in it: by its name, or since it said so. */
export function isKnown(worker: ServiceWorker): boolean {
  return scriptName(worker.scriptURL) === workerName || answered.has(worker);
}

/** Whether a worker has the server in it; asks it where that is not known. */
export async function hasServer(worker: ServiceWorker): Promise<boolean> {
  if (isKnown(worker)) return true;
  if (!(await askTo(worker, { ask: 'hello' }, helloTimeout))) return false;
  answered.add(worker);
  return true;
}

/** A worker without the server serves the scope. */
export function foreign(worker: ServiceWorker, scope: string): EphapseError {
  const [script, directory] = [new URL(worker.scriptURL).pathname, new URL(scope).pathname];
  return new EphapseError(
    'foreign-worker',
    `This site has a service worker of its own for ${directory}, ${script}, and the server is not in it.`,
    `Make importScripts('/${workerName}') the first line of ${script} and call start({ workerUrl: '${script}', scope: '${directory}' }), or unregister that worker.`,
  );
}
