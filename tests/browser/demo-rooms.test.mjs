// Rooms in the demo: what is unread, begun, edited and deleted; addresses; a second tab; who can be
// invited.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { composer, demo, dialog, focused, hide, join, logIn, makeRoom, message, messages, say } from './demo.mjs';

const use = demo();
const room = (page, name) => page.getByRole('navigation', { name: 'Rooms' }).getByRole('button', { name });
const limit = { timeout: 120_000 };

test('an open room is never unread, and a hidden tab that comes back reads it', limit, async () => {
  const anna = await use.person('anna');
  const ben = await use.person('ben');
  await makeRoom(anna, 'Badges', { invite: 'ben' });
  await join(ben, 'Badges');
  await say(anna, 'seen at once');
  await messages(ben).getByText('seen at once').waitFor();
  const badge = room(ben, 'Badges').locator('.unread');
  assert.equal(await badge.count(), 0);

  await hide(ben, true);
  await say(anna, 'while he is away');
  await badge.waitFor();
  assert.match(await ben.title(), /^\(1\) /);
  await hide(ben, false);
  await badge.waitFor({ state: 'detached' });

  // The server knows that it was read: it stays so after a reload, in another room.
  await ben.waitForTimeout(300);
  await makeRoom(ben, 'Elsewhere');
  await ben.reload();
  await room(ben, 'Badges').waitFor();
  assert.equal(await badge.count(), 0);
  await say(anna, 'now unread');
  await badge.waitFor();
  await room(ben, 'Badges').click();
  await badge.waitFor({ state: 'detached' });
});

test('a draft stays with its room, over other rooms and a reload', limit, async () => {
  const page = await use.person('cora');
  await makeRoom(page, 'First');
  await composer(page).fill('half a thought');
  await makeRoom(page, 'Second');
  assert.equal(await composer(page).inputValue(), '');
  await composer(page).fill('another');
  await room(page, 'First').click();
  await page.getByRole('heading', { name: 'First' }).waitFor();
  assert.equal(await composer(page).inputValue(), 'half a thought');
  await page.reload();
  await page.getByRole('heading', { name: 'First' }).waitFor();
  assert.equal(await composer(page).inputValue(), 'half a thought');
  await composer(page).press('Enter');
  await message(page, 'half a thought').waitFor();
  await page.reload();
  await page.getByRole('heading', { name: 'First' }).waitFor();
  assert.equal(await composer(page).inputValue(), '', 'what was sent is no draft any more');
});

test('deleting asks first', limit, async () => {
  const page = await use.person('dora');
  await makeRoom(page, 'Regrets');
  await say(page, 'think twice');
  const bin = message(page, 'think twice').getByRole('button', { name: 'Delete' });
  await bin.focus();
  await page.keyboard.press('Enter');
  const asks = dialog(page, 'Delete this message?');
  await asks.getByText('think twice').waitFor();
  await asks.getByRole('button', { name: 'Cancel' }).click();
  await asks.waitFor({ state: 'detached' });
  assert.equal(await focused(page), 'Delete', 'the focus is where it was');
  await page.keyboard.press('Enter');
  await asks.getByRole('button', { name: 'Delete' }).click();
  await messages(page).getByText('Message deleted').waitFor();
  assert.equal(await focused(page), 'Message', 'the focus is where one goes on');
});

test('editing shows a sign, can be cancelled, and the list of rooms shows the new text', limit, async () => {
  const page = await use.person('emma');
  await makeRoom(page, 'Corrections');
  await say(page, 'teh garden');
  await composer(page).fill('a draft');
  await message(page, 'teh garden').getByRole('button', { name: 'Edit' }).focus();
  await page.keyboard.press('Enter');
  await page.getByText('Editing a message').waitFor();
  await message(page, 'being edited').waitFor();
  const edited = page.getByRole('textbox', { name: 'Edited message' });
  assert.equal(await edited.inputValue(), 'teh garden');
  await page.keyboard.press('Escape');
  await page.getByText('Editing a message').waitFor({ state: 'detached' });
  assert.equal(await composer(page).inputValue(), 'a draft', 'the draft is there again');

  await composer(page).fill('');
  await composer(page).press('ArrowUp');
  await edited.fill('the garden');
  const goOn = await holdSends(page);
  await edited.press('Enter');
  await message(page, 'the garden').getByText('saving…').waitFor();
  await goOn();
  await message(page, 'the garden').getByText('edited').waitFor();
  await room(page, 'Corrections').getByText('You: the garden').waitFor();
  assert.equal(await messages(page).getByText('teh garden').count(), 0);
  await page.reload();
  await room(page, 'Corrections').getByText('You: the garden').waitFor();
  assert.equal(await page.getByText('* the garden').count(), 0);
});

test('the focus goes where one goes on', limit, async () => {
  const page = await use.person('greta', { width: 1180 });
  assert.equal(await focused(page), 'Hello, greta');
  await makeRoom(page, 'Narrow');
  assert.equal(await focused(page), 'Message');
  await page.setViewportSize({ width: 390, height: 780 });
  await page.getByRole('button', { name: 'Back to the rooms' }).click();
  await page.getByRole('button', { name: 'New room' }).waitFor();
  assert.match(await focused(page), /Narrow/);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Narrow' }).waitFor();
  assert.equal(await focused(page), 'Message');
});

test('scrolling up shows older messages, and what is read stays where it is', limit, async () => {
  const page = await use.person('finn');
  await makeRoom(page, 'History', { encrypted: false });
  await page.evaluate(async () => {
    const [{ accessToken }] = JSON.parse(localStorage['ephapse demo accounts']);
    const roomId = decodeURIComponent(location.hash.slice('#/room/'.length));
    for (let number = 0; number < 90; number += 1) {
      await fetch(`/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/send/m.room.message/h${number}`, {
        method: 'PUT',
        headers: { authorization: `Bearer ${accessToken}`, 'content-type': 'application/json' },
        body: JSON.stringify({ msgtype: 'm.text', body: `entry ${number}.` }),
      });
    }
  });
  await page.reload();
  await messages(page).getByText('entry 89.').waitFor();
  await page.waitForFunction(() => document.querySelectorAll('.message').length < 60);
  const oldest = await page.locator('.message .bubble').first().innerText();
  const top = () => page.evaluate((text) => [...document.querySelectorAll('.bubble')].find(({ textContent }) => textContent === text).getBoundingClientRect().top, oldest);
  await messages(page).evaluate((box) => { box.scrollTop = 0; });
  const before = await top();
  await page.waitForFunction((text) => document.querySelector('.message .bubble').textContent !== text, oldest);
  assert.ok(Math.abs(await top() - before) < 40, 'the message that was at the top is still there');
  await page.waitForFunction(() => {
    document.querySelector('.scroller').scrollTop = 0;
    return document.querySelectorAll('.message').length === 90;
  });
  await messages(page).getByText('finn made this room').waitFor();
});

test('a reload stays in the room, and back and forward move between rooms', limit, async () => {
  const page = await use.person('fay');
  await makeRoom(page, 'Harbour');
  const address = page.url();
  await makeRoom(page, 'Lighthouse');
  await page.reload();
  await page.getByRole('heading', { name: 'Lighthouse' }).waitFor();
  await page.goBack();
  await page.getByRole('heading', { name: 'Harbour' }).waitFor();
  await page.goBack();
  await page.getByRole('heading', { name: 'Hello, fay' }).waitFor();
  await page.goForward();
  await page.getByRole('heading', { name: 'Harbour' }).waitFor();

  // Somebody else who comes to that address is told.
  const other = await use.person('gus', { address: address.slice(use.site.url.length) });
  await other.getByText('This account is not in that room.').waitFor();
  await other.getByRole('heading', { name: 'Hello, gus' }).waitFor();
});

test('a second tab says which accounts are open, and cannot take one', limit, async () => {
  const first = await use.person('hana');
  await makeRoom(first, 'Mine');
  await say(first, 'kept');
  const second = await use.tab({ remembers: true });
  await second.getByText(/hana.* open in another tab/).waitFor();
  assert.equal(await second.getByRole('button', { name: 'hana' }).count(), 0);
  await logIn(second, 'hana');
  await second.getByRole('alert').getByText('hana is open in another tab').waitFor();

  // The first tab is as it was, its keys too.
  await first.reload();
  await messages(first).getByText('kept').waitFor();
  await first.getByLabel('Account').click();
  await first.getByRole('button', { name: 'Use another account' }).click();
  await second.getByRole('button', { name: 'hana' }).click();
  await second.getByRole('button', { name: 'Mine' }).click();
  await messages(second).getByText('kept').waitFor();
});

test('who has no account here, and who is on another server, cannot be invited', limit, async () => {
  const page = await use.person('iris');
  await use.person('jon');
  await page.getByRole('button', { name: 'New room' }).click();
  await page.getByLabel('Name', { exact: true }).fill('Club');
  await page.getByLabel('Invite', { exact: true }).fill('jon johnn, noone');
  await page.getByRole('button', { name: 'Create' }).click();
  await page.getByText('There is no account called johnn or noone on this homeserver').waitFor();
  await page.getByLabel('Invite', { exact: true }).fill('jon');
  await page.getByRole('button', { name: 'Create' }).click();
  await page.getByRole('heading', { name: 'Club' }).waitFor();
  assert.equal(await page.locator('.rooms .room').count(), 1, 'nothing was made when it was refused');

  await page.getByRole('button', { name: 'Invite somebody' }).click();
  const asks = dialog(page, 'Invite to Club');
  await asks.getByLabel('User name').fill('@kim:matrix.org');
  await asks.getByRole('button', { name: 'Invite' }).click();
  await asks.getByText('@kim:matrix.org cannot be invited').waitFor();
  await page.keyboard.press('Escape');

  await page.getByRole('button', { name: '1 member' }).or(page.getByRole('button', { name: 'Only you' })).click();
  await dialog(page, 'Members of Club').getByText('Invited').waitFor();
});

/** Holds back what the page sends from now on, until what this resolves to is called. */
async function holdSends(page) {
  await page.evaluate(() => {
    const { fetch } = globalThis;
    globalThis.held = new Promise((resolve) => {
      globalThis.goOn = () => {
        globalThis.fetch = fetch;
        resolve();
      };
    });
    globalThis.fetch = async (input, init) => {
      if (String(input.url ?? input).includes('/send/')) await globalThis.held;
      return fetch(input, init);
    };
  });
  return () => page.evaluate(() => { globalThis.goOn(); });
}
