// The test suites. Each returns how many tests passed and failed, as the suite's own program
// counted them.

import { mkdir, readdir, rm } from 'node:fs/promises';
import { build } from 'esbuild';
import { native } from '../build.mjs';
import { built, path, run } from './run.mjs';
import { chromium, firefox, networkTools, nio, synapse, webkit } from './tools.mjs';

/** Runs a suite. */
export function runSuite(name) {
  return { rust: rustTests, serve: serveTests, federation: federationTests, unit: unitTests, package: packageTests, clients: clientTests, browser: browserTests, durability: durabilityTests, silence: silenceTests }[name]();
}

/** Finds, or installs, the programs that some suites need: two suites cannot install at once. */
export async function installPrograms(suites) {
  const needs = (...names) => names.some((name) => suites.includes(name));
  if (needs('federation', 'package', 'clients', 'browser', 'durability', 'silence')) await chromium();
  if (needs('browser')) {
    await firefox();
    await webkit();
  }
  if (needs('clients')) await nio();
  if (needs('federation')) {
    await networkTools();
    await synapse();
  }
}

/**
 * Every Rust test of the workspace, natively, with what the tests say: endpoints, crashes, seeds.
 * Servers are simulated with `SIMULATION_SEEDS` seeds, and for `SIMULATION_SECONDS` where that is
 * longer.
 */
async function rustTests() {
  const { SIMULATION_SEEDS = '60' } = process.env;
  const env = { SIMULATION_SEEDS };
  const { code, output } = await run('cargo', ['test', '--workspace', '--no-fail-fast', '--', '--show-output'], { tee: true, shows: onceEach(), mayFail: true, env });
  const { passed, failed } = cargoCounts(code, output);
  const seeds = Number(/^simulation: (\d+) seeds/m.exec(output)?.[1] ?? 0);
  if (seeds >= Number(SIMULATION_SEEDS)) return { passed, failed };
  console.error(`Of ${SIMULATION_SEEDS} seeds only ${seeds} were simulated.`);
  return { passed, failed: failed + 1 };
}

/**
 * `ephapse serve` as a process; `KILLS` says how often it is killed under load.
 */
async function serveTests() {
  return nodeTests(await testFiles('serve'), { env: { EPHAPSE: await ephapse() } });
}

/**
 * `ephapse serve` and a real Synapse as servers of the same rooms. `PEERS` names two others of
 * `ephapse` and `synapse`; with `KEEP` their logs stay.
 */
async function federationTests() {
  return nodeTests(await testFiles('federation'), { env: { CHROMIUM: await chromium(), EPHAPSE: await ephapse(), SYNAPSE_PYTHON: await synapse() } });
}

/**
 * The path of the native program. It is the one that the Rust tests have built, since a release
 * takes minutes more. With `RELEASE` it is that of `npm run build`.
 */
async function ephapse() {
  // Cargo unites the features of all that one command builds: another choice of packages would
  // compile most of them once more.
  await run('cargo', ['build', '--workspace', '--all-targets']);
  if (process.env.RELEASE) await native();
  return built(process.env.RELEASE ? 'release' : 'debug', 'ephapse');
}

/** The worker's TypeScript, in Node, and what is generated from the specification. */
async function unitTests() {
  const out = path('.cache', 'tests');
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  const names = await testFiles('worker');
  await build({
    entryPoints: names,
    outdir: out,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    alias: { 'ephapse:glue': path('tests', 'worker', 'glue.mjs') },
    define: { EPHAPSE_VERSION: '"0.0.0"', EPHAPSE_MODULES: JSON.stringify({ server: { sha256: 'none', bytes: 8 }, thumbnails: { sha256: 'none', bytes: 8 } }), EPHAPSE_THUMBNAILER: '""' },
  });
  return nodeTests([...await testFiles('../.cache/tests'), ...await testFiles('spec')]);
}

/**
 * The built package and the demo, in Chromium; the first minute in Firefox and WebKit too; and a
 * client's conversation with `ephapse serve`.
 */
async function browserTests() {
  return nodeTests(await testFiles('browser'), { env: { CHROMIUM: await chromium(), EPHAPSE: await ephapse() } });
}

/**
 * What people do with other clients, against `ephapse serve`: matrix-js-sdk, of now and of a year
 * ago, matrix-nio, and with `RUST_SDK` matrix-rust-sdk.
 */
async function clientTests() {
  const files = await testFiles('clients');
  if (process.env.RUST_SDK) {
    await run('cargo', ['build', '--locked', '--manifest-path', path('tests', 'clients', 'rust-sdk', 'Cargo.toml'), '--target-dir', path('.cache', 'rust-sdk')]);
    files.push(path('tests', 'clients', 'rust-sdk.long.mjs'));
  }
  return nodeTests(files, { env: { CHROMIUM: await chromium(), EPHAPSE: await ephapse(), PYTHON: await nio() } });
}

/** What npm gives to others, in an empty Vite project and in sites without a bundler. */
async function packageTests() {
  return nodeTests(await testFiles('package'), { env: { CHROMIUM: await chromium() } });
}

/**
 * Minutes without a request, in Chromium, while others are at work: what it says is shown when it
 * has ended. `IDLE` says how long.
 */
async function silenceTests() {
  return nodeTests(await testFiles('silence'), { env: { CHROMIUM: await chromium() }, quiet: true });
}

/**
 * Kills, stops, updates and a full disk, in Chromium; `BROWSER_KILLS` and `WORKER_STOPS` say how
 * much of it.
 */
async function durabilityTests() {
  return nodeTests(await testFiles('durability'), { env: { CHROMIUM: await chromium() } });
}

async function testFiles(directory) {
  const entries = await readdir(path('tests', directory));
  return entries.filter((name) => name.endsWith('.test.mjs')).sort().map((name) => path('tests', directory, name));
}

/**
 * Node's limit is one for all tests of a file together; each of them has its own, and those of the
 * long suites add up to most of an hour.
 */
const limit = 3_600_000;

async function nodeTests(files, { env = {}, quiet = false } = {}) {
  // Three files at a time, since the tests wait for much.
  const { code, output } = await run('node', ['--test', '--test-concurrency=3', `--test-timeout=${limit}`, '--test-reporter=spec', ...files], { tee: !quiet, quiet, mayFail: true, env });
  if (quiet) console.log(`\n${output}`);
  const count = (name) => Number(new RegExp(`^ℹ ${name} (\\d+)$`, 'm').exec(output)?.[1] ?? 0);
  return honest(code, { passed: count('pass'), failed: count('fail') + count('cancelled') });
}

/**
 * With what tests have said cargo lists the names of all that passed, which it has shown before:
 * says of each line that it is not of that list.
 */
function onceEach() {
  let heading = false;
  let listed = false;
  return (line) => {
    listed = line !== '' && (listed || heading);
    heading = line === 'successes:';
    return !listed && !heading;
  };
}

function cargoCounts(code, output) {
  let passed = 0;
  let failed = 0;
  for (const [, ok, bad] of output.matchAll(/^test result: \S+ (\d+) passed; (\d+) failed/gm)) {
    passed += Number(ok);
    failed += Number(bad);
  }
  return honest(code, { passed, failed });
}

// A suite that ended badly without a failed test (it did not compile, it crashed) has failed as a
// whole; so has one that ran nothing.
function honest(code, { passed, failed }) {
  const broken = (code !== 0 && failed === 0) || passed + failed === 0;
  return { passed, failed: broken ? failed + 1 : failed };
}
