// Browsers of other engines, each as a page that a test can open and run functions in, and with its
// way to end the server's worker.
//
// Every one has the same face: `page.goto(url)`, `page.evaluate(body, argument)`, `endWorker(page)`
// and `close()`. `limits` says what its driver cannot do, and what was done instead.

import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import puppeteer from 'puppeteer-core';
import { firefox, webkit } from '../../scripts/lib/tools.mjs';
import { launch, stopWorkers } from './browser.mjs';
import { pause } from './site.mjs';

/** So long a function may run in a page. */
const timeout = 120_000;

/** Chromium, by its own protocol. */
export async function openChromium() {
  const browser = await launch();
  return { page: await browser.context.newPage(), endWorker: stopWorkers, close: browser.close, limits: [] };
}

/** Firefox, by WebDriver BiDi; with `inPrivate` in private windows alone. */
export async function openFirefox({ inPrivate = false } = {}) {
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: await firefox(),
    headless: true,
    protocolTimeout: timeout,
    extraPrefsFirefox: { 'browser.privatebrowsing.autostart': inPrivate, ...idleSoon },
  });
  return {
    page: await browser.newPage(),
    endWorker: () => pause(3 * idle),
    close: () => browser.close(),
    limits: ['BiDi cannot end a worker: Firefox is set to end it when it has been idle for a second'],
  };
}

const idle = 1_000;
const idleSoon = { 'dom.serviceWorkers.idle_timeout': idle, 'dom.serviceWorkers.idle_extended_timeout': idle };

/** WebKitGTK, by WebDriver. It keeps nothing on disk there, as in its private windows. */
export async function openWebKit() {
  const { driver, display, browser } = await webkit();
  const port = await freePort();
  const group = spawnGroup(display, ['-a', driver, `--port=${port}`]);
  const ask = async (method, path, body) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, body: body && JSON.stringify(body) });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`${method} ${path}: ${value.error}: ${value.message}`);
    return value;
  };
  try {
    await answers(() => ask('GET', '/status'));
    const options = { 'webkitgtk:browserOptions': { binary: browser, args: ['--automation'] }, timeouts: { script: timeout, pageLoad: timeout, implicit: 0 } };
    const { sessionId } = await ask('POST', '/session', { capabilities: { alwaysMatch: options } });
    const session = `/session/${sessionId}`;
    const page = {
      goto: (url) => ask('POST', `${session}/url`, { url }),
      evaluate: async (body, argument) => {
        const { value, error } = await ask('POST', `${session}/execute/async`, { script: runIn(body), args: [argument ?? null] });
        if (error !== undefined) throw new Error(error);
        return value;
      },
    };
    return {
      page,
      endWorker: async () => {
        await page.goto('about:blank');
        await pause(lingering);
      },
      close: async () => {
        await ask('DELETE', session).catch(() => undefined);
        await group.kill();
      },
      limits: ['WebKit\'s driver cannot end a worker: the page leaves the site, and WebKit ends it after ten seconds'],
    };
  } catch (error) {
    await group.kill();
    throw error;
  }
}

/** WebKit ends a worker ten seconds after its last page. */
const lingering = 13_000;

/** A script for WebDriver that runs a function and hands on what becomes of it. */
function runIn(body) {
  return `const [argument, done] = arguments;
    (async () => (${body})(argument))().then((value) => done({ value }), (error) => done({ error: String(error) + ' ' + (error?.stack ?? '') }));`;
}

/**
 * WebKitGTK without a driver, which keeps its data in a profile: the page asks `site` what to do.
 * `endWorker` ends the whole browser at once and starts it again on the same profile.
 */
export async function openWebKitOnDisk(site) {
  const { display, browser } = await webkit();
  const home = await mkdtemp(join(tmpdir(), 'ephapse-webkit-'));
  const env = { ...process.env, HOME: home, XDG_DATA_HOME: `${home}/data`, XDG_CACHE_HOME: `${home}/cache`, XDG_CONFIG_HOME: `${home}/config` };
  let group;
  const page = {
    obedient: true,
    goto: async (address) => {
      const url = new URL('obedient', address).href;
      if (group) await site.orders.give({ goto: url });
      else group = spawnGroup(display, ['-a', browser, url], { env });
      await site.orders.arrived();
    },
    evaluate: (body, argument) => site.orders.give({ body: String(body), argument }),
  };
  return {
    page,
    endWorker: async () => {
      await group.kill();
      site.orders.forget();
      group = undefined;
    },
    close: async () => {
      await group?.kill();
      await rm(home, { recursive: true, force: true, maxRetries: 10 });
    },
    limits: ['without a driver the page asks the site what to do, and the whole browser is killed instead of the worker'],
  };
}

/**
 * What a page without a driver is to do next. `script` is for the page; `answer` answers its
 * requests.
 */
export class Orders {
  #page;
  #arrival;
  #open;

  /** Put into each page of a site. */
  static script = `(async () => {
    let done = {};
    for (;;) {
      const order = await (await fetch('/orders', { method: 'POST', body: JSON.stringify(done) })).json();
      if (order.goto) { location.href = order.goto; return; }
      try { done = { value: await (0, eval)('(' + order.body + ')')(order.argument) }; }
      catch (error) { done = { error: String(error) + ' ' + (error?.stack ?? '') }; }
    }
  })();`;

  /** A page has done what it was to do, and asks for more. */
  async answer(request) {
    let text = '';
    for await (const chunk of request) text += chunk;
    this.#open?.(JSON.parse(text));
    this.#open = undefined;
    const order = await new Promise((resolve) => {
      this.#page = resolve;
      this.#arrival?.();
    });
    return { body: JSON.stringify(order), type: 'application/json' };
  }

  /** Ends when a page waits for orders. */
  async arrived() {
    if (!this.#page) await within(new Promise((resolve) => { this.#arrival = resolve; }), 'the browser did not open the page');
  }

  /** Has the page do something; resolves to what it returned. */
  async give(order) {
    await this.arrived();
    const done = new Promise((resolve) => { this.#open = resolve; });
    const page = this.#page;
    this.#page = undefined;
    page(order);
    if (order.goto) return undefined;
    const { value, error } = await within(done, 'the page did not answer');
    if (error !== undefined) throw new Error(error);
    return value;
  }

  /** The page is gone. */
  forget() {
    this.#page = undefined;
    this.#open = undefined;
  }
}

async function within(work, complaint) {
  let late;
  const limit = new Promise((_, reject) => { late = setTimeout(() => reject(new Error(complaint)), timeout); });
  return Promise.race([work, limit]).finally(() => { clearTimeout(late); });
}

/** A program and all that it starts, which end together. */
function spawnGroup(command, args, options = {}) {
  const child = spawn(command, args, { ...options, detached: true, stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  return {
    kill: async () => {
      if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid, 'SIGKILL');
      await ended;
    },
  };
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const { port } = server.address();
  await new Promise((resolve) => { server.close(resolve); });
  return port;
}

async function answers(ask) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await ask();
    } catch (error) {
      if (attempt === 300) throw error;
      await pause(100);
    }
  }
}
