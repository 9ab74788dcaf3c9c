// The demo as people use it: two tabs, two accounts, an encrypted room; one of them on a phone, the
// other with the keyboard alone.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { composer, demo, dialog, focused, join, makeRoom, message, messages, say } from './demo.mjs';

const use = demo();

const fits = async (page) => assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), 'nothing is cut off at the side');

test('two people talk in the demo', { timeout: 180_000 }, async () => {
  // Alice has a keyboard and nothing else: the forms take focus by themselves, and Enter sends
  // them.
  const alice = await use.tab();
  await alice.getByRole('heading', { name: 'Create an account' }).waitFor();
  await alice.keyboard.type('alice');
  await alice.keyboard.press('Tab');
  await alice.keyboard.type('a long enough password');
  await alice.keyboard.press('Enter');
  await alice.getByText('Hello, alice').waitFor();

  const bob = await use.person('bob', { width: 390, height: 780 });
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
  await join(bob, 'Garden plans');
  await alice.getByText('bob joined').waitFor();
  await alice.keyboard.type('The tomatoes are in');
  await alice.keyboard.press('Enter');
  await messages(bob).getByText('The tomatoes are in').waitFor();
  await fits(bob);

  await composer(bob).fill('Already?');
  await alice.getByText('bob is typing…').waitFor();
  await bob.getByRole('button', { name: 'Send' }).click();
  await messages(alice).getByText('Already?').waitFor();

  // From where she writes it is one stop back to what can be done with the last message.
  await alice.keyboard.press('Shift+Tab');
  assert.equal(await focused(alice), 'React with 👍');
  await alice.keyboard.press('Enter');
  await messages(bob).getByRole('button', { name: '👍 1' }).waitFor();

  await alice.getByRole('button', { name: 'Homeserver in this browser' }).click();
  assert.match(await dialog(alice, 'Your homeserver').innerText(), /k51[0-9a-z]{59}/);
  await alice.keyboard.press('Escape');
});

test('what is focused and selected stays when messages come', { timeout: 120_000 }, async () => {
  const carol = await use.person('carol');
  const dave = await use.person('dave');
  await makeRoom(carol, 'Steady', { invite: 'dave' });
  await join(dave, 'Steady');
  for (const text of ['one', 'two', 'three']) await say(carol, text);
  await messages(dave).getByText('three').waitFor();

  // Dave reads with the keyboard, and has marked a word; every line that is there must be the same
  // element afterwards.
  await message(dave, 'one').focus();
  await dave.evaluate(() => {
    const bubbles = [...document.querySelectorAll('.bubble')];
    getSelection().selectAllChildren(bubbles.find(({ textContent }) => textContent === 'two'));
    globalThis.lines = [...document.querySelectorAll('.timeline > li')];
  });
  await say(carol, 'four');
  await messages(dave).getByText('four').waitFor();
  const after = await dave.evaluate(() => ({
    focus: document.activeElement.textContent.includes('one'),
    selection: String(getSelection()),
    kept: globalThis.lines.every((line) => line.isConnected),
  }));
  assert.deepEqual(after, { focus: true, selection: 'two', kept: true });

  // Arrows move from message to message, and a letter begins a new one.
  await dave.keyboard.press('ArrowDown');
  assert.match(await focused(dave), /two/);
  await dave.keyboard.press('End');
  assert.match(await focused(dave), /four/);
  await dave.keyboard.type('five');
  assert.equal(await composer(dave).inputValue(), 'five');
});

test('sending a message takes no Tab key, and passing all of them takes two', { timeout: 120_000 }, async () => {
  const erin = await use.person('erin');
  await makeRoom(erin, 'Quick');
  for (let number = 0; number < 8; number += 1) {
    await erin.keyboard.type(`message ${number}`);
    await erin.keyboard.press('Enter');
    await message(erin, `message ${number}`).waitFor();
  }
  await erin.locator('.message.sent').nth(7).waitFor();
  await erin.getByRole('button', { name: 'Leave the room' }).focus();
  const stops = [];
  for (;;) {
    await erin.keyboard.press('Tab');
    stops.push(await focused(erin));
    if (stops.at(-1) === 'Message' || stops.length > 20) break;
  }
  assert.equal(stops.length, 3, `message, its tools, the composer: ${stops.join(' | ')}`);
});

test('the last message stays in sight when the window gets smaller', { timeout: 120_000 }, async () => {
  const page = await use.person('gina');
  await makeRoom(page, 'Long');
  for (let number = 0; number < 12; number += 1) await say(page, `line ${number} of some length, so that it takes more of them when it is narrow`);
  await page.setViewportSize({ width: 320, height: 480 });
  await page.waitForTimeout(100);
  const below = () => page.evaluate(() => {
    const box = document.querySelector('.scroller');
    return box.scrollHeight - box.clientHeight - box.scrollTop;
  });
  assert.ok(await below() < 2);
  await composer(page).fill('a\nb\nc\nd');
  await page.waitForTimeout(100);
  assert.ok(await below() < 2, 'nor does a longer draft hide it');
});

test('on a touch screen a tap on a message shows what can be done with it', { timeout: 120_000 }, async () => {
  const page = await use.person('hugo', { width: 390 });
  const devtools = await page.context().newCDPSession(page);
  await devtools.send('Emulation.setTouchEmulationEnabled', { enabled: true });
  assert.ok(await page.evaluate(() => matchMedia('(hover: none)').matches));
  await makeRoom(page, 'Taps');
  await say(page, 'tap me');
  await message(page, 'tap me').locator('.bubble').click();
  await page.mouse.move(5, 5);
  await message(page, 'tap me').getByRole('button', { name: 'Edit' }).click();
  await page.getByText('Editing a message').waitFor();
});

test('the encryption is fetched once, while the form is filled in', { timeout: 120_000 }, async () => {
  const crypto = '/pkg/matrix_sdk_crypto_wasm_bg.wasm';
  const before = use.site.requests.filter((path) => path === crypto).length;
  const page = await use.tab();
  await page.getByLabel('Password').waitFor();
  const count = () => use.site.requests.filter((path) => path === crypto).length - before;
  for (let waited = 0; count() === 0 && waited < 10_000; waited += 50) await page.waitForTimeout(50);
  assert.equal(count(), 1);
});

test('a browser without navigator.storage starts', { timeout: 120_000 }, async () => {
  const page = await use.tab({ ready: (tab) => tab.addInitScript(() => { Object.defineProperty(Navigator.prototype, 'storage', { value: undefined }); }) });
  await page.getByLabel('Password').waitFor();
});
