// Whether the worker outlives a silent client, in a Chromium that nobody debugs: a debugger keeps
// workers from being ended. The page reports over HTTP. IDLE is how many seconds the client is
// silent: browsers end idle workers after 30.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { emptyProfile, spawnChromium } from '../browser/browser.mjs';
import { packageSite } from '../browser/site.mjs';

const idle = Number(process.env.IDLE ?? 60);

// Silent with the server kept alive, then silent without, each followed by a request.
const script = `
  import { start } from '/index.js';
  const report = (what) => fetch('/report', { method: 'POST', body: JSON.stringify(what) });
  const silence = () => new Promise((resolve) => setTimeout(resolve, ${idle * 1_000}));
  try {
    const server = await start();
    const ask = async () => {
      const asked = performance.now();
      const { status } = await server.fetch(server.baseUrl + '/_matrix/client/versions');
      return { status, milliseconds: performance.now() - asked, started: (await server.status()).workerStarted };
    };
    const first = await ask();
    await silence();
    const kept = await ask();
    await server.stop();
    await silence();
    const let_go = await ask();
    await report({ first, kept, let_go });
  } catch (error) {
    await report({ error: String(error) });
  }
`;

test(`a worker whose client is silent for ${idle} seconds`, { timeout: 60_000 + idle * 3_000 }, async (t) => {
  let told;
  const report = new Promise((resolve) => { told = resolve; });
  const answer = async (pathname, request) => {
    if (pathname === '/report') {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      told(JSON.parse(Buffer.concat(chunks).toString()));
      return { body: 'thanks' };
    }
    if (pathname === '/idle.html') return { body: `<!doctype html><title>idle</title><script type="module">${script}</script>`, type: 'text/html' };
    return undefined;
  };
  const site = await packageSite(t, { answer });
  await spawnChromium(await emptyProfile(t), `${site.url}/idle.html`);
  const { error, first, kept, let_go: letGo } = await report;
  assert.equal(error, undefined);
  assert.deepEqual([first.status, kept.status, letGo.status], [200, 200, 200]);
  assert.equal(kept.started, first.started, 'the worker lived through the silence');
  assert.notEqual(letGo.started, first.started, 'without its keeper it ended, and the next request started it');
  t.diagnostic(`first answer of the cold start: ${letGo.milliseconds.toFixed(0)} ms`);
});
