// A site has a service worker of its own: it is never replaced, and what to do is said.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { setImmediate } from 'node:timers';
import { takeControl } from '../../worker/page/control.ts';
import { register } from '../../worker/page/register.ts';

const scope = 'https://chat.example/';
let registered;

beforeEach(() => { registered = []; });

/** A worker with the given script; with the server in it, it answers every question. */
const worker = (script, { server = false, state = 'activated' } = {}) => ({
  scriptURL: scope + script,
  state,
  addEventListener: () => undefined,
  postMessage: (_, [port]) => { if (server) port.postMessage({ ok: true }); },
});

/** A browser whose scope has these workers. */
function browser(workers, { controller = workers.active } = {}) {
  const registration = { scope, active: null, waiting: null, installing: null, update: async () => undefined, ...workers };
  const serviceWorker = {
    controller,
    getRegistration: async () => (workers.active ?? workers.waiting ?? workers.installing ? registration : undefined),
    register: async (url) => {
      registered.push(String(url));
      registration.active ??= worker('ephapse-worker.js');
      return registration;
    },
    addEventListener: () => undefined,
    removeEventListener: () => undefined,
  };
  Object.defineProperty(globalThis, 'navigator', { configurable: true, value: { serviceWorker } });
  Object.defineProperty(globalThis, 'location', { configurable: true, value: new URL(scope) });
  return registration;
}

const registering = (script = 'ephapse-worker.js', byDefault = true) =>
  register(new URL(script, scope), scope, { byDefault, failure: () => undefined }).then(() => 'registered', ({ code, message }) => `${code}: ${message}`);

/** Lets a question go unanswered for as long as one is waited for. */
async function unanswered(t, work) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const outcome = work();
  let over = false;
  outcome.finally(() => { over = true; });
  while (!over) {
    for (let n = 0; n < 20; n += 1) await new Promise((resolve) => setImmediate(resolve));
    t.mock.timers.tick(1_000);
  }
  return outcome;
}

test('a worker of the site\'s own is not replaced, whatever its state', async (t) => {
  for (const state of ['active', 'waiting', 'installing']) {
    // Ours may be active still, but will be replaced at the next load.
    browser({ active: worker('ephapse-worker.js'), [state]: worker('sw.js') });
    const said = await unanswered(t, () => registering());
    t.mock.timers.reset();
    assert.match(said, /^foreign-worker: .*its own for \/, \/sw\.js.*importScripts\('\/ephapse-worker\.js'\).*workerUrl: '\/sw\.js', scope: '\/'/);
  }
  assert.deepEqual(registered, []);
});

test('the site\'s own worker with the server in it is registered where the site says so, and named where it does not', async () => {
  browser({ active: worker('sw.js', { server: true }) });
  assert.match(await registering(), /^foreign-worker: The server runs in the site's own service worker, \/sw\.js\. Call start/);
  assert.deepEqual(registered, []);
  assert.equal(await registering('sw.js', false), 'registered');
  assert.deepEqual(registered, [`${scope}sw.js`]);
});

test('the package\'s worker that lay elsewhere is replaced', async () => {
  browser({ active: worker('old/ephapse-worker.js') });
  assert.equal(await registering(), 'registered');
  assert.deepEqual(registered, [`${scope}ephapse-worker.js`]);
});

test('a worker that the site names, and that has no server in it', async (t) => {
  browser({ active: worker('sw.js') });
  assert.match(await unanswered(t, () => registering('sw.js', false)), /^foreign-worker: /);
});

test('a worker that has just got the server is waited for', async (t) => {
  const registration = browser({ active: worker('sw.js') });
  registration.update = async () => {
    registration.installing = worker('sw.js', { server: true, state: 'installed' });
    setTimeout(() => {
      registration.active = registration.installing;
      registration.active.state = 'activated';
    }, 2_000);
  };
  assert.equal(await unanswered(t, () => registering('sw.js', false)), 'registered');
});

test('a page learns that the site has replaced the server\'s worker by its own', async (t) => {
  const registration = browser({ active: worker('ephapse-worker.js') });
  const control = await takeControl(registration);
  registration.active = worker('sw.js');
  globalThis.navigator.serviceWorker.controller = registration.active;
  for (const ask of [() => control.active(), () => control.controlled()]) {
    const said = await unanswered(t, () => ask().then(() => 'ours', ({ code }) => code));
    t.mock.timers.reset();
    assert.equal(said, 'foreign-worker');
  }
});
