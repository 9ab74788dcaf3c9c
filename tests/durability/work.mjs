// A browser at work that is interrupted: it is killed, or its worker is stopped, while two accounts
// send, sync and exchange keys.

import assert from 'node:assert/strict';
import { emptyProfile, killable, storageErrors } from '../browser/browser.mjs';
import { ask, ok, openPage, pause, register } from '../browser/site.mjs';
import { Load } from '../load.mjs';

/**
 * A Chromium on one profile that is killed and started again; its page is always the newest one.
 */
export class Browser {
  #profile;
  #site;
  #running;
  /** The page, once the browser runs and the server answers. */
  page;
  /** How many requests have no answer yet. */
  underWay = 0;
  /** How often a request has had no answer. */
  lost = 0;
  /** Whether half of the work is done by the page's own `fetch`. */
  global = true;

  /**
   * Starts it with the site open, on a new profile unless there is one. It ends with the test `t`.
   */
  static async start(t, site, profile) {
    const browser = new Browser();
    browser.#profile = profile ?? (await emptyProfile(t));
    browser.#site = site;
    await browser.run();
    return browser;
  }

  run() {
    this.page = this.#open();
    return this.page;
  }

  async #open() {
    this.#running = await killable(this.#profile);
    return openPage(this.#running.context, this.#site);
  }

  /**
   * What would tell a lost database from one that was read wrongly: what is in it, who the server
   * is, and what Chromium has said.
   */
  async storage() {
    const page = await this.page;
    const seen = await page.evaluate(async () => {
      const contents = {};
      for (const { name, version } of await indexedDB.databases()) {
        contents[name] = { version };
        if (!name.startsWith('ephapse /')) continue;
        const database = await new Promise((resolve, reject) => {
          const request = indexedDB.open(name);
          request.onsuccess = () => { resolve(request.result); };
          request.onerror = () => { reject(request.error); };
        });
        await new Promise((resolve) => {
          const transaction = database.transaction(['meta', 'log', 'segments']);
          transaction.objectStore('meta').get('epoch').onsuccess = ({ target }) => { contents[name].epoch = target.result; };
          for (const store of ['log', 'segments']) {
            transaction.objectStore(store).getAllKeys().onsuccess = ({ target }) => { contents[name][store] = [target.result.length, target.result[0], target.result.at(-1)]; };
          }
          transaction.oncomplete = resolve;
        });
        database.close();
      }
      return { contents, status: await globalThis.server.status() };
    });
    return { ...seen, errors: await storageErrors(this.#profile) };
  }

  /** Kills all of it at once. */
  async kill() {
    await this.#running?.kill();
  }
}

/**
 * A worker's way to whichever browser runs. A request without an answer is repeated until it has
 * one. With `global` it goes by the page's own `fetch`, else by the package's, which repeats most
 * of them itself.
 */
class Line {
  #browser;
  #token;
  #global;

  constructor(browser, token, global) {
    this.#browser = browser;
    this.#token = token;
    this.#global = global;
  }

  async ask(method, endpoint, body, { again = true } = {}) {
    const begun = performance.now();
    for (;;) {
      const page = await this.#browser.page;
      this.#browser.underWay += 1;
      try {
        const asked = ask(page, this.#token, method, endpoint, body, { global: this.#global && this.#browser.global });
        const answer = await asked.finally(() => { this.#browser.underWay -= 1; });
        if (answer.status !== 200) assert.fail(`${method} ${endpoint}: ${answer.status} ${JSON.stringify(answer.body)}, ${JSON.stringify(await this.#browser.storage())}`);
        return answer.body;
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        if (performance.now() - begun > 60_000) throw new Error(`${method} ${endpoint} has had no answer for a minute`, { cause: error });
        await pause(20);
        this.#browser.lost += 1;
        if (!again) return null;
      }
    }
  }
}

/**
 * Sets two accounts to work in the browser, half of it by the page's own `fetch`; `connect(token)`
 * gives a further way to the server.
 */
export async function work(browser) {
  const page = await browser.page;
  const [alice, bob] = [await register(page, 'alice'), await register(page, 'bob')];
  const { room_id: room } = await ok(page, alice.access_token, 'POST', '/createRoom', { preset: 'public_chat' });
  await ok(page, bob.access_token, 'POST', `/join/${encodeURIComponent(room)}`, {});
  let lines = 0;
  const connect = (token) => {
    lines += 1;
    return new Line(browser, token, lines % 2 === 0);
  };
  return { connect, alice, load: new Load(connect, { alice, bob, room }) };
}
