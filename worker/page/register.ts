// Whether this browser can run the server at all, and the registration of its worker. What fails
// here says what the user can do.

import { EphapseError } from './api.ts';
import { foreign, hasServer, scriptName, workerName } from './identify.ts';

/** Throws when something that the server needs is missing. */
export async function checkEnvironment(): Promise<void> {
  if (!isSecureContext) {
    throw new EphapseError('insecure-context', 'A homeserver in the browser needs a secure page.', 'Open this page over https:// (or on this machine as http://localhost).');
  }
  if (!('serviceWorker' in navigator)) {
    throw new EphapseError('no-service-worker', 'This browser does not support service workers.', 'Use a current version of Chrome, Edge, Firefox or Safari, with its service workers allowed.');
  }
  if (!('locks' in navigator) || !('caches' in globalThis)) {
    throw new EphapseError('no-service-worker', 'This browser does not support Web Locks or Cache Storage.', 'Use a current version of Chrome, Edge, Firefox or Safari.');
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

/** What `register` is told beside the URLs. */
export interface RegisterOptions {
  /** Whether the site left it to us where the worker is. */
  byDefault: boolean;
  /** What a worker that is being installed said of its failure. */
  failure: () => EphapseError | undefined;
}

/** Registers the worker and waits for a version that is active. */
export async function register(workerUrl: URL, scope: string, { byDefault, failure }: RegisterOptions): Promise<ServiceWorkerRegistration> {
  if (workerUrl.origin !== location.origin) {
    throw new EphapseError('worker-failed', `The worker's script ${workerUrl.href} is of another origin.`, 'Serve ephapse-worker.js and ephapse.wasm from the page\'s own origin and pass `workerUrl`.');
  }
  if (!location.href.startsWith(scope)) throw outOfScope(new URL(scope).pathname);
  await checkOthers(workerUrl, scope, byDefault);
  let registration: ServiceWorkerRegistration;
  try {
    registration = await navigator.serviceWorker.register(await registeredAs(workerUrl, scope), { scope, updateViaCache: 'none' });
  } catch (error) {
    throw await notInstalled(workerUrl, scope, error);
  }
  await firstActive(registration, failure);
  await serverActive(registration);
  await checkReach(registration);
  return registration;
}

function outOfScope(directory: string): EphapseError {
  const page = location.pathname;
  return `${page}/` === directory
    ? new EphapseError('out-of-scope', `This page is ${page}, and the server's scope is ${directory}.`, `Open it as ${directory}: let the site redirect ${page} there, or put ephapse-worker.js higher up.`)
    : new EphapseError(
        'out-of-scope',
        `This page (${page}) lies outside the server's scope (${directory}).`,
        'Put ephapse-worker.js at or above the page\'s directory, or pass a wider `scope` and send the header Service-Worker-Allowed with the script.',
      );
}

/** Registering a script replaces whatever worker the scope has: never one of the site's own. */
async function checkOthers(workerUrl: URL, scope: string, byDefault: boolean): Promise<void> {
  const registration = await navigator.serviceWorker.getRegistration(scope);
  const newest = registration?.scope === scope ? (registration.installing ?? registration.waiting ?? registration.active) : undefined;
  if (!newest || withoutAttempt(newest.scriptURL) === workerUrl.href) return;
  if (!(await hasServer(newest))) throw foreign(newest, scope);
  if (!byDefault || scriptName(newest.scriptURL) === workerName) return;
  const script = new URL(newest.scriptURL).pathname;
  throw new EphapseError(
    'foreign-worker',
    `The server runs in the site's own service worker, ${script}.`,
    `Call start({ workerUrl: '${script}', scope: '${new URL(scope).pathname}' }).`,
  );
}

/** Why the browser did not take the script. It says little itself, and in Firefox nothing. */
async function notInstalled(workerUrl: URL, scope: string, error: unknown): Promise<EphapseError> {
  const why = messageOf(error);
  const failed = (what: string, next: string): EphapseError => new EphapseError('worker-failed', `The worker's script ${workerUrl.href} could not be installed: ${what}.`, next);
  if (/content security policy/i.test(why)) {
    return new EphapseError('blocked-by-policy', 'The site\'s content security policy forbids the server\'s worker.', 'Add worker-src \'self\' blob: to the policy.');
  }
  const copy = 'Copy ephapse-worker.js and ephapse.wasm to the root of the site with `npx ephapse init <its directory>`, or pass `workerUrl` where they are elsewhere.';
  const response = await fetch(workerUrl, { cache: 'no-store' }).catch(() => undefined);
  if (response && !response.ok) return failed(`the server answered ${response.status}`, copy);
  const type = response?.headers.get('content-type') ?? '';
  if (response && !/javascript|ecmascript/i.test(type)) {
    return failed(`the server answered ${response.status} with ${type || 'no content type'}, and not with JavaScript`, type.startsWith('text/html') ? copy : 'Serve it as text/javascript.');
  }
  if (error instanceof DOMException && error.name === 'SecurityError' && !/scope|script|mime/i.test(why)) return storageFailure(error);
  return new URL('./', workerUrl).href === scope
    ? failed(why, 'Check that it runs by itself, and that whatever it imports is there.')
    : failed(why, `Send the header Service-Worker-Allowed: ${new URL(scope).pathname} with it, since the scope is not its own directory.`);
}

/** The site's own worker may have got the server just now, in a version that is not active yet. */
async function serverActive(registration: ServiceWorkerRegistration): Promise<void> {
  const { active } = registration;
  if (!active || (await hasServer(active))) return;
  await registration.update().catch(() => undefined);
  const coming = registration.installing ?? registration.waiting ?? registration.active;
  for (let waited = 0; coming && coming.state !== 'activated' && coming.state !== 'redundant' && waited < takeoverTimeout; waited += 50) await sleep(50);
  if (coming === active || coming?.state !== 'activated' || !(await hasServer(coming))) throw foreign(active, registration.scope);
}

/**
 * The browser gives a page to the worker of the narrowest scope, and no other one can take it from
 * there.
 */
async function checkReach(registration: ServiceWorkerRegistration): Promise<void> {
  const nearest = await navigator.serviceWorker.getRegistration();
  if (!nearest || nearest.scope === registration.scope) return;
  throw new EphapseError(
    'out-of-scope',
    `This page belongs to the service worker of ${new URL(nearest.scope).pathname}, which keeps it from the server of ${new URL(registration.scope).pathname}.`,
    'Pass that narrower `scope`, or unregister its worker.',
  );
}

/**
 * Marks a script that was registered once more, with a number that grows with each time; the site
 * need not know it.
 */
const attempt = 'ephapse-attempt';
/**
 * So many attempts to activate a new version follow at once upon each other. A client that never
 * pauses may use them up; then there is one now and then.
 */
const quickAttempts = 8;
const slowInterval = 600_000;
/** A new version that is about to take over has done so by then. */
const takeoverTimeout = 10_000;

/**
 * Registers a script that waits in vain to become active under a URL that differs in its query, so
 * that the browser takes it for another new version: at once, or after a pause where that was done
 * often, and again as long as it waits. One page of the site does it. With `atOnce` it is done at
 * once however often it was.
 */
export async function registerAgain(script: string, scope: string, { atOnce = false } = {}): Promise<void> {
  await navigator.locks.request(`${scope} ${attempt}`, async () => {
    const registration = await navigator.serviceWorker.getRegistration(scope);
    const waits = (): boolean => registration?.waiting?.scriptURL === script;
    const last = attemptOf(script);
    const next = new URL(script);
    next.searchParams.set(attempt, String(last + 1));
    // The active version has the number of its own last attempt, from which those of the next ones
    // go on.
    let quick = atOnce || last - attemptOf(registration?.active?.scriptURL ?? script) < quickAttempts;
    while (waits()) {
      if (!quick) await sleep(slowInterval);
      if (waits() && (await installs(next, scope))) return;
      quick = false;
    }
  });
}

/**
 * Registers a version that waits already when a page is opened: whoever was told that it waits in
 * vain may have been closed since.
 */
export async function registerWaiting({ waiting }: ServiceWorkerRegistration, scope: string): Promise<void> {
  if (!waiting) return;
  await sleep(takeoverTimeout);
  await registerAgain(waiting.scriptURL, scope, { atOnce: true });
}

/**
 * Registers a script; resolves to whether the browser could install it, and it speaks for itself
 * from now on.
 */
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

/**
 * The URL under which the worker is registered, so that one that was registered once more is not
 * taken for another version.
 */
async function registeredAs(workerUrl: URL, scope: string): Promise<URL> {
  const registration = await navigator.serviceWorker.getRegistration(scope);
  const newest = registration?.waiting ?? registration?.active;
  if (!newest) return workerUrl;
  return withoutAttempt(newest.scriptURL) === workerUrl.href ? new URL(newest.scriptURL) : workerUrl;
}

function withoutAttempt(script: string): string {
  const url = new URL(script);
  url.searchParams.delete(attempt);
  return url.href;
}

function firstActive(registration: ServiceWorkerRegistration, failure: RegisterOptions['failure']): Promise<void> {
  return new Promise((resolve, reject) => {
    const watch = (worker: ServiceWorker | null): void => {
      const check = (): void => {
        if (registration.active) resolve();
        else if (worker?.state === 'redundant') installationError(failure).then(reject, reject);
      };
      worker?.addEventListener('statechange', check);
      check();
    };
    watch(registration.installing ?? registration.waiting ?? registration.active);
  });
}

/** What the worker said and the browser tells of its end come by different ways. */
async function installationError(failure: RegisterOptions['failure']): Promise<EphapseError> {
  for (let waited = 0; !failure() && waited < 500; waited += 50) await sleep(50);
  return failure() ?? new EphapseError('worker-failed', 'The worker could not be installed.', 'Check that ephapse.wasm lies beside ephapse-worker.js, and that the site may store data, then reload.');
}

function storageFailure(error: unknown): EphapseError {
  const why = messageOf(error);
  if (error instanceof DOMException && error.name === 'QuotaExceededError') {
    return new EphapseError('storage-blocked', `The site cannot store anything (${why}).`, 'Free some disk space, then reload.');
  }
  return new EphapseError('storage-blocked', `The browser does not let this site store data (${why}).`, 'Allow cookies and site data for this site, then reload.');
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
