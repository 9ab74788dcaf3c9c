// What keeps the server from starting is said with its code and the user's next step, browser by
// browser.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { checkEnvironment, register } from '../../worker/page/register.ts';

const scope = 'https://chat.example/';
const denied = (name, message = 'it was denied') => new DOMException(message, name);

/** What was done with databases. */
let storage;

/** A browser that has all that is needed, but for what a test takes away. */
function browser({ secure = true, has = {}, databases = () => working() } = {}) {
  const navigator = { serviceWorker: {}, locks: {}, ...has };
  for (const name of Object.keys(navigator)) if (navigator[name] === undefined) delete navigator[name];
  const values = { isSecureContext: secure, navigator, location: new URL(scope), caches: {} };
  for (const [name, value] of Object.entries(values)) Object.defineProperty(globalThis, name, { configurable: true, value });
  Object.defineProperty(globalThis, 'indexedDB', { configurable: true, get: databases });
}

/** Databases of which one can be opened. */
function working() {
  return opening((request) => {
    request.result = { close: () => storage.push('closed') };
    request.onsuccess();
  }, (name) => storage.push(`deleted ${name}`));
}

/** Databases that answer every `open` as `end` does. */
function opening(end, deleteDatabase) {
  const open = (name) => {
    storage.push(`opened ${name}`);
    const request = {};
    queueMicrotask(() => end(request));
    return request;
  };
  return { open, deleteDatabase };
}

const failing = (error) => () => opening((request) => { request.error = error; request.onerror(); });

/** Fails unless the server is kept from starting for this reason. */
const refuses = (code, message, nextStep) =>
  assert.rejects(checkEnvironment, (error) => {
    assert.deepEqual([error.name, error.code], ['EphapseError', code]);
    assert.match(error.message, message);
    assert.match(error.nextStep, nextStep);
    assert.ok(error.message.endsWith(error.nextStep));
    return true;
  });

beforeEach(() => { storage = []; });

test('where nothing is missing, the check leaves nothing behind', async () => {
  browser();
  await checkEnvironment();
  assert.deepEqual(storage, ['opened ephapse storage check', 'closed', 'deleted ephapse storage check']);
});

test('a page that came over plain HTTP from another machine', async () => {
  // Browsers take service workers away there; what is said must not be that they are missing.
  browser({ secure: false, has: { serviceWorker: undefined } });
  await refuses('insecure-context', /secure page/, /https:.*localhost/);
});

test('a browser without service workers', async () => {
  browser({ has: { serviceWorker: undefined } });
  await refuses('no-service-worker', /does not support service workers/, /current version of Chrome, Edge, Firefox or Safari/);
});

test('a browser from before Web Locks or Cache Storage', async () => {
  browser({ has: { locks: undefined } });
  await refuses('no-service-worker', /Web Locks/, /current version/);
  browser();
  delete globalThis.caches;
  await refuses('no-service-worker', /Cache Storage/, /current version/);
});

test('a site that may not store anything', async () => {
  const blocked = [
    ['the databases may not be touched', () => { throw denied('SecurityError'); }],
    ['there are none', () => undefined],
    ['none can be opened', failing(denied('UnknownError'))],
    ['none can be opened, for no reason', failing(null)],
  ];
  for (const [story, databases] of blocked) {
    browser({ databases });
    await refuses('storage-blocked', /does not let this site store data/, /Allow cookies and site data/).catch((error) => { throw new Error(story, { cause: error }); });
  }
});

test('a disk that is full', async () => {
  browser({ databases: failing(denied('QuotaExceededError')) });
  await refuses('storage-blocked', /cannot store anything/, /Free some disk space/);
});

/**
 * What is said when the browser refuses the script with `error`, and the site answers it with
 * `response`.
 */
async function refusal(error, response, within = scope) {
  browser({ has: { serviceWorker: { getRegistration: async () => undefined, register: async () => { throw error; } } } });
  globalThis.fetch = async () => response ?? Promise.reject(new TypeError('offline'));
  const worker = new URL('ephapse-worker.js', scope);
  return register(worker, within, { byDefault: true, failure: () => undefined }).then(() => undefined, ({ code, message }) => [code, message]);
}

const answered = (status, type) => new Response('', { status, headers: { 'content-type': type } });
const insecure = denied('SecurityError', 'The operation is insecure.');

test('a worker that the browser does not install, for what the site answered', async () => {
  // Firefox says of each of these that the operation is insecure.
  const told = [
    [answered(404, 'text/plain'), /ephapse-worker\.js could not be installed: the server answered 404\. .*npx ephapse init/],
    [answered(200, 'text/html'), /answered 200 with text\/html, and not with JavaScript\. .*npx ephapse init/],
    [answered(200, 'text/plain'), /answered 200 with text\/plain.*Serve it as text\/javascript/],
  ];
  for (const [response, message] of told) {
    const [code, said] = await refusal(insecure, response);
    assert.equal(code, 'worker-failed');
    assert.match(said, message);
  }
});

test('a worker that the browser does not install though the site answers it', async () => {
  const script = () => answered(200, 'text/javascript');
  const [code, message] = await refusal(insecure, script());
  assert.equal(code, 'storage-blocked');
  assert.match(message, /Allow cookies and site data/);
  assert.match((await refusal(new TypeError('ServiceWorker script evaluation failed'), script()))[1], /evaluation failed\. Check that it runs/);
  assert.match((await refusal(denied('SecurityError', 'The path of the provided scope is not under the max scope'), script(), 'https://chat.example/'.slice(0, -1)))[1], /Service-Worker-Allowed/);
  const [policy, next] = await refusal(denied('SecurityError', 'The provided scriptURL violates the Content Security Policy.'), script());
  assert.equal(policy, 'blocked-by-policy');
  assert.match(next, /worker-src 'self' blob:/);
});

test('a page beside the directory that is served', async () => {
  browser();
  Object.defineProperty(globalThis, 'location', { configurable: true, value: new URL('https://chat.example/app') });
  const worker = new URL('https://chat.example/app/ephapse-worker.js');
  const refused = (directory) => register(worker, `https://chat.example${directory}`, {}).then(() => undefined, ({ code, message }) => `${code}: ${message}`);
  assert.match(await refused('/app/'), /^out-of-scope: This page is \/app, .*Open it as \/app\/: let the site redirect/);
  assert.match(await refused('/other/'), /^out-of-scope: .*lies outside the server's scope \(\/other\/\)/);
});
