// A real Chromium with a fresh profile, and what tests need to look into it and to end it.

import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

/** How Chromium is started. */
export const flags = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

const executable = process.env.CHROMIUM ?? '/usr/bin/chromium';

/**
 * Starts Chromium with a profile of its own, which `close` deletes; `settings` are what its user
 * has chosen, `more` are further flags, and `directory` is an empty one for the profile.
 */
export async function launch({ settings, more = [], directory } = {}) {
  const profile = directory ?? (await mkdtemp(join(tmpdir(), 'ephapse-chromium-')));
  if (settings) {
    await mkdir(join(profile, 'Default'));
    await writeFile(join(profile, 'Default', 'Preferences'), JSON.stringify(settings));
  }
  const context = await chromium.launchPersistentContext(profile, { executablePath: executable, args: [...flags, ...more] });
  return {
    context,
    close: async () => {
      await context.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}

/** Ends every service worker of the browser, as it does itself when it wants memory back. */
export async function stopWorkers(page) {
  const devtools = await page.context().newCDPSession(page);
  await devtools.send('ServiceWorker.enable');
  await devtools.send('ServiceWorker.stopAllWorkers');
  await devtools.detach();
}

/** Reloads as with Shift held: the page comes past the service worker. */
export async function hardReload(page) {
  const devtools = await page.context().newCDPSession(page);
  const loaded = page.waitForEvent('load');
  await devtools.send('Page.reload', { ignoreCache: true });
  await loaded;
  await devtools.detach();
}

/** The Chromium that runs on a profile. */
const running = new Map();

/** An empty profile that goes when the test `t` ends, with the Chromium that runs on it. */
export async function emptyProfile(t) {
  const profile = await mkdtemp(join(tmpdir(), 'ephapse-chromium-'));
  t.after(async () => {
    await running.get(profile)?.kill();
    await rm(profile, { recursive: true, force: true, maxRetries: 10 });
  });
  return profile;
}

const logOf = (profile) => join(profile, 'chromium.log');

/** The errors that the Chromiums on an `emptyProfile` have logged about storage. */
export async function storageErrors(profile) {
  const lines = (await readFile(logOf(profile), 'utf8').catch(() => '')).split('\n');
  return lines.filter((line) => /indexed_?db|leveldb|quota|sqlite|corrupt/i.test(line));
}

/** Starts Chromium as a process of ours on an `emptyProfile`, with children that die with it. */
export async function spawnChromium(profile, ...more) {
  const log = await open(logOf(profile), 'a');
  const child = spawn(executable, [...flags, '--enable-logging=stderr', `--user-data-dir=${profile}`, ...more], { detached: true, stdio: ['ignore', 'ignore', log.fd] });
  await log.close();
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const browser = {
    /** SIGKILL, for the browser and every process of it. */
    kill: async () => {
      if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid, 'SIGKILL');
      await ended;
    },
  };
  running.set(profile, browser);
  return browser;
}

/**
 * Starts Chromium as `spawnChromium` does and connects to it; `context` is its one context, `kill`
 * ends it. A profile may be started again after it was killed.
 */
export async function killable(profile) {
  const portFile = join(profile, 'DevToolsActivePort');
  await rm(portFile, { force: true });
  const { kill } = await spawnChromium(profile, '--remote-debugging-port=0', 'about:blank');
  try {
    const connection = await chromium.connectOverCDP(`http://127.0.0.1:${await portIn(portFile)}`);
    return {
      context: connection.contexts()[0],
      kill: async () => {
        await kill();
        await connection.close().catch(() => undefined);
      },
    };
  } catch (error) {
    await kill();
    throw error;
  }
}

async function portIn(file) {
  for (let attempt = 0; attempt < 600; attempt += 1) {
    const [port] = (await readFile(file, 'utf8').catch(() => '')).split('\n');
    if (port) return port;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error('Chromium does not start');
}
