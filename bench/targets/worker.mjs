// The server in the service worker of a real Chromium, asked by a page with its own fetch.

import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { brotliCompressSync, constants } from 'node:zlib';
import { build } from 'esbuild';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { chromium } from '../../scripts/lib/tools.mjs';
import { functionsFile, wasmForPages } from '../../scripts/lib/wasm.mjs';
import { web } from '../../scripts/build.mjs';
import { launch, stopWorkers } from '../../tests/browser/browser.mjs';
import { directoryOnDisk } from '../disk.mjs';
import { COLD_START } from '../work.mjs';
import { note } from '../profile.mjs';
import { PlainChromium } from './plain-chromium.mjs';

const html = '<!doctype html><title>bench</title>';
const coldStart = `${html}<script type="module">import '/bench.js'; await globalThis.coldStart();</script>`;
const verifier = path('.cache', 'verify');

export class Worker {
  id = 'worker';
  name = 'service worker';
  large = { events: 100_000, members: 10_000 };

  build() {
    return web();
  }

  async start() {
    // Also where everything else is built already: without it all would be measured in vain.
    await wasmForPages('ephapse-verify', 'verify', verifier);
    process.env.CHROMIUM ??= await chromium();
    const bundled = await build({ entryPoints: [path('bench', 'page.mjs')], bundle: true, write: false, format: 'esm', alias: { ephapse: path('dist', 'index.js') } });
    const script = { body: bundled.outputFiles[0].contents, type: 'text/javascript' };
    this.site = await serve(path('dist'), {
      override: async (pathname, request) => {
        if (pathname === '/') return { body: html, type: 'text/html' };
        if (pathname === '/cold-start') return { body: coldStart, type: 'text/html' };
        if (pathname === '/stop-worker') return { status: await this.plain.stopWorkers().then(() => 204) };
        if (pathname === '/figures') return { status: await text(request).then((figures) => this.found(JSON.parse(figures))).then(() => 204) };
        if (pathname === '/bench.js') return script;
        if (pathname === '/verify.js') return { body: await readFile(`${verifier}/verify.js`), type: 'text/javascript' };
        if (pathname === '/verify_bg.wasm') return { body: await readFile(`${verifier}/verify_bg.wasm`), type: 'application/wasm' };
      },
    });
    this.profileDirectory = await directoryOnDisk('chromium');
    await this.#launch();
  }

  async #launch() {
    this.browser = await launch({ directory: this.profileDirectory });
    this.page = await this.browser.context.newPage();
    await this.page.exposeFunction('say', async (part) => {
      await this.trace.part(part);
      this.say(part);
    });
    await this.page.exposeFunction('stopWorker', () => stopWorkers(this.page));
    await this.page.goto(`${this.site.url}/`);
  }

  async measure(say) {
    this.say = say;
    this.trace = await Trace.start(this.page);
    const figures = await this.#work();
    await this.trace.end();
    const { run, part } = this.trace.longestRun();
    figures.longestRun = run;
    figures.from.longestRun = part;
    figures.notes = [`the longest run was in "${part}"`];
    if (this.large) await this.#coldStart(figures);
    const wasm = await readFile(path('dist', 'ephapse.wasm'));
    figures.wasm = brotliCompressSync(wasm, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: wasm.length } }).length / 1e6;
    return figures;
  }

  /** Does one part of the work; resolves to how long each function of the worker was at work. */
  async profile(part) {
    this.trace = await Trace.start(this.page, ['disabled-by-default-v8.cpu_profiler']);
    await this.#work(part);
    await this.trace.end();
    return this.trace.functions(await functionNames());
  }

  /** In the same profile, while nobody looks into the browser; with `profile` this part is done as every other. */
  async #coldStart(figures) {
    this.say(COLD_START);
    await this.browser.context.close();
    const found = new Promise((resolve) => { this.found = resolve; });
    this.plain = PlainChromium.open(this.profileDirectory, `${this.site.url}/cold-start`);
    const { failed, ...more } = await found;
    await this.plain.close();
    await this.#launch();
    if (failed) throw new Error(failed);
    figures.notes.push(`a cold start: ${more.coldStages.join(', ')}`);
    for (const figure of Object.keys(more)) figures.from[figure] = COLD_START;
    Object.assign(figures, more);
  }

  #work(only) {
    return this.page.evaluate(async (options) => {
      await import('/bench.js');
      return globalThis.bench(options);
    }, { large: this.large, only });
  }

  /** Ends the server; resolves to how many stored events were verified, and throws when one is not what was signed. */
  async stop() {
    try {
      return await this.#verify();
    } finally {
      await this.browser.close();
      await this.site.close();
    }
  }

  // In a page of its own that no worker controls: nobody else has the database open.
  async #verify() {
    await this.page.evaluate(async () => {
      for (const registration of await navigator.serviceWorker.getRegistrations()) await registration.unregister();
    });
    await this.page.close();
    const page = await this.browser.context.newPage();
    await page.goto(`${this.site.url}/`);
    return page.evaluate(async () => {
      const { default: load, verify } = await import('/verify.js');
      await load();
      return verify('ephapse /');
    });
  }
}

/** What the browser's threads do, as its own tracing sees it. */
class Trace {
  #devtools;
  #categories;
  #threads = new Map();
  #longest = new Map();
  /** By the profile they belong to: its thread, its functions by their nodes, and how long each was at work. */
  #profiles = new Map();
  #part = '';
  #turn = Promise.resolve();

  static async start(page, categories = []) {
    const trace = new Trace();
    trace.#categories = ['toplevel', '__metadata', ...categories];
    trace.#devtools = await page.context().newCDPSession(page);
    trace.#devtools.on('Tracing.dataCollected', ({ value }) => value.forEach((event) => trace.#take(event)));
    // What does not fit is lost without a word, so the buffer is emptied long before it is full.
    trace.#devtools.on('Tracing.bufferUsage', ({ percentFull }) => { if (percentFull > 0.4) trace.part(trace.#part); });
    await trace.#begin();
    return trace;
  }

  /** What comes from now on is part of `name`. */
  part(name) {
    this.#turn = this.#turn.then(() => this.#halt()).then(() => { this.#part = name; }).then(() => this.#begin());
    return this.#turn;
  }

  #begin() {
    return this.#devtools.send('Tracing.start', {
      transferMode: 'ReportEvents',
      bufferUsageReportingInterval: 500,
      traceConfig: { recordMode: 'recordUntilFull', includedCategories: this.#categories, excludedCategories: ['*'] },
    });
  }

  /** The last of it has come. */
  async end() {
    await this.#turn;
    await this.#halt();
    await this.#devtools.detach();
  }

  async #halt() {
    const complete = new Promise((resolve) => this.#devtools.once('Tracing.tracingComplete', resolve));
    await this.#devtools.send('Tracing.end');
    const { dataLossOccurred } = await complete;
    if (dataLossOccurred) throw new Error(`the trace of "${this.#part}" is not whole`);
  }

  // `tdur` is what the thread itself worked; `dur` also counts the time in which the machine did something else.
  #take({ name, ph, pid, tid, id, dur, tdur = dur, args }) {
    const thread = `${pid} ${tid}`;
    if (ph === 'M' && name === 'thread_name') this.#threads.set(thread, args.name);
    // What comes before the first part is not of it.
    if (this.#part !== '' && (name === 'Profile' || name === 'ProfileChunk')) this.#sample(name === 'Profile' ? thread : undefined, `${pid} ${id}`, args.data);
    if (ph !== 'X' || !name.endsWith('RunTask')) return;
    const run = tdur / 1_000;
    if (run > (this.#longest.get(thread)?.run ?? 0)) this.#longest.set(thread, { run, part: this.#part });
  }

  // What a profile is of is said by the thread that begins it; its samples come from another one, and may come first.
  #sample(thread, id, { cpuProfile: { nodes = [], samples = [] } = {}, timeDeltas = [] }) {
    const profile = this.#profiles.get(id) ?? { nodes: new Map(), took: new Map() };
    this.#profiles.set(id, profile);
    if (thread) profile.thread = thread;
    for (const { id: node, callFrame } of nodes) profile.nodes.set(node, nameOf(callFrame));
    samples.forEach((node, n) => profile.took.set(node, (profile.took.get(node) ?? 0) + timeDeltas[n]));
  }

  /** How long each function of a service worker was at work, by its name; `named` has the names of functions of the module by their numbers. */
  functions(named) {
    const noted = new Map();
    for (const { thread, nodes, took } of this.#profiles.values()) {
      if (!this.#isWorker(thread)) continue;
      for (const [node, microseconds] of took) {
        const name = nodes.get(node);
        if (name === '(idle)' || name === '(root)') continue;
        note(noted, named.get(/^wasm-function\[(\d+)\]$/.exec(name)?.[1]) ?? name, microseconds);
      }
    }
    return noted;
  }

  #isWorker(thread) {
    return /service ?worker/i.test(this.#threads.get(thread) ?? '');
  }

  /** The longest task of a service worker's thread: `{ run, part }`, `run` in ms. */
  longestRun() {
    const runs = [...this.#longest].filter(([thread]) => this.#isWorker(thread)).map(([, longest]) => longest);
    if (runs.length === 0) throw new Error(`no service worker among the threads ${[...this.#threads.values()].join(', ')}`);
    return runs.reduce((longest, each) => (each.run > longest.run ? each : longest));
  }
}

/** A function's name, or where it stands; the browser's own work has neither. */
function nameOf({ functionName, url, lineNumber, columnNumber }) {
  if (functionName && functionName !== '(anonymous)') return functionName;
  return url ? `(anonymous) ${url.split('/').pop()}:${lineNumber}:${columnNumber}` : '(the browser)';
}

/** The names of the module's functions by their numbers, as the build has left them. */
async function functionNames() {
  const lines = (await readFile(functionsFile, 'utf8').catch(() => '')).split('\n');
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]));
}
