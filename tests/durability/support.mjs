// What the tests of this directory share: the built package on a site of its own, Chromium as a process that can be killed, and a page that asks the server.

import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { flags } from '../browser/browser.mjs';

/** Ends after so many milliseconds. */
export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/**
 * Serves the built package and an empty page. `worker(script)` may change the worker's script; `answer(pathname)` may answer what is asked for besides.
 * The site goes when the test `t` ends.
 */
export async function packageSite(t, { worker = (script) => script, answer = () => undefined } = {}) {
  const script = await readFile(path('dist', 'ephapse-worker.js'), 'utf8');
  const site = await serve(path('dist'), {
    override: async (pathname) => {
      if (pathname === '/') return { body: '<!doctype html><title>a page</title>', type: 'text/html' };
      if (pathname === '/ephapse-worker.js') return { body: await worker(script), type: 'text/javascript' };
      return answer(pathname);
    },
  });
  t.after(() => site.close());
  return site;
}

/** An empty profile that goes when the test `t` ends. */
export async function emptyProfile(t) {
  const profile = await mkdtemp(join(tmpdir(), 'ephapse-chromium-'));
  t.after(() => rm(profile, { recursive: true, force: true, maxRetries: 10 }));
  return profile;
}

/** Starts Chromium as a process of ours, with children that die with it. */
export function spawnChromium(profile, ...more) {
  const child = spawn(process.env.CHROMIUM ?? '/usr/bin/chromium', [...flags, `--user-data-dir=${profile}`, ...more], { detached: true, stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  return {
    /** SIGKILL, for the browser and every process of it. */
    kill: async () => {
      if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid, 'SIGKILL');
      await ended;
    },
  };
}

/** A Chromium on one profile that is killed and started again; its page is always the newest one. */
export class Browser {
  #profile;
  #site;
  #process;
  #connection;
  /** The page, once the browser runs and the server answers. */
  page;
  /** How many requests have had no answer at first. */
  lost = 0;

  static async start(t, site) {
    const browser = new Browser();
    browser.#profile = await emptyProfile(t);
    browser.#site = site;
    t.after(() => browser.kill());
    await browser.run();
    return browser;
  }

  run() {
    this.page = this.#open();
    return this.page;
  }

  async #open() {
    const portFile = join(this.#profile, 'DevToolsActivePort');
    await rm(portFile, { force: true });
    this.#process = spawnChromium(this.#profile, '--remote-debugging-port=0', 'about:blank');
    this.#connection = await chromium.connectOverCDP(`http://127.0.0.1:${await portIn(portFile)}`);
    return openPage(this.#connection.contexts()[0], this.#site);
  }

  /** Kills all of it at once. */
  async kill() {
    await this.#process?.kill();
    await this.#connection?.close().catch(() => undefined);
  }
}

async function portIn(file) {
  for (let attempt = 0; attempt < 600; attempt += 1) {
    const [port] = (await readFile(file, 'utf8').catch(() => '')).split('\n');
    if (port) return port;
    await pause(50);
  }
  throw new Error('Chromium does not start');
}

/** A page of the site in which the server was started. */
export async function openPage(context, site) {
  const page = await context.newPage();
  await page.goto(`${site.url}/`);
  await page.evaluate(async () => {
    const { start } = await import('/index.js');
    globalThis.server = await start();
    globalThis.news = [];
    for (const event of ['update', 'restart', 'error']) globalThis.server.on(event, (detail) => globalThis.news.push({ event, ...detail }));
  });
  return page;
}

/**
 * One request of the Client-Server API, from the page; resolves to `{ status, body, headers }`. With `global` it goes through the page's own `fetch`, as of
 * clients that were not given the package's.
 */
export function ask(page, token, method, endpoint, content, { global = false } = {}) {
  return page.evaluate(async (given) => {
    const fetch = given.global ? globalThis.fetch : globalThis.server.fetch;
    const headers = given.token ? { authorization: `Bearer ${given.token}` } : {};
    const response = await fetch(`/_matrix/client/v3${given.endpoint}`, { method: given.method, headers, body: given.content && JSON.stringify(given.content) });
    return { status: response.status, body: await response.json(), headers: Object.fromEntries(response.headers) };
  }, { token, method, endpoint, content, global });
}

/** As `ask`, for what has to succeed; resolves to the answer's body. */
export async function ok(page, token, method, endpoint, content, options) {
  const { status, body } = await ask(page, token, method, endpoint, content, options);
  if (status !== 200) throw new Error(`${method} ${endpoint} answered ${status}: ${JSON.stringify(body)}`);
  return body;
}

/** A new account; resolves to `{ user_id, access_token, device_id }`. */
export function register(page, username) {
  return ok(page, undefined, 'POST', '/register', { username, password: 'a long enough password', auth: { type: 'm.login.dummy' } });
}

/** The message events of a room, oldest first. */
export async function messagesOf(page, token, room) {
  const events = [];
  for (let from = ''; ;) {
    const { chunk, end } = await ok(page, token, 'GET', `/rooms/${encodeURIComponent(room)}/messages?dir=f&limit=500${from && `&from=${from}`}`);
    events.push(...chunk.filter(({ type }) => type === 'm.room.message'));
    if (!end || chunk.length === 0) return events;
    from = end;
  }
}
