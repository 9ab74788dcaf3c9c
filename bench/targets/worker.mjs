// The server in the service worker of a real Chromium, asked by a page with its own fetch.

import { readFile, rm } from 'node:fs/promises';
import { basename } from 'node:path';
import { text } from 'node:stream/consumers';
import { brotliCompressSync, constants } from 'node:zlib';
import { build } from 'esbuild';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { chromium } from '../../scripts/lib/tools.mjs';
import { server, wasmForPages } from '../../scripts/lib/wasm.mjs';
import { web } from '../../scripts/build.mjs';
import { launch, stopWorkers } from '../../tests/browser/browser.mjs';
import { directoryOnDisk } from '../disk.mjs';
import { note } from '../profile.mjs';
import { PlainChromium } from './plain-chromium.mjs';

const page = (body) => ({ body: `<!doctype html><title>bench</title>${body}`, type: 'text/html' });
const verifier = path('.cache', 'verify');
const ended = () => new Error('Chromium has ended while it was at work');
/**
 * How large the large rooms are where the work is done once more, to be looked at: those that were
 * measured are on the disk already.
 */
const again = { events: 20_000, members: 1_000 };

export class Worker {
  id = 'worker';
  name = 'service worker';
  large = { events: 100_000, members: 10_000 };
  /** What is done with what the page tells that does the work, by what it tells. */
  #told = {};

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
        if (pathname === '/') return page('');
        if (pathname === '/work') return page('<script type="module" src="/bench.js"></script>');
        if (pathname === '/bench.js') return script;
        if (pathname === '/alone/') return page('');
        if (pathname === '/alone/worker.js') return { body: await readFile(path('bench', 'alone.js')), type: 'text/javascript' };
        if (pathname.startsWith('/tell/')) return { status: await this.#told[basename(pathname)](JSON.parse(await text(request))).then(() => 204) };
        if (pathname === '/verify.js') return { body: await readFile(`${verifier}/verify.js`), type: 'text/javascript' };
        if (pathname === '/verify_bg.wasm') return { body: await readFile(`${verifier}/verify_bg.wasm`), type: 'application/wasm' };
      },
    });
    this.profileDirectory = await directoryOnDisk('chromium');
  }

  /**
   * What is measured is done while nobody looks into the browser. Then it is done once more for the
   * longest run, which is found by looking.
   */
  async measure(say) {
    const figures = await this.#unseen({ large: this.large }, say);
    figures.notes = figures.coldStages ? [`a cold start: ${figures.coldStages.join(', ')}`] : [];
    const { runs, collections } = await this.#traced({ large: this.large && again }, (name) => say(`${name}, looked at`), (trace) => trace.longest());
    figures.longestRun = runs.took;
    figures.from.longestRun = runs.part;
    figures.longestCollection = collections.took;
    figures.notes.push(`the longest run was in "${runs.part}"`);
    const wasm = await readFile(path('dist', 'ephapse.wasm'));
    figures.wasm = brotliCompressSync(wasm, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: wasm.length } }).length / 1e6;
    return figures;
  }

  /** Does one part of the work; resolves to how long each function of the worker was at work. */
  async profile(part) {
    const names = await functionNames();
    const say = () => undefined;
    return this.#traced({ large: this.large, only: part }, say, (trace) => trace.functions(names), ['disabled-by-default-v8.cpu_profiler']);
  }

  /** The work in a browser that nobody looks into; resolves to the figures. */
  async #unseen(options, say) {
    const browser = PlainChromium.open(this.profileDirectory, this.#address(options));
    try {
      const gone = browser.ended.then(() => Promise.reject(ended()));
      return await Promise.race([this.#figures({ part: async (name) => say(name), stop: () => browser.stopWorkers() }), gone]);
    } finally {
      await browser.close();
    }
  }

  /** The work in a browser whose every task is noted; resolves to what `find` finds in that. */
  #traced(options, say, find, categories = []) {
    return this.#looking(async (page) => {
      const trace = await Trace.start(page, categories);
      const part = async (name) => {
        await trace.part(name);
        say(name);
      };
      const gone = new Promise((_, reject) => page.once('close', () => reject(ended())));
      const figures = Promise.race([this.#figures({ part, stop: () => stopWorkers(page) }), gone]);
      await Promise.all([figures, page.goto(this.#address({ ...options, looked: true }))]);
      await trace.end();
      return find(trace);
    });
  }

  #address(options) {
    return `${this.site.url}/work?${encodeURIComponent(JSON.stringify(options))}`;
  }

  /**
   * What the page finds that does the work; `part` and `stop` are done when it asks for them, and
   * what fails of all that ends the work.
   */
  #figures({ part, stop }) {
    return new Promise((resolve, reject) => {
      const hearing = (hear) => (told) => hear(told).catch(reject);
      const figures = async ({ failed, ...found }) => {
        if (failed) throw new Error(failed);
        resolve(found);
      };
      this.#told = { part: hearing(part), stop: hearing(stop), figures: hearing(figures) };
    });
  }

  async #looking(use) {
    const { context } = await launch({ directory: this.profileDirectory });
    try {
      return await use(await context.newPage());
    } finally {
      await context.close();
    }
  }

  /**
   * Ends the server; resolves to how many stored events were verified, and throws when one is not
   * what was signed.
   */
  async stop() {
    try {
      return await this.#looking((page) => this.#verify(page));
    } finally {
      await rm(this.profileDirectory, { recursive: true, force: true });
      await this.site.close();
    }
  }

  // Where no worker controls the page, nobody else has the database open.
  async #verify(page) {
    await page.goto(`${this.site.url}/`);
    await page.evaluate(async () => {
      for (const registration of await navigator.serviceWorker.getRegistrations()) await registration.unregister();
    });
    await page.goto(`${this.site.url}/`);
    return page.evaluate(async () => {
      const { default: load, verify } = await import('/verify.js');
      await load();
      return verify('ephapse /');
    });
  }
}

/** What comes before the first part of the work. */
const START = 'the start';

/** What the browser's threads do, as its own tracing sees it. */
class Trace {
  #devtools;
  #categories;
  #threads = new Map();
  /**
   * By thread: the longest task, and the longest of those in which the browser collects its garbage
   * and does nothing else.
   */
  #runs = new Map();
  #collections = new Map();
  /**
   * By the profile they belong to: its thread, its functions by their nodes, and how long each was
   * at work.
   */
  #profiles = new Map();
  #part = START;
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

  // `tdur` is what the thread itself worked; `dur` also counts the time in which the machine did
  // something else.
  #take({ name, ph, pid, tid, id, dur, tdur = dur, args }) {
    const thread = `${pid} ${tid}`;
    if (ph === 'M' && name === 'thread_name') this.#threads.set(thread, args.name);
    // What comes before the first part is not of it.
    if (this.#part !== START && (name === 'Profile' || name === 'ProfileChunk')) this.#sample(name === 'Profile' ? thread : undefined, `${pid} ${id}`, args.data);
    if (ph !== 'X' || !name.endsWith('RunTask')) return;
    const longest = args?.src_file?.startsWith('v8/src/heap/') ? this.#collections : this.#runs;
    const took = tdur / 1_000;
    if (took > (longest.get(thread)?.took ?? 0)) longest.set(thread, { took, part: this.#part });
  }

  // What a profile is of is said by the thread that begins it; its samples come from another one,
  // and may come first.
  #sample(thread, id, { cpuProfile: { nodes = [], samples = [] } = {}, timeDeltas = [] }) {
    const profile = this.#profiles.get(id) ?? { nodes: new Map(), took: new Map() };
    this.#profiles.set(id, profile);
    if (thread) profile.thread = thread;
    for (const { id: node, callFrame } of nodes) profile.nodes.set(node, nameOf(callFrame));
    samples.forEach((node, n) => profile.took.set(node, (profile.took.get(node) ?? 0) + timeDeltas[n]));
  }

  /**
   * How long each function of a service worker was at work, by its name; `named` has the names of
   * functions of the module by their numbers.
   */
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

  /**
   * The longest tasks of a service worker's thread: `{ runs, collections }`, each `{ took, part }`,
   * `took` in ms.
   */
  longest() {
    const among = (longest) => {
      const found = [...longest].filter(([thread]) => this.#isWorker(thread)).map(([, each]) => each);
      return found.reduce((longer, each) => (each.took > longer.took ? each : longer), { took: 0 });
    };
    const runs = among(this.#runs);
    if (runs.took === 0) throw new Error(`no service worker among the threads ${[...this.#threads.values()].join(', ')}`);
    return { runs, collections: among(this.#collections) };
  }
}

/** A function's name, or where it stands; the browser's own work has neither. */
function nameOf({ functionName, url, lineNumber, columnNumber }) {
  if (functionName && functionName !== '(anonymous)') return functionName;
  return url ? `(anonymous) ${url.split('/').pop()}:${lineNumber}:${columnNumber}` : '(the browser)';
}

/** The names of the module's functions by their numbers, as the build has left them. */
async function functionNames() {
  const lines = (await readFile(server.functions, 'utf8').catch(() => '')).split('\n');
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]));
}
