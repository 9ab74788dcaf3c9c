// `npm test`: begins with the build for wasm32, runs every suite and prints what each took. Names
// of suites as arguments run only those; `--check` runs the lints of `npm run check` as well.

import { lints } from './check.mjs';
import { main, path, run } from './lib/run.mjs';
import { npmPackages, rustToolchain } from './lib/tools.mjs';

const suites = ['rust', 'serve', 'unit', 'federation', 'package', 'clients', 'browser', 'durability', 'silence'];
/** Those that need nothing of `dist/`. */
const native = ['rust', 'serve', 'unit', 'federation'];

const named = process.argv.slice(2).filter((argument) => !argument.startsWith('--'));
const wanted = named.length === 0 ? suites : named;
const took = [];

/** Keeps how long `work` takes and what it counts. */
async function timed(name, work) {
  const started = performance.now();
  const counts = await work();
  took.push([name, (performance.now() - started) / 1000, counts]);
}

await main(async () => {
  const unknown = wanted.find((name) => !suites.includes(name));
  if (unknown) throw new Error(`There is no suite ${unknown}: there are ${suites.join(', ')}.`);
  await npmPackages();
  await rustToolchain();
  const { runSuite, installPrograms } = await import('./lib/suites.mjs');
  const inTurn = async (names) => {
    for (const name of names.filter((each) => wanted.includes(each))) {
      console.log(`\n== ${name}`);
      await timed(name, () => runSuite(name));
    }
  };

  // The end of the build keeps one core busy for minutes, so others are at work meanwhile. What it
  // says is shown when it has ended.
  const build = async () => {
    const { output } = await run('node', [path('scripts', 'build.mjs'), '--web'], { quiet: true });
    console.log(`\n== build\n${output}`);
  };
  const programs = installPrograms(wanted);
  const needsBuild = wanted.some((name) => !native.includes(name));
  await Promise.all([
    needsBuild ? timed('build (wasm32, worker, page)', build) : undefined,
    programs,
    (async () => {
      if (process.argv.includes('--check')) await timed('check', lints);
      await inTurn(['rust', 'serve', 'unit']);
      await programs;
      await inTurn(['federation']);
    })(),
  ]);
  await Promise.all([
    // It waits more than it works.
    wanted.includes('silence') ? timed('silence (beside the others)', () => runSuite('silence')) : undefined,
    inTurn(['package', 'clients', 'browser', 'durability']),
  ]);

  console.log('');
  let passed = 0;
  let failed = 0;
  for (const [name, seconds, counts] of took) {
    console.log(`${name.padEnd(30)} ${seconds.toFixed(1).padStart(7)} s${counts ? `  ${counts.passed} passed, ${counts.failed} failed` : ''}`);
    passed += counts?.passed ?? 0;
    failed += counts?.failed ?? 0;
  }
  console.log(`\n${passed} passed, ${failed} failed`);
  if (failed > 0) process.exitCode = 1;
});
