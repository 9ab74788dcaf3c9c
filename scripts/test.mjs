// `npm test`: builds for wasm32 first, then runs every suite and prints what each took. Names of
// suites as arguments run only those.

import { web } from './build.mjs';
import { main } from './lib/run.mjs';

await main(async () => {
  const took = [];
  const timed = async (name, work) => {
    const started = performance.now();
    const result = await work();
    took.push([name, (performance.now() - started) / 1000, result]);
    return result;
  };

  await timed('build (wasm32, worker, page)', web);
  const { chromium } = await import('./lib/tools.mjs');
  const { browserTests, clientTests, durabilityTests, packageTests, rustTests, serveTests, silenceTests, unitTests } = await import('./lib/suites.mjs');
  const wanted = process.argv.slice(2);
  const isWanted = (name) => wanted.length === 0 || wanted.includes(name);
  let silence;
  if (isWanted('silence')) {
    // Installed now, since two suites cannot install things at once.
    await chromium();
    // It waits more than it works, so the others begin meanwhile.
    silence = timed('silence (beside the others)', silenceTests);
    silence.catch(() => undefined);
  }
  const suites = { rust: rustTests, serve: serveTests, unit: unitTests, package: packageTests, clients: clientTests, browser: browserTests, durability: durabilityTests };
  let passed = 0;
  let failed = 0;
  const count = (counts) => {
    passed += counts?.passed ?? 0;
    failed += counts?.failed ?? 0;
  };
  for (const [name, suite] of Object.entries(suites)) {
    if (!isWanted(name)) continue;
    console.log(`\n== ${name}`);
    count(await timed(name, suite));
  }
  count(await silence);

  console.log('');
  for (const [name, seconds, counts] of took) {
    console.log(`${name.padEnd(30)} ${seconds.toFixed(1).padStart(7)} s${counts ? `  ${counts.passed} passed, ${counts.failed} failed` : ''}`);
  }
  console.log(`\n${passed} passed, ${failed} failed`);
  if (failed > 0) process.exitCode = 1;
});
