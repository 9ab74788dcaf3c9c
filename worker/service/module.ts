// The WebAssembly module: downloaded once, checked against the hash this worker was built for, kept
// in Cache Storage so that a restart needs no network.

import { type Stage } from '../shared/protocol.ts';
import { Failed } from './failed.ts';
import { sleep } from './host.ts';

const cacheName = (scope: string): string => `ephapse ${scope}`;
/** Where the module is downloaded from and stored. */
export const moduleUrl = (): string => new URL(`ephapse.wasm?sha256=${EPHAPSE_WASM_SHA256}`, location.href).href;

type Progress = (stage: Stage, loaded: number, total: number) => void;

/** The module, from the cache where it is there. */
export async function loadModule(scope: string, progress: Progress): Promise<WebAssembly.Module> {
  const [stored, cached] = await Promise.all([storedModule(scope), withCompiledCode()]);
  const checked = stored ?? (await downloadModule(scope, progress));
  progress('compile', 0, 1);
  // What the browser has was downloaded to be checked and stored. Where a site sends it under
  // another type, it is not taken for a module.
  const compiled = stored && cached && (await WebAssembly.compileStreaming(cached).catch(() => undefined));
  const module = compiled ?? (await WebAssembly.compileStreaming(checked).catch((error: unknown) => { throw refused(error); }));
  progress('compile', 1, 1);
  return module;
}

/** The bytes were checked, so it is not they that the browser does not like. */
function refused(error: unknown): Failed {
  return /content security policy|\bCSP\b/i.test(String(error))
    ? new Failed({
        code: 'blocked-by-policy',
        message: 'The content security policy of the worker\'s script forbids WebAssembly.',
        nextStep: 'Add \'wasm-unsafe-eval\' to the script-src of the policy.',
      })
    : new Failed({ code: 'server-failed', message: `This browser does not compile the server: ${String(error)}.`, nextStep: 'Use a current version of Chrome, Edge, Firefox or Safari.' });
}

/**
 * The module from the browser's HTTP cache, if it is still there: beside what lies in that one, and
 * in no other, Chromium keeps the code it compiled.
 */
async function withCompiledCode(): Promise<Response | undefined> {
  const response = await fetch(moduleUrl(), { cache: 'only-if-cached', mode: 'same-origin' }).catch(() => undefined);
  return response?.ok ? response : undefined;
}

/** Downloads the module into the cache unless it is there. */
export async function cacheModule(scope: string, progress: Progress): Promise<void> {
  if (!(await storedModule(scope))) await downloadModule(scope, progress);
}

/** Deletes the modules of other versions. */
export async function dropOtherModules(scope: string): Promise<void> {
  const cache = await caches.open(cacheName(scope));
  for (const request of await cache.keys()) if (request.url !== moduleUrl()) await cache.delete(request);
}

async function storedModule(scope: string): Promise<Response | undefined> {
  return (await caches.open(cacheName(scope))).match(moduleUrl());
}

async function downloadModule(scope: string, progress: Progress): Promise<Response> {
  const bytes = await download(progress);
  const response = new Response(bytes, { headers: { 'content-type': 'application/wasm' } });
  await (await caches.open(cacheName(scope))).put(moduleUrl(), response.clone());
  return response;
}

/** The module's bytes, as this worker was built for them. */
async function download(progress: Progress): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetched();
  const answered = `the server answered ${String(response.status)}`;
  if (!response.ok || !response.body) throw failed(`could not be loaded: ${answered}`, copyBoth);
  const bytes = await read(response.body, progress).catch((error: unknown) => { throw failed(`could not be loaded: ${String(error)}`, checkConnection); });
  // A site that answers every path with its start page says 200 all the same.
  if (String(bytes.subarray(0, 4)) !== magic) throw failed(`is not WebAssembly: ${answered} with ${response.headers.get('content-type') ?? 'no content type'}`, copyBoth);
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (found !== EPHAPSE_WASM_SHA256) throw failed(`is of another version than the worker's script: ${answered} with another file`, sameVersion);
  return bytes;
}

/** What every module begins with: a zero, "asm". */
const magic = '0,97,115,109';
const copyBoth = 'Copy ephapse.wasm and ephapse-worker.js side by side (npx ephapse init <the site\'s directory> does it), then reload.';
const sameVersion = 'Copy ephapse.wasm and ephapse-worker.js of the same version (npx ephapse init <the site\'s directory> does it), empty caches in between, then reload.';
const checkConnection = 'Check the connection, then reload. Where the site has a content security policy, its connect-src must allow \'self\'.';

/** The beginning of the answer. */
async function fetched(): Promise<Response> {
  const forbidden: Event[] = [];
  const onViolation = (event: Event): void => { forbidden.push(event); };
  addEventListener('securitypolicyviolation', onViolation);
  try {
    return await fetch(moduleUrl());
  } catch (error) {
    // The event may come after the answer.
    await sleep(50);
    throw forbidden.length > 0
      ? new Failed({ code: 'blocked-by-policy', message: `The content security policy of the worker's script forbids to load ${shownUrl()}.`, nextStep: 'Add connect-src \'self\' to the policy.' })
      : failed(`could not be loaded: ${String(error)}`, checkConnection);
  } finally {
    removeEventListener('securitypolicyviolation', onViolation);
  }
}

/** All of a body, but no more than one byte past what it should be. */
async function read(body: ReadableStream<Uint8Array>, progress: Progress): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(EPHAPSE_WASM_BYTES + 1);
  let loaded = 0;
  progress('download', loaded, EPHAPSE_WASM_BYTES);
  for (const reader = body.getReader(); loaded < bytes.length; ) {
    const { done, value } = await reader.read();
    if (done) break;
    const part = value.subarray(0, bytes.length - loaded);
    bytes.set(part, loaded);
    loaded += part.length;
    progress('download', Math.min(loaded, EPHAPSE_WASM_BYTES), EPHAPSE_WASM_BYTES);
    if (loaded === bytes.length) await reader.cancel();
  }
  return bytes.subarray(0, loaded);
}

/** Without the hash, which tells people nothing. */
function shownUrl(): string {
  return new URL('ephapse.wasm', location.href).href;
}

function failed(what: string, nextStep: string): Failed {
  return new Failed({ code: 'download-failed', message: `${shownUrl()} ${what}.`, nextStep });
}
