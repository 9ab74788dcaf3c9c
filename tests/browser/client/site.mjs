// A site with the package and the test client on it.

import { cp, mkdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { build } from 'esbuild';
import { path } from '../../../scripts/lib/run.mjs';
import { serve } from '../../../scripts/lib/serve.mjs';
import { Orders } from '../engines.mjs';

const html = '<!doctype html><title>a client</title><script type="module" src="/client.js"></script>';
const policy = "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:";
const obedient = `${html}<script>${Orders.script}</script>`;

/**
 * Bundles the client with the SDK of that name in `node_modules` and serves it; `/index.js`, the
 * worker and the module are the built package's. `orders` has the pages under `/obedient` do
 * things; `/lost/` has the worker and not the module, and `/strict/` a policy that forbids
 * requests.
 */
export async function clientSite({ sdk = 'matrix-js-sdk' } = {}) {
  const directory = path('.cache', 'client', sdk);
  const crypto = 'pkg/matrix_sdk_crypto_wasm_bg.wasm';
  // Each version of the SDK has one of its own encryption.
  const resolved = createRequire(path('node_modules', sdk, 'package.json')).resolve('@matrix-org/matrix-sdk-crypto-wasm');
  const cryptoPackage = resolved.slice(0, resolved.lastIndexOf('matrix-sdk-crypto-wasm') + 'matrix-sdk-crypto-wasm'.length);
  await mkdir(`${directory}/pkg`, { recursive: true });
  await build({ entryPoints: [path('tests', 'browser', 'client', 'client.mjs')], outfile: `${directory}/client.js`, bundle: true, format: 'esm', target: 'es2022', logLevel: 'error', alias: { 'matrix-js-sdk': path('node_modules', sdk) } });
  await cp(`${cryptoPackage}/${crypto}`, `${directory}/${crypto}`);
  const own = { '/client.js': 'text/javascript', [`/${crypto}`]: 'application/wasm' };
  const orders = new Orders();
  const site = await serve(path('dist'), {
    override: async (pathname, request) => {
      if (pathname === '/orders') return orders.answer(request);
      if (pathname === '/lost/') return { body: html, type: 'text/html' };
      if (pathname === '/lost/ephapse-worker.js') return { body: await readFile(path('dist', 'ephapse-worker.js')), type: 'text/javascript' };
      if (pathname === '/strict/') return { body: html, type: 'text/html', headers: { 'content-security-policy': policy } };
      if (pathname === '/obedient') return { body: obedient, type: 'text/html' };
      if (pathname === '/') return { body: html, type: 'text/html' };
      if (pathname in own) return { body: await readFile(directory + pathname), type: own[pathname] };
      return undefined;
    },
  });
  return { ...site, orders };
}

/**
 * A tab of the site; `call` runs one of the client's functions in it. `failures` gets the errors
 * that nobody there caught.
 */
export async function clientTab(context, site, { failures }) {
  const page = await context.newPage();
  page.on('pageerror', (error) => failures.push(String(error)));
  const open = async () => {
    await page.goto(`${site.url}/`);
    await page.waitForFunction(() => globalThis.matrix);
  };
  await open();
  return {
    page,
    open,
    call: async (name, argument) => {
      try {
        return await page.evaluate(([which, given]) => globalThis.matrix[which](given), [name, argument]);
      } catch (error) {
        throw new Error(`${name}: ${error.message}`, { cause: error });
      }
    },
  };
}
