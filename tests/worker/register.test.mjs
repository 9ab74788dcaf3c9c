// A new version that waits in vain to become active is registered again.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { registerAgain } from '../../worker/page/register.ts';

const scope = 'https://chat.example/';
const script = (attempt) => `${scope}ephapse-worker.js${attempt ? `?ephapse-attempt=${attempt}` : ''}`;
const turns = async () => { for (let n = 0; n < 10; n += 1) await Promise.resolve(); };

/** A browser in which one version is active and another waits; `registered` gets the URLs of scripts that are registered. */
function browser(active, waiting) {
  const registration = { active: { scriptURL: active }, waiting: { scriptURL: waiting } };
  const registered = [];
  const serviceWorker = { getRegistration: async () => registration, register: async (url) => { registered.push(String(url)); } };
  Object.defineProperty(globalThis, 'navigator', { configurable: true, value: { serviceWorker, locks: { request: (_, held) => held() } } });
  return { registration, registered };
}

test('a version that waits in vain becomes another one', async () => {
  const { registered } = browser(script(), script());
  await registerAgain(script(), scope);
  assert.deepEqual(registered, [script(1)]);
});

test('one that waits no more is left alone', async () => {
  const { registered } = browser(script(1), script(2));
  await registerAgain(script(1), scope);
  assert.deepEqual(registered, []);
});

test('the attempts of one version are not counted against the next', async () => {
  const { registered } = browser(script(8), script(8));
  await registerAgain(script(8), scope);
  assert.deepEqual(registered, [script(9)]);
});

test('after many attempts there is one now and then, as long as the version waits', async (t) => {
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
