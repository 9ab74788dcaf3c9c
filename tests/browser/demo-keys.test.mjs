// The keys of encrypted messages in the demo: nothing that somebody could still want to read is
// lost without a word.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { choose, demo, dialog, join, logIn, makeRoom, message, messages, say } from './demo.mjs';

const use = demo();
const limit = { timeout: 180_000 };

/** Makes a recovery key, and gives it. */
async function makeKey(page) {
  await choose(page, 'Recovery key');
  await page.getByRole('button', { name: 'Make a recovery key', exact: true }).click();
  return readKey(page);
}

async function readKey(page) {
  const shown = dialog(page, 'Your recovery key');
  const key = await shown.locator('.key').innerText();
  await shown.getByRole('button', { name: 'Close' }).click();
  return key;
}

/** Enters a recovery key. */
async function enterKey(page, key) {
  await choose(page, 'Recovery key');
  await page.getByRole('button', { name: 'Restore' }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('name')), 'key', 'the field has the focus');
  await page.keyboard.insertText(key);
  await page.getByRole('button', { name: 'Restore' }).click();
}

async function openRoom(page, name) {
  await page.getByRole('navigation', { name: 'Rooms' }).getByRole('button', { name }).click();
  await page.getByRole('heading', { name }).waitFor();
}

test('who logs out right after making a recovery key can read everything with it', limit, async () => {
  const page = await use.person('ada');
  for (const name of ['Ruby', 'Green', 'Blue']) {
    await makeRoom(page, name);
    await say(page, `the ${name} secret`);
  }
  const key = await makeKey(page);
  await say(page, 'the last word');
  await choose(page, 'Log out');
  const asks = dialog(page, 'Log out?');
  await asks.getByRole('button', { name: 'Log out', exact: true }).click();
  await page.getByLabel('Password').waitFor();

  await logIn(page, 'ada');
  await page.getByText('This device cannot read your older messages yet.').waitFor();
  await openRoom(page, 'Green');
  await messages(page).getByText('This device cannot read this message').waitFor();
  await enterKey(page, `${key.slice(0, -1)}x`);
  await page.getByRole('alert').getByText('Invalid recovery key').waitFor();
  await page.keyboard.press('Escape');
  await enterKey(page, key);
  await messages(page).getByText('the Green secret').waitFor();
  await openRoom(page, 'Ruby');
  await messages(page).getByText('the Ruby secret').waitFor();
  await openRoom(page, 'Blue');
  await messages(page).getByText('the Blue secret').waitFor();
  await messages(page).getByText('the last word').waitFor();
  await page.getByText('This device cannot read your older messages yet.').waitFor({ state: 'detached' });
});

test('logging out shows how far the keys are saved, and waits for them', limit, async () => {
  const page = await use.person('bea');
  await makeRoom(page, 'Slow');
  await say(page, 'held up');
  // The upload is held back as by a slow disk.
  let release;
  const held = new Promise((resolve) => { release = resolve; });
  await page.exposeFunction('heldBack', () => held);
  await page.evaluate(() => {
    const { fetch } = globalThis;
    globalThis.fetch = async (request, ...more) => {
      const { url, method } = request instanceof Request ? request : new Request(request, ...more);
      if (method === 'PUT' && url.includes('/room_keys/keys')) await globalThis.heldBack();
      return fetch(request, ...more);
    };
  });
  const key = await makeKey(page);
  await choose(page, 'Log out');
  const asks = dialog(page, 'Log out?');
  await asks.getByText('Saving the keys of your messages: 0 of 1').waitFor();
  await asks.getByRole('progressbar', { name: 'Keys saved' }).waitFor();
  await asks.getByRole('button', { name: 'Log out', exact: true }).click();
  await page.waitForTimeout(1_000);
  await asks.getByRole('button', { name: 'Saving…' }).waitFor();
  release();
  await page.getByLabel('Password').waitFor();

  await logIn(page, 'bea');
  await enterKey(page, key);
  await openRoom(page, 'Slow');
  await messages(page).getByText('held up').waitFor();
});

test('logging out without a recovery key says what is lost, and can be cancelled', limit, async () => {
  const page = await use.person('cleo');
  await choose(page, 'Log out');
  await dialog(page, 'Log out?').getByText('You can log in again with your password.').waitFor();
  await page.keyboard.press('Escape');

  await makeRoom(page, 'Diary');
  await say(page, 'dear diary');
  await choose(page, 'Log out');
  const asks = dialog(page, 'Log out?');
  await asks.getByText('You will lose the encrypted messages of Diary.').waitFor();
  await asks.getByRole('button', { name: 'Cancel' }).click();
  await message(page, 'dear diary').waitFor();
  await choose(page, 'Log out');
  await asks.getByRole('button', { name: 'Make a recovery key' }).click();
  await dialog(page, 'Recovery key').getByRole('button', { name: 'Make a recovery key' }).waitFor();
  await page.keyboard.press('Escape');
  await choose(page, 'Log out');
  await asks.getByRole('button', { name: 'Log out and lose the messages' }).click();
  await page.getByLabel('Password').waitFor();
});

test('a second recovery key asks first, and loses nothing', limit, async () => {
  const page = await use.person('dina');
  await makeRoom(page, 'Vault');
  await say(page, 'the treasure');
  const first = await makeKey(page);
  await choose(page, 'Recovery key');
  await page.getByRole('button', { name: 'Make a new recovery key' }).click();
  const asks = dialog(page, 'Make a new recovery key?');
  await asks.getByText('The recovery key that you have now stops working.').waitFor();
  await asks.getByRole('button', { name: 'Make a new one' }).click();
  const second = await readKey(page);
  assert.notEqual(second, first);
  await choose(page, 'Log out');
  await dialog(page, 'Log out?').getByRole('button', { name: 'Log out', exact: true }).click();

  await logIn(page, 'dina');
  await openRoom(page, 'Vault');
  await enterKey(page, first);
  await page.getByRole('alert').getByText('This is not the recovery key of this account').waitFor();
  await page.keyboard.press('Escape');
  await enterKey(page, second);
  await messages(page).getByText('the treasure').waitFor();
});

test('who has lost the recovery key is told what that costs, and can start anew', limit, async () => {
  const page = await use.person('elsa');
  await makeRoom(page, 'Attic');
  await say(page, 'old letters');
  await makeKey(page);
  await choose(page, 'Log out');
  await dialog(page, 'Log out?').getByRole('button', { name: 'Log out', exact: true }).click();
  await logIn(page, 'elsa');
  await choose(page, 'Recovery key');
  await page.getByRole('button', { name: 'I have lost my recovery key' }).click();
  const asks = dialog(page, 'Start without the lost key?');
  await asks.getByText('will never be readable again').waitFor();
  await asks.getByLabel('Password').fill('a long enough password');
  await asks.getByRole('button', { name: 'Lose the old messages' }).click();
  const key = await readKey(page);
  await openRoom(page, 'Attic');
  await say(page, 'new letters');
  await choose(page, 'Log out');
  await dialog(page, 'Log out?').getByRole('button', { name: 'Log out', exact: true }).click();
  await logIn(page, 'elsa');
  await enterKey(page, key);
  await openRoom(page, 'Attic');
  await messages(page).getByText('new letters').waitFor();
});

test('who is invited later can read what was said before', limit, async () => {
  const page = await use.person('gesa');
  const guest = await use.person('henk');
  await makeRoom(page, 'Minutes');
  await say(page, 'said before');
  await page.getByRole('button', { name: 'Invite somebody' }).click();
  await page.getByLabel('User name').fill('henk');
  await page.getByRole('button', { name: 'Invite', exact: true }).click();
  await join(guest, 'Minutes');
  await messages(guest).getByText('said before').waitFor();
  await say(page, 'said after');
  await messages(guest).getByText('said after').waitFor();
});

test('logging in with the password again goes on with the keys that this browser has', limit, async () => {
  const page = await use.person('fleur');
  await makeRoom(page, 'Constant');
  await say(page, 'still mine');
  await choose(page, 'Use another account');
  await logIn(page, 'fleur');
  await openRoom(page, 'Constant');
  await messages(page).getByText('still mine').waitFor();
});
