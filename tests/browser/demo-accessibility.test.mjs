// Every view and open dialog of the demo, wide and narrow, light and dark: axe finds nothing, with
// no rule switched off. With `SCREENSHOTS=directory` each is photographed too.

import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { choose, composer, demo, dialog, join, makeRoom, message, messages, say } from './demo.mjs';

const use = demo();
const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const screenshots = process.env.SCREENSHOTS;
if (screenshots) await mkdir(screenshots, { recursive: true });

const sizes = screenshots ? [[1180, 760], [390, 780], [320, 640]] : [[1180, 760], [320, 640]];
const found = [];

/** Looks at what is shown, at every width and in both schemes. */
async function look(page, name) {
  const before = page.viewportSize();
  for (const [width, height] of sizes) {
    await page.setViewportSize({ width, height });
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      const view = `${name}, ${width} px, ${colorScheme}`;
      if (screenshots) await page.screenshot({ path: `${screenshots}/${name.replaceAll(' ', '-')}-${width}-${colorScheme}.png` });
      if (await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth)) found.push(`${view}: cut off at the side`);
      // Each width has the same colours, and each scheme the same structure.
      if (!(await page.evaluate(() => 'axe' in globalThis))) await page.evaluate(axe);
      const { violations, passes } = await page.evaluate(() => globalThis.axe.run(document));
      assert.ok(passes.length > 10, `${view}: axe looked at nothing`);
      for (const { id, help, nodes } of violations) found.push(`${view}: ${id} (${help}): ${nodes.map(({ html }) => html.slice(0, 160)).join('; ')}`);
    }
  }
  await page.setViewportSize(before);
}

/** Looks at a dialog, and closes it. */
async function lookAt(page, title, name) {
  await dialog(page, title).waitFor();
  await look(page, name);
  await page.keyboard.press('Escape');
  await dialog(page, title).waitFor({ state: 'detached' });
}

test('axe finds nothing in any view', { timeout: 300_000 }, async () => {
  // What cannot be reached at will: a start that hangs, and one that fails.
  const stalled = await serve(path('dist', 'www'), { override: (pathname) => (pathname === '/ephapse.wasm' ? new Promise(() => undefined) : undefined) });
  const slow = await use.tab({ site: stalled });
  await slow.getByRole('heading', { name: 'Starting your homeserver' }).waitFor();
  await look(slow, 'starting');
  await slow.close();
  await stalled.close();
  const failing = await use.tab({ ready: (page) => page.addInitScript(() => { delete Navigator.prototype.serviceWorker; }) });
  await failing.getByRole('heading', { name: 'The homeserver does not start' }).waitFor();
  await look(failing, 'does not start');
  await failing.close();

  const page = await use.tab();
  await page.getByRole('heading', { name: 'Create an account' }).waitFor();
  await look(page, 'register');
  await page.close();
  const alice = await use.person('alice');
  await alice.getByText('Hello, alice').waitFor();
  await look(alice, 'no rooms');

  const second = await use.tab();
  await second.getByText('alice is open in another tab').waitFor();
  await second.getByLabel('User name').fill('alice');
  await second.getByLabel('Password').fill('a long enough password');
  await second.getByRole('button', { name: 'Create account' }).click();
  await second.getByRole('alert').waitFor();
  await look(second, 'register refused');
  await second.getByRole('button', { name: 'Log in to an existing account' }).click();
  await look(second, 'log in');
  await second.close();

  await alice.getByRole('button', { name: 'New room' }).click();
  await alice.getByLabel('Name', { exact: true }).fill('Garden');
  await alice.getByLabel('Invite', { exact: true }).fill('bbo');
  await alice.getByRole('button', { name: 'Create' }).click();
  await alice.getByRole('alert').waitFor();
  await look(alice, 'new room refused');
  await alice.keyboard.press('Escape');

  const bob = await use.person('bob');
  await makeRoom(bob, 'Books');
  await makeRoom(alice, 'Garden plans', { invite: 'bob' });
  await bob.getByText('alice invites you').waitFor();
  await bob.goto(use.site.url);
  await bob.getByText('alice invites you').waitFor();
  await look(bob, 'invitation');
  await join(bob, 'Garden plans');
  await say(alice, 'Morning! The tomatoes are in.');
  await say(bob, 'Already? I thought we wait for May.');
  await say(bob, 'Last year the frost took half of them.');
  await say(alice, 'That is what the fleece is for.');
  await say(alice, 'Shall we meet on Saturday and build the second bed? I have the boards, and Jo lends us the drill.');
  await say(bob, 'Saturday is good. I bring cake.');
  await messages(alice).getByText('I bring cake').waitFor();
  await message(alice, 'I bring cake').getByRole('button', { name: 'React with ❤️' }).focus();
  await alice.keyboard.press('Enter');
  await messages(bob).getByRole('button', { name: '❤️ 1' }).waitFor();
  await say(bob, 'And I forgot the');
  await messages(alice).getByText('And I forgot the').waitFor();
  await message(bob, 'And I forgot the').getByRole('button', { name: 'Delete' }).focus();
  await bob.keyboard.press('Enter');
  await dialog(bob, 'Delete this message?').waitFor();
  await look(bob, 'delete');
  await dialog(bob, 'Delete this message?').getByRole('button', { name: 'Delete' }).click();
  await messages(alice).getByText('Message deleted').waitFor();
  await composer(bob).fill('so');
  await alice.getByText('bob is typing…').waitFor();
  await composer(alice).focus();
  await look(alice, 'room');
  await composer(alice).press('Shift+Tab');
  await alice.keyboard.press('ArrowUp');
  await look(alice, 'message chosen');
  await composer(alice).focus();
  await composer(alice).press('ArrowUp');
  await alice.getByText('Editing a message').waitFor();
  await look(alice, 'editing');
  await alice.keyboard.press('Escape');

  await alice.getByRole('button', { name: '2 members' }).click();
  await lookAt(alice, 'Members of Garden plans', 'members');
  await alice.getByRole('button', { name: 'Invite somebody' }).click();
  await lookAt(alice, 'Invite to Garden plans', 'invite');
  await alice.getByRole('button', { name: 'Leave the room' }).click();
  await lookAt(alice, 'Leave Garden plans?', 'leave');
  await alice.goto(use.site.url);
  await alice.getByText('Hello, alice').waitFor();
  await look(alice, 'rooms');
  await alice.getByRole('button', { name: 'Homeserver in this browser' }).click();
  await lookAt(alice, 'Your homeserver', 'status');
  await alice.getByLabel('Account').click();
  await alice.getByRole('button', { name: 'Log out' }).waitFor();
  await look(alice, 'account menu');
  await alice.keyboard.press('Escape');

  await choose(alice, 'Log out');
  await alice.getByText('You will lose').waitFor();
  await lookAt(alice, 'Log out?', 'log out without a key');
  await choose(alice, 'Recovery key');
  await alice.getByRole('button', { name: 'Make a recovery key', exact: true }).waitFor();
  await look(alice, 'no recovery key');
  await alice.getByRole('button', { name: 'Make a recovery key', exact: true }).click();
  await alice.getByText('Your messages up to now are saved').waitFor();
  await lookAt(alice, 'Your recovery key', 'recovery key made');
  await choose(alice, 'Recovery key');
  await alice.getByText('can be read again with it').waitFor();
  await look(alice, 'recovery key');
  await alice.getByRole('button', { name: 'Make a new recovery key' }).click();
  await lookAt(alice, 'Make a new recovery key?', 'second recovery key');
  await choose(alice, 'Log out');
  await alice.getByText('Every key is saved.').waitFor();
  await look(alice, 'log out');
  await dialog(alice, 'Log out?').getByRole('button', { name: 'Log out', exact: true }).click();
  await alice.getByLabel('Password').waitFor();

  await alice.getByRole('button', { name: 'Log in to an existing account' }).or(alice.getByRole('heading', { name: 'Log in' })).click();
  await alice.getByLabel('User name').fill('alice');
  await alice.getByLabel('Password').fill('a long enough password');
  await alice.getByRole('button', { name: 'Log in', exact: true }).click();
  await alice.getByText('This device cannot read your older messages yet.').waitFor();
  await look(alice, 'older messages locked');
  await alice.getByRole('button', { name: 'Enter the recovery key' }).click();
  await alice.getByRole('button', { name: 'Restore' }).waitFor();
  await look(alice, 'enter recovery key');
  await alice.getByRole('button', { name: 'I have lost my recovery key' }).click();
  await lookAt(alice, 'Start without the lost key?', 'lost recovery key');

  assert.deepEqual(found, []);
});
