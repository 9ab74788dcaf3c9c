// `npm run bench`: what the server takes for what people do, as a table of medians beside the floor
// (what must hold) and the aim. What misses its floor is done once more, and the functions are
// named that it spends its time on (natively by `perf`, where that is installed).
// -- --json FILE        also writes the figures to FILE
// -- --only serve       the native server only; `federation`: events of other servers, natively;
//                       `worker`: the service worker in Chromium only
// -- --against synapse  does the same work on a real Synapse and prints the ratios
// -- --built            measures what is built already
// -- --short            leaves out the rooms of 100,000 events and 10,000 members, and the thousand
//                       rooms

import { writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { missedParts, profile, shownProfile } from './profile.mjs';
import { rows, table } from './report.mjs';
import { measure } from './work.mjs';

const targets = {
  serve: async () => new (await import('./targets/serve.mjs')).Serve(),
  federation: async () => new (await import('./targets/federation.mjs')).Federation(),
  worker: async () => new (await import('./targets/worker.mjs')).Worker(),
};
const peers = {
  synapse: async () => new (await import('./targets/synapse.mjs')).Synapse(),
};

const { values: options } = parseArgs({
  options: {
    json: { type: 'string' },
    only: { type: 'string', multiple: true, default: Object.keys(targets) },
    against: { type: 'string' },
    built: { type: 'boolean', default: false },
    short: { type: 'boolean', default: false },
  },
});
const unknown = [...options.only.filter((name) => !targets[name]), ...(options.against && !peers[options.against] ? [options.against] : [])];
if (unknown.length > 0) throw new Error(`${unknown.join(', ')}: --only knows ${Object.keys(targets).join(', ')}; --against knows ${Object.keys(peers).join(', ')}`);

/**
 * Does all the work, and once more the parts in which a figure missed its floor; resolves to `{
 * figures, rows, profiles, verified }`. `judge` makes rows of figures.
 */
async function run(target, judge = () => []) {
  const say = (part) => console.error(`${target.name}: ${part}`);
  if (!options.built) await target.build?.();
  await target.start();
  const done = { profiles: [] };
  try {
    done.figures = await (target.measure?.(say) ?? measure(target, say));
    if (target.federated) Object.assign(done.figures, await target.federated(say));
    done.rows = judge(done.figures);
    for (const part of missedParts(done.rows, done.figures)) {
      say(`${part}, profiled`);
      done.profiles.push(await profile(target, part));
    }
  } catch (error) {
    await target.stop().catch(() => undefined);
    throw error;
  }
  done.verified = await target.stop();
  return done;
}

const report = { date: new Date().toISOString(), cpu: `${cpus().length} x ${cpus()[0].model}`, node: process.version };
const peer = options.against && (await peers[options.against]());
if (peer) report[options.against] = await run(peer);

console.log(`${report.cpu}, Node ${report.node}; medians`);
for (const name of options.only) {
  const target = await targets[name]();
  if (options.short) target.large = undefined;
  // What a browser takes is nothing to compare a server with.
  const beside = name === 'worker' ? undefined : peer;
  const done = await run(target, (figures) => rows(name, figures, beside && report[options.against].figures));
  report[name] = done;
  console.log(`\n${table(done.rows, target.name, beside?.name)}`);
  for (const note of done.figures.notes ?? []) console.log(note);
  for (const each of done.profiles) console.log(`\n${shownProfile(each)}`);
  if (done.verified) console.log(`${done.verified} stored events verified`);
  if (done.rows.some((line) => line.verdict === 'missed')) process.exitCode = 1;
}
if (options.json) await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
