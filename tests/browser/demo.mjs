// The demo as a test uses it: a site, one browser, and a tab for each person.

import assert from 'node:assert/strict';
import { after, afterEach, before } from 'node:test';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { launch } from './browser.mjs';

const password = 'a long enough password';

/**
 * Serves the demo and starts a browser before the tests of a file; afterwards no page may have had
 * an error.
 */
export function demo() {
  const problems = [];
  const use = { problems };
  before(async () => {
    use.site = await serve(path('dist', 'www'));
    use.browser = await launch();
  });
  after(async () => {
    await use.browser?.close();
    await use.site?.close();
    assert.deepEqual(problems, []);
  });

  const pages = [];
  afterEach(() => Promise.all(pages.splice(0).map((page) => page.close())));

  /**
   * A tab on the demo, or on one of its addresses. With `remembers` it opens the account that was
   * used last, as every new tab of the demo does.
   */
  use.tab = async ({ width = 1180, height = 760, address = '/', remembers = false, site = use.site, ready = () => undefined } = {}) => {
    const page = await use.browser.context.newPage();
    pages.push(page);
    page.setDefaultTimeout(30_000);
    page.on('pageerror', (error) => problems.push(String(error)));
    await page.setViewportSize({ width, height });
    if (!remembers) await page.addInitScript(() => { sessionStorage['ephapse demo accounts'] ??= ''; });
    await ready(page);
    await page.goto(site.url + address);
    return page;
  };

  /** A tab in which somebody has just made an account. */
  use.person = async (name, options) => {
    const page = await use.tab(options);
    await showForm(page, 'Create an account');
    await page.getByLabel('User name').fill(name);
    await page.getByLabel('Password').fill(password);
    await page.getByRole('button', { name: 'Create account' }).click();
    await page.getByLabel('Account').waitFor();
    return page;
  };
  return use;
}

/** Shows one of the two forms of the welcome view. */
async function showForm(page, name) {
  const heading = page.getByRole('heading', { name, exact: true });
  const other = page.getByRole('button', { name: name === 'Log in' ? 'Log in to an existing account' : name, exact: true });
  await heading.or(other).first().waitFor();
  if (!(await heading.isVisible())) await other.click();
  await heading.waitFor();
}

/** Logs in with the password. */
export async function logIn(page, name) {
  await showForm(page, 'Log in');
  await page.getByLabel('User name').fill(name);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Log in', exact: true }).click();
}

/** Makes a room and waits until it is open. */
export async function makeRoom(page, name, { invite = '', encrypted = true } = {}) {
  await page.getByRole('button', { name: 'New room' }).click();
  await page.getByLabel('Name', { exact: true }).fill(name);
  await page.getByLabel('Invite', { exact: true }).fill(invite);
  if (!encrypted) await page.getByLabel('Encrypt messages end to end').uncheck();
  await page.getByRole('button', { name: 'Create' }).click();
  await page.getByRole('heading', { name }).waitFor();
}

/** Accepts an invitation, and waits until the room is open. */
export async function join(page, name) {
  await page.getByRole('button', { name: `Join ${name}` }).click();
  await page.getByRole('heading', { name }).waitFor();
}

/** The conversation of the open room. */
export const messages = (page) => page.getByRole('log', { name: 'Messages' });

/** One message of it, by its text. */
export const message = (page, text) => messages(page).getByRole('listitem').filter({ hasText: text });

/** Where a message is written. */
export const composer = (page) => page.getByRole('textbox', { name: 'Message', exact: true });

/** Sends a message to the open room, and waits until it is there. */
export async function say(page, text) {
  await composer(page).fill(text);
  await composer(page).press('Enter');
  await page.locator('.message.sent').filter({ hasText: text }).waitFor();
}

/** Opens the account's menu and chooses something. */
export async function choose(page, name) {
  await page.getByLabel('Account').click();
  await page.getByRole('button', { name, exact: true }).click();
}

/** An open dialog, by its title. */
export const dialog = (page, name) => page.getByRole('dialog', { name });

/** What the focus is on, by role-free means: its label, text or tag. */
export const focused = (page) => page.evaluate(() => document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent ?? '');

/** Makes a tab hidden or visible, as switching tabs does. */
export async function hide(page, hidden) {
  await page.evaluate((now) => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => now });
    Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => (now ? 'hidden' : 'visible') });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
}
