// The server in the service worker of a real Chromium, asked by a page with its own fetch.

import { readFile } from 'node:fs/promises';
import { brotliCompressSync, constants } from 'node:zlib';
import { build } from 'esbuild';
import { path } from '../../scripts/lib/run.mjs';
import { serve } from '../../scripts/lib/serve.mjs';
import { chromium } from '../../scripts/lib/tools.mjs';
import { web } from '../../scripts/build.mjs';
import { launch, stopWorkers } from '../../tests/browser/browser.mjs';

const html = '<!doctype html><title>bench</title>';

export class Worker {
  id = 'worker';
  name = 'service worker';
  large = { events: 100_000, members: 10_000 };

  build() {
    return web();
  }

  async start() {
    process.env.CHROMIUM ??= await chromium();
    const bundled = await build({ entryPoints: [path('bench', 'page.mjs')], bundle: true, write: false, format: 'esm', alias: { ephapse: path('dist', 'index.js') } });
    const script = { body: bundled.outputFiles[0].contents, type: 'text/javascript' };
    this.site = await serve(path('dist'), {
      override: (pathname) => (pathname === '/' ? { body: html, type: 'text/html' } : pathname === '/bench.js' ? script : undefined),
    });
    this.browser = await launch();
    this.page = await this.browser.context.newPage();
    await this.page.goto(`${this.site.url}/`);
  }

  async measure(say) {
    await this.page.exposeFunction('say', say);
    await this.page.exposeFunction('stopWorker', () => stopWorkers(this.page));
    const trace = await Trace.start(this.page);
    const figures = await this.page.evaluate(async (options) => {
      await import('/bench.js');
      return globalThis.bench(options);
    }, { large: this.large });
    figures.longestRun = await trace.longestRun();
    const wasm = await readFile(path('dist', 'ephapse.wasm'));
    figures.wasm = brotliCompressSync(wasm, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: wasm.length } }).length / 2 ** 20;
    return figures;
  }

  async stop() {
    await this.browser.close();
    await this.site.close();
  }
}

/** What the browser's threads do, as its own tracing sees it. */
class Trace {
  static async start(page) {
    const trace = new Trace();
    trace.threads = new Map();
    trace.longest = new Map();
    trace.devtools = await page.context().newCDPSession(page);
    trace.devtools.on('Tracing.dataCollected', ({ value }) => value.forEach((event) => trace.take(event)));
    await trace.devtools.send('Tracing.start', {
      transferMode: 'ReportEvents',
      bufferUsageReportingInterval: 1_000,
      traceConfig: { recordMode: 'recordUntilFull', includedCategories: ['toplevel', '__metadata'], excludedCategories: ['*'] },
    });
    return trace;
  }

  // `tdur` is what the thread itself worked; `dur` also counts the time in which the machine did something else.
  take({ name, ph, pid, tid, dur, tdur = dur, args }) {
    const thread = `${pid} ${tid}`;
    if (ph === 'M' && name === 'thread_name') this.threads.set(thread, args.name);
    if (ph === 'X' && name.endsWith('RunTask')) this.longest.set(thread, Math.max(this.longest.get(thread) ?? 0, tdur / 1_000));
  }

  /** The longest task of a service worker's thread, in ms. */
  async longestRun() {
    const complete = new Promise((resolve) => this.devtools.once('Tracing.tracingComplete', resolve));
    await this.devtools.send('Tracing.end');
    await complete;
    const runs = [...this.longest].filter(([thread]) => /service ?worker/i.test(this.threads.get(thread) ?? '')).map(([, run]) => run);
    if (runs.length === 0) throw new Error(`no service worker among the threads ${[...this.threads.values()].join(', ')}`);
    return Math.max(...runs);
  }
}
