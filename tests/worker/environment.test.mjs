// What keeps the server from starting is said with its code and the user's next step, browser by browser.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { checkEnvironment, register } from '../../worker/page/register.ts';

const scope = 'https://chat.example/';
const denied = (name, message = 'it was denied') => new DOMException(message, name);

/** What was done with databases. */
let storage;

/** A browser that has all that is needed, but for what a test takes away; `firefox` is what it is known by. */
function browser({ secure = true, firefox = false, has = {}, databases = () => working() } = {}) {
  const navigator = { serviceWorker: {}, locks: {}, ...has };
  for (const name of Object.keys(navigator)) if (navigator[name] === undefined) delete navigator[name];
  const values = { isSecureContext: secure, navigator, CSS: { supports: () => firefox }, location: new URL(scope), caches: {} };
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
  await refuses('no-service-worker', /no service workers/, /current version of Chrome, Edge, Firefox or Safari/);
});

test('a private window of Firefox, which hides service workers', async () => {
  browser({ firefox: true, has: { serviceWorker: undefined } });
  await refuses('private-mode', /Firefox offers no service workers/, /not private/);
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
    browser({ databases, firefox: true });
    await refuses('private-mode', /does not let this site store data/, /not private/).catch((error) => { throw new Error(`${story}, in Firefox`, { cause: error }); });
  }
});

test('a disk that is full', async () => {
  for (const firefox of [false, true]) {
    browser({ firefox, databases: failing(denied('QuotaExceededError')) });
    await refuses('storage-blocked', /cannot store anything/, /Free some disk space/);
  }
});

test('a worker that the browser does not install', async () => {
  const refusal = async (error) => {
    browser({ has: { serviceWorker: { getRegistration: async () => undefined, register: async () => { throw error; } } } });
    return register(new URL('ephapse-worker.js', scope), scope).then(() => undefined, ({ code, nextStep }) => [code, nextStep]);
  };
  const [code, nextStep] = await refusal(denied('SecurityError', 'The operation is insecure.'));
  assert.equal(code, 'storage-blocked');
  assert.match(nextStep, /Allow cookies and site data/);
  for (const error of [denied('SecurityError', 'The script has an unsupported MIME type.'), new TypeError('the server answered 404')]) {
    const [failed, check] = await refusal(error);
    assert.equal(failed, 'worker-failed');
    assert.match(check, /served as JavaScript/);
  }
});
