// The WebAssembly modules: downloaded once, checked against the hashes this worker was built for,
// kept in Cache Storage so that a restart needs no network.

import { type Stage } from '../shared/protocol.ts';
import { Failed } from './failed.ts';
import { sleep } from './host.ts';

const cacheName = (scope: string): string => `ephapse ${scope}`;

/** A file beside the worker's script. */
export interface ModuleFile {
  name: string;
  sha256: string;
  bytes: number;
}

/** The server. */
export const server: ModuleFile = { name: 'ephapse.wasm', ...EPHAPSE_MODULES.server };
/** What makes thumbnails. */
export const thumbnails: ModuleFile = { name: 'ephapse-thumbnails.wasm', ...EPHAPSE_MODULES.thumbnails };

/** Where a module is downloaded from and stored. */
export const moduleUrl = ({ name, sha256 }: ModuleFile): string => new URL(`${name}?sha256=${sha256}`, location.href).href;

type Progress = (stage: Stage, loaded: number, total: number) => void;

/** The server's module, from the cache where it is there. */
export async function loadModule(scope: string, progress: Progress): Promise<WebAssembly.Module> {
  const [stored, cached] = await Promise.all([storedModule(scope, server), withCompiledCode()]);
  const checked = stored ?? (await downloadModule(scope, server, progress));
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
  const response = await fetch(moduleUrl(server), { cache: 'only-if-cached', mode: 'same-origin' }).catch(() => undefined);
  return response?.ok ? response : undefined;
}

/** Downloads the server's module into the cache unless it is there. */
export async function cacheModule(scope: string, progress: Progress): Promise<void> {
  if (!(await storedModule(scope, server))) await downloadModule(scope, server, progress);
}

/** The bytes of a module, which is downloaded where it is not in the cache. */
export async function moduleBytes(scope: string, file: ModuleFile): Promise<Uint8Array<ArrayBuffer>> {
  const response = (await storedModule(scope, file)) ?? (await downloadModule(scope, file, () => undefined));
  return new Uint8Array(await response.arrayBuffer());
}

/** Deletes the modules of other versions. */
export async function dropOtherModules(scope: string): Promise<void> {
  const cache = await caches.open(cacheName(scope));
  const current = [server, thumbnails].map(moduleUrl);
  for (const request of await cache.keys()) if (!current.includes(request.url)) await cache.delete(request);
}

async function storedModule(scope: string, file: ModuleFile): Promise<Response | undefined> {
  return (await caches.open(cacheName(scope))).match(moduleUrl(file));
}

async function downloadModule(scope: string, file: ModuleFile, progress: Progress): Promise<Response> {
  const bytes = await download(file, progress);
  const response = new Response(bytes, { headers: { 'content-type': 'application/wasm' } });
  await (await caches.open(cacheName(scope))).put(moduleUrl(file), response.clone());
  return response;
}

/** A module's bytes, as this worker was built for them. */
async function download(file: ModuleFile, progress: Progress): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetched(file);
  const answered = `the server answered ${String(response.status)}`;
  if (!response.ok || !response.body) throw failed(file, `could not be loaded: ${answered}`, copyBoth(file));
  const bytes = await read(response.body, file, progress).catch((error: unknown) => { throw failed(file, `could not be loaded: ${String(error)}`, checkConnection); });
  // A site that answers every path with its start page says 200 all the same.
  if (String(bytes.subarray(0, 4)) !== magic) throw failed(file, `is not WebAssembly: ${answered} with ${response.headers.get('content-type') ?? 'no content type'}`, copyBoth(file));
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (found !== file.sha256) throw failed(file, `is of another version than the worker's script: ${answered} with another file`, sameVersion(file));
  return bytes;
}

/** What every module begins with: a zero, "asm". */
const magic = '0,97,115,109';
const copyBoth = ({ name }: ModuleFile): string => `Copy ${name} and ephapse-worker.js side by side (npx ephapse init <the site's directory> does it), then reload.`;
const sameVersion = ({ name }: ModuleFile): string => `Copy ${name} and ephapse-worker.js of the same version (npx ephapse init <the site's directory> does it), empty caches in between, then reload.`;
const checkConnection = 'Check the connection, then reload. Where the site has a content security policy, its connect-src must allow \'self\'.';

/** The beginning of the answer. */
async function fetched(file: ModuleFile): Promise<Response> {
  const forbidden: Event[] = [];
  const onViolation = (event: Event): void => { forbidden.push(event); };
  addEventListener('securitypolicyviolation', onViolation);
  try {
    return await fetch(moduleUrl(file));
  } catch (error) {
    // The event may come after the answer.
    await sleep(50);
    throw forbidden.length > 0
      ? new Failed({ code: 'blocked-by-policy', message: `The content security policy of the worker's script forbids to load ${shownUrl(file)}.`, nextStep: 'Add connect-src \'self\' to the policy.' })
      : failed(file, `could not be loaded: ${String(error)}`, checkConnection);
  } finally {
    removeEventListener('securitypolicyviolation', onViolation);
  }
}

/** All of a body, but no more than one byte past what it should be. */
async function read(body: ReadableStream<Uint8Array>, { bytes: expected }: ModuleFile, progress: Progress): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(expected + 1);
  let loaded = 0;
  progress('download', loaded, expected);
  for (const reader = body.getReader(); loaded < bytes.length; ) {
    const { done, value } = await reader.read();
    if (done) break;
    const part = value.subarray(0, bytes.length - loaded);
    bytes.set(part, loaded);
    loaded += part.length;
    progress('download', Math.min(loaded, expected), expected);
    if (loaded === bytes.length) await reader.cancel();
  }
  return bytes.subarray(0, loaded);
}

/** Without the hash, which tells people nothing. */
function shownUrl({ name }: ModuleFile): string {
  return new URL(name, location.href).href;
}

function failed(file: ModuleFile, what: string, nextStep: string): Failed {
  return new Failed({ code: 'download-failed', message: `${shownUrl(file)} ${what}.`, nextStep });
}
