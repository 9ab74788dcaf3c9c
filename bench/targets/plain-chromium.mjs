// A Chromium that nobody looks into while it works. What looks into one (Playwright, developer
// tools) has it keep a copy of everything that a worker loads, and a cold start took 15 to 20 ms
// longer by that. What notes every task of it took a send a millisecond.

import { spawn } from 'node:child_process';
import { flags } from '../../tests/browser/browser.mjs';

export class PlainChromium {
  /** Done when it has ended, for whatever reason. */
  ended;
  #child;
  #answered = new Map();
  #asked = 0;
  #received = '';

  /** Opens `url` on a profile. */
  static open(profile, url) {
    const browser = new PlainChromium();
    const stdio = ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'];
    browser.#child = spawn(process.env.CHROMIUM, [...flags, `--user-data-dir=${profile}`, '--remote-debugging-pipe', url], { stdio });
    browser.ended = new Promise((resolve) => browser.#child.once('exit', resolve));
    // One that has ended takes no more; `ended` says so.
    browser.#child.stdio[3].on('error', () => undefined);
    browser.#child.stdio[4].on('data', (data) => browser.#take(data));
    return browser;
  }

  #take(data) {
    const messages = (this.#received + data).split('\0');
    this.#received = messages.pop();
    for (const message of messages) {
      const { id, result, error } = JSON.parse(message);
      this.#answered.get(id)?.(error ? Promise.reject(new Error(error.message)) : result);
      this.#answered.delete(id);
    }
  }

  #ask(method, params, sessionId) {
    const id = (this.#asked += 1);
    this.#child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve) => this.#answered.set(id, resolve));
  }

  /** Ends every service worker of the browser. Nothing looks into it when this is done. */
  async stopWorkers() {
    const { targetInfos } = await this.#ask('Target.getTargets');
    const { targetId } = targetInfos.find(({ type }) => type === 'page');
    const { sessionId } = await this.#ask('Target.attachToTarget', { targetId, flatten: true });
    await this.#ask('ServiceWorker.enable', {}, sessionId);
    await this.#ask('ServiceWorker.stopAllWorkers', {}, sessionId);
    await this.#ask('Target.detachFromTarget', { sessionId });
  }

  /** Ends it, and ends when it has ended. */
  async close() {
    await Promise.race([this.#ask('Browser.close'), this.ended]);
    await this.ended;
  }
}
