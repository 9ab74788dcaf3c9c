// The demo as people use it: two tabs, two accounts, an encrypted room; one of them on a phone, the other with the keyboard alone.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { launch } from './browser.mjs';

test('two people talk in the demo', { timeout: 300_000 }, async (t) => {
  const site = await serve(path('dist', 'www'));
  t.after(() => site.close());
  const browser = await launch();
  t.after(() => browser.close());
  const problems = [];
  const tab = async (width, height) => {
    const page = await browser.context.newPage();
    page.setDefaultTimeout(90_000);
    page.on('pageerror', (error) => problems.push(String(error)));
    await page.setViewportSize({ width, height });
    await page.goto(site.url);
    return page;
  };
  const fits = async (page) => assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), 'nothing is cut off at the side');

  // Alice has a keyboard and nothing else: the forms take focus by themselves, and Enter sends them.
  const alice = await tab(1180, 760);
  await alice.getByRole('heading', { name: 'Create an account' }).waitFor();
  await alice.keyboard.type('alice');
  await alice.keyboard.press('Tab');
  await alice.keyboard.type('a long enough password');
  await alice.keyboard.press('Enter');
  await alice.getByText('Hello, alice').waitFor();

  // The second tab finds Alice in use, and makes an account of its own.
  const bob = await tab(390, 780);
  await bob.getByRole('button', { name: 'Create an account' }).click();
  await bob.getByLabel('User name').fill('bob');
  await bob.getByLabel('Password').fill('another long password');
  await bob.getByRole('button', { name: 'Create account' }).click();
  await bob.getByText('No rooms yet').waitFor();
  await fits(bob);

  await alice.getByRole('button', { name: 'New room' }).focus();
  await alice.keyboard.press('Enter');
  await alice.keyboard.type('Garden plans');
  await alice.keyboard.press('Tab');
  await alice.keyboard.type('bob');
  await alice.keyboard.press('Enter');
  await alice.getByRole('heading', { name: 'Garden plans encrypted' }).waitFor();

  await bob.getByText('alice invites you').waitFor();
  await bob.getByRole('button', { name: 'Join' }).click();
  await alice.getByText('bob joined').waitFor();
  await alice.keyboard.type('The tomatoes are in');
  await alice.keyboard.press('Enter');
  const messages = (page) => page.getByRole('log', { name: 'Messages' });
  await messages(bob).getByText('The tomatoes are in').waitFor();
  await fits(bob);

  await bob.getByLabel('Message', { exact: true }).fill('Already?');
  await alice.getByText('bob is typing…').waitFor();
  await bob.getByRole('button', { name: 'Send' }).click();
  await messages(alice).getByText('Already?').waitFor();
  await messages(alice).getByRole('button', { name: 'React with 👍' }).last().focus();
  await alice.keyboard.press('Enter');
  await messages(bob).getByRole('button', { name: '👍 1' }).waitFor();

  await alice.getByRole('button', { name: 'Homeserver in this browser' }).click();
  assert.match(await alice.getByRole('dialog').innerText(), /k51[0-9a-z]{59}/);
  await alice.keyboard.press('Escape');

  // A reload keeps the account, the room and what can be read in it.
  await bob.reload();
  await bob.getByRole('button', { name: 'Garden plans' }).click();
  await messages(bob).getByText('The tomatoes are in').waitFor();

  await alice.getByLabel('Account').click();
  await alice.getByRole('button', { name: 'Log out' }).click();
  await alice.getByRole('heading', { name: 'Log in' }).or(alice.getByRole('heading', { name: 'Create an account' })).waitFor();
  assert.deepEqual(problems, []);
});
