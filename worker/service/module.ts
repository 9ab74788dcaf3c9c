// The WebAssembly module: downloaded once, checked against the hash this worker was built for, kept in Cache Storage so that a restart needs no network.

import { type Stage } from '../shared/protocol.ts';
import { Failed } from './failed.ts';

const cacheName = (scope: string): string => `ephapse ${scope}`;
/** Where the module is downloaded from and stored. */
export const moduleUrl = (): string => new URL(`ephapse.wasm?sha256=${EPHAPSE_WASM_SHA256}`, location.href).href;

type Progress = (stage: Stage, loaded: number, total: number) => void;

/** The module, from the cache where it is there. */
export async function loadModule(scope: string, progress: Progress): Promise<WebAssembly.Module> {
  const [stored, cached] = await Promise.all([storedModule(scope), withCompiledCode()]);
  const checked = stored ?? (await downloadModule(scope, progress));
  progress('compile', 0, 1);
  // What the browser has was downloaded to be checked and stored. Where a site sends it under another type, it is not taken for a module.
  const compiled = stored && cached && (await WebAssembly.compileStreaming(cached).catch(() => undefined));
  const module = compiled ?? (await WebAssembly.compileStreaming(checked).catch((error: unknown) => { throw refused(error); }));
  progress('compile', 1, 1);
  return module;
}

/** The bytes were checked, so it is not they that the browser does not like. */
function refused(error: unknown): Failed {
  return new Failed({
    code: 'server-failed',
    message: `This browser does not compile the server: ${String(error)}.`,
    nextStep: 'Use a current version of Chrome, Edge, Firefox or Safari. Where the site has a content security policy, its script-src must allow \'wasm-unsafe-eval\'.',
  });
}

/** The module from the browser's HTTP cache, if it is still there: beside what lies in that one, and in no other, Chromium keeps the code it compiled. */
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
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (found !== EPHAPSE_WASM_SHA256) {
    throw new Failed({
      code: 'download-failed',
      message: `${moduleUrl()} is not the file this worker was built with (SHA-256 ${found}).`,
      nextStep: 'Deploy ephapse-worker.js and ephapse.wasm of the same version, side by side, then reload.',
    });
  }
  const response = new Response(bytes, { headers: { 'content-type': 'application/wasm' } });
  await (await caches.open(cacheName(scope))).put(moduleUrl(), response.clone());
  return response;
}

async function download(progress: Progress): Promise<Uint8Array<ArrayBuffer>> {
  const unreachable = (why: string): Failed =>
    new Failed({
      code: 'download-failed',
      message: `${moduleUrl()} could not be loaded: ${why}.`,
      nextStep: 'Check the connection, and that ephapse.wasm lies beside ephapse-worker.js, then reload.',
    });
  try {
    const response = await fetch(moduleUrl());
    if (!response.ok || !response.body) throw unreachable(`the server answered ${String(response.status)}`);
    const bytes = new Uint8Array(EPHAPSE_WASM_BYTES);
    let loaded = 0;
    progress('download', loaded, EPHAPSE_WASM_BYTES);
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      if (loaded + value.length > bytes.length) throw unreachable('it is longer than it should be');
      bytes.set(value, loaded);
      loaded += value.length;
      progress('download', loaded, EPHAPSE_WASM_BYTES);
    }
    return bytes.subarray(0, loaded);
  } catch (error) {
    throw error instanceof Failed ? error : unreachable(String(error));
  }
}
