// A new version that waits in vain to become active is registered again.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { registerAgain, registerWaiting } from '../../worker/page/register.ts';

const scope = 'https://chat.example/';
const script = (attempt) => `${scope}ephapse-worker.js${attempt ? `?ephapse-attempt=${attempt}` : ''}`;
const turns = async () => { for (let n = 0; n < 10; n += 1) await Promise.resolve(); };

/**
 * A browser in which one version is active and another waits; `registered` gets the URLs of scripts
 * that are registered. Each can be installed, but for those at first for which `troubles` has an
 * error, or a worker that is being installed.
 */
function browser(active, waiting, ...troubles) {
  const registration = { active: { scriptURL: active }, waiting: { scriptURL: waiting } };
  const registered = [];
  const register = async (url) => {
    registered.push(String(url));
    const trouble = troubles.shift();
    if (trouble instanceof Error) throw trouble;
    return { installing: trouble ?? { state: 'installed' } };
  };
  const serviceWorker = { getRegistration: async () => registration, register };
  Object.defineProperty(globalThis, 'navigator', { configurable: true, value: { serviceWorker, locks: { request: (_, held) => held() } } });
  return { registration, registered };
}

test('a version that the browser does not activate is registered again', async () => {
  const { registered } = browser(script(), script());
  await registerAgain(script(), scope);
  assert.deepEqual(registered, [script(1)]);
});

test('a version that no longer waits is not registered again', async () => {
  const { registered } = browser(script(1), script(2));
  await registerAgain(script(1), scope);
  assert.deepEqual(registered, []);
});

test('the attempts of one version are not counted against the next', async () => {
  const { registered } = browser(script(8), script(8));
  await registerAgain(script(8), scope);
  assert.deepEqual(registered, [script(9)]);
});

test('after many attempts it is registered again at intervals, as long as it waits', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { registration, registered } = browser(script(1), script(9));
  const again = registerAgain(script(9), scope);
  await turns();
  assert.deepEqual(registered, []);
  t.mock.timers.tick(600_000);
  await again;
  assert.deepEqual(registered, [script(10)]);

  registration.waiting = { scriptURL: script(10) };
  const tooLate = registerAgain(script(10), scope);
  await turns();
  Object.assign(registration, { active: registration.waiting, waiting: null });
  t.mock.timers.tick(600_000);
  await tooLate;
  assert.deepEqual(registered, [script(10)]);
});

test('where the site cannot be reached, or the version not be installed, it is tried later', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const installing = { state: 'installing', addEventListener: (_, listener) => { installing.changed = listener; } };
  const { registered } = browser(script(), script(), new TypeError('offline'), installing);
  const again = registerAgain(script(), scope);
  await turns();
  t.mock.timers.tick(600_000);
  await turns();
  assert.deepEqual(registered, [script(1), script(1)]);
  installing.state = 'redundant';
  installing.changed();
  await turns();
  t.mock.timers.tick(600_000);
  await again;
  assert.deepEqual(registered, [script(1), script(1), script(1)]);

  const other = browser(script(), script(), new TypeError('offline'));
  const notWaiting = registerAgain(script(), scope);
  await turns();
  other.registration.waiting = null;
  t.mock.timers.tick(600_000);
  await notWaiting;
  assert.deepEqual(other.registered, [script(1)]);
});

test('a page that is opened while a version waits tries once more at once, but lets one be that is taking over', async (t) => {
  // Whoever was told that it waits slept for ten minutes before the next attempt, and with a reload
  // that was forgotten.
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { registration, registered } = browser(script(1), script(9));
  const opened = registerWaiting(registration, scope);
  await turns();
  assert.deepEqual(registered, []);
  t.mock.timers.tick(10_000);
  await opened;
  assert.deepEqual(registered, [script(10)]);

  const takingOver = registerWaiting(registration, scope);
  Object.assign(registration, { active: registration.waiting, waiting: null });
  t.mock.timers.tick(10_000);
  await takingOver;
  await registerWaiting(registration, scope);
  assert.deepEqual(registered, [script(10)]);
});
