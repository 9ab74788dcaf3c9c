// Whether this browser can run the server at all, and the registration of its worker. What fails here says what the user can do.

import { type ErrorCode } from '../shared/protocol.ts';
import { EphapseError } from './api.ts';

/** Throws when something that the server needs is missing. */
export async function checkEnvironment(): Promise<void> {
  if (!isSecureContext) {
    throw new EphapseError('insecure-context', 'A homeserver in the browser needs a secure page.', 'Open this page over https:// (or on this machine as http://localhost).');
  }
  if (!('serviceWorker' in navigator)) {
    // Firefox hides service workers in private windows (bug 1320796).
    throw isFirefox()
      ? new EphapseError('private-mode', 'Firefox offers no service workers in this window.', 'Open this page in a window that is not private, and allow the site to store data.')
      : new EphapseError('no-service-worker', 'This browser has no service workers.', 'Use a current version of Chrome, Edge, Firefox or Safari.');
  }
  if (!('locks' in navigator) || !('caches' in globalThis)) {
    throw new EphapseError('no-service-worker', 'This browser lacks what the server needs (Web Locks, Cache Storage).', 'Use a current version of Chrome, Edge, Firefox or Safari.');
  }
  await checkStorage();
}

async function checkStorage(): Promise<void> {
  try {
    const databases = globalThis.indexedDB;
    await new Promise<void>((resolve, reject) => {
      const request = databases.open('ephapse storage check');
      request.onerror = () => { reject(request.error ?? new Error('unknown')); };
      request.onsuccess = () => {
        request.result.close();
        databases.deleteDatabase('ephapse storage check');
        resolve();
      };
    });
  } catch (error) {
    throw storageFailure(error);
  }
}

/** Registers the worker and waits for a version that is active. */
export async function register(workerUrl: URL, scope: string): Promise<ServiceWorkerRegistration> {
  if (workerUrl.origin !== location.origin) {
    throw new EphapseError('worker-failed', `The worker's script ${workerUrl.href} is of another origin.`, 'Serve ephapse-worker.js and ephapse.wasm from the page\'s own origin and pass `workerUrl`.');
  }
  if (!location.href.startsWith(scope)) {
    throw new EphapseError(
      'out-of-scope',
      `This page (${location.pathname}) lies outside the server's scope (${new URL(scope).pathname}).`,
      'Put ephapse-worker.js at or above the page\'s directory, or pass a wider `scope` and send the header Service-Worker-Allowed with the script.',
    );
  }
  let registration: ServiceWorkerRegistration;
  try {
    registration = await navigator.serviceWorker.register(await registeredAs(workerUrl, scope), { scope, updateViaCache: 'none' });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'SecurityError' && !/scope|script|mime/i.test(error.message)) throw storageFailure(error);
    throw new EphapseError(
      'worker-failed',
      `The worker's script ${workerUrl.href} could not be installed: ${messageOf(error)}.`,
      'Check that it is served as JavaScript, with the header Service-Worker-Allowed where the scope is above its directory.',
    );
  }
  await firstActive(registration);
  await checkReach(registration);
  return registration;
}

/** The browser gives a page to the worker of the narrowest scope, and no other one can take it from there. */
async function checkReach(registration: ServiceWorkerRegistration): Promise<void> {
  const nearest = await navigator.serviceWorker.getRegistration();
  if (!nearest || nearest.scope === registration.scope) return;
  throw new EphapseError(
    'out-of-scope',
    `This page belongs to the service worker of ${new URL(nearest.scope).pathname}, which keeps it from the server of ${new URL(registration.scope).pathname}.`,
    'Pass that narrower `scope`, or unregister its worker.',
  );
}

/** Marks a script that was registered once more, with a number that grows with each time; the site need not know it. */
const attempt = 'ephapse-attempt';
/** So many attempts to activate a new version follow at once upon each other. A client that never pauses may use them up; then there is one now and then. */
const quickAttempts = 8;
const slowPace = 600_000;
/** A new version that is about to take over has done so by then. */
const untilTakenOver = 10_000;

/**
 * Registers a script that waits in vain to become active under a URL that differs in its query, so that the browser takes it for another new version: at
 * once, or after a pause where that was done often, and again as long as it waits. One page of the site does it. With `atOnce` it is done at once however
 * often it was.
 */
export async function registerAgain(script: string, scope: string, { atOnce = false } = {}): Promise<void> {
  await navigator.locks.request(`${scope} ${attempt}`, async () => {
    const registration = await navigator.serviceWorker.getRegistration(scope);
    const waits = (): boolean => registration?.waiting?.scriptURL === script;
    const last = attemptOf(script);
    const next = new URL(script);
    next.searchParams.set(attempt, String(last + 1));
    // The active version has the number of its own last attempt, from which those of the next ones go on.
    let quick = atOnce || last - attemptOf(registration?.active?.scriptURL ?? script) < quickAttempts;
    while (waits()) {
      if (!quick) await sleep(slowPace);
      if (waits() && (await installs(next, scope))) return;
      quick = false;
    }
  });
}

/** Registers a version that waits already when a page is opened: whoever was told that it waits in vain may have been closed since. */
export async function registerWaiting({ waiting }: ServiceWorkerRegistration, scope: string): Promise<void> {
  if (!waiting) return;
  await sleep(untilTakenOver);
  await registerAgain(waiting.scriptURL, scope, { atOnce: true });
}

/** Registers a script; resolves to whether the browser could install it, and it speaks for itself from now on. */
async function installs(script: URL, scope: string): Promise<boolean> {
  try {
    const { installing } = await navigator.serviceWorker.register(script, { scope, updateViaCache: 'none' });
    while (installing?.state === 'installing') await new Promise((changed) => { installing.addEventListener('statechange', changed, { once: true }); });
    return installing?.state !== 'redundant';
  } catch {
    // The site cannot be reached.
    return false;
  }
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function attemptOf(script: string): number {
  return Number(new URL(script).searchParams.get(attempt) ?? 0);
}

/** The URL under which the worker is registered, so that one that was registered once more is not taken for another version. */
async function registeredAs(workerUrl: URL, scope: string): Promise<URL> {
  const registration = await navigator.serviceWorker.getRegistration(scope);
  const newest = registration?.waiting ?? registration?.active;
  if (!newest) return workerUrl;
  const registered = new URL(newest.scriptURL);
  registered.searchParams.delete(attempt);
  return registered.href === workerUrl.href ? new URL(newest.scriptURL) : workerUrl;
}

function firstActive(registration: ServiceWorkerRegistration): Promise<void> {
  return new Promise((resolve, reject) => {
    const watch = (worker: ServiceWorker | null): void => {
      const look = (): void => {
        if (registration.active) resolve();
        else if (worker?.state === 'redundant') {
          reject(new EphapseError('worker-failed', 'The worker could not be installed.', 'Check that ephapse.wasm lies beside ephapse-worker.js, and that the site may store data, then reload.'));
        }
      };
      worker?.addEventListener('statechange', look);
      look();
    };
    watch(registration.installing ?? registration.waiting ?? registration.active);
  });
}

function storageFailure(error: unknown): Error {
  const why = messageOf(error);
  const code: ErrorCode = isFirefox() ? 'private-mode' : 'storage-blocked';
  if (error instanceof DOMException && error.name === 'QuotaExceededError') {
    return new EphapseError('storage-blocked', `The site cannot store anything (${why}).`, 'Free some disk space, then reload.');
  }
  return new EphapseError(code, `The browser does not let this site store data (${why}).`, 'Allow cookies and site data for this site, and open it in a window that is not private.');
}

function isFirefox(): boolean {
  return CSS.supports('-moz-appearance', 'none');
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
