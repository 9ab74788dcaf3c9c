// `npm run bench`: what the server takes for what people do, as a table of medians beside the floor (what must hold) and the aim.
//   -- --json FILE         also writes the figures to FILE
//   -- --against synapse   does the same work on a real Synapse and prints the ratios
//   -- --short             leaves out the rooms of 100,000 events, 10,000 members and the thousand rooms

import { writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { rows, table } from './report.mjs';
import { Serve } from './targets/serve.mjs';
import { Synapse } from './targets/synapse.mjs';
import { measure } from './work.mjs';

const peers = { synapse: Synapse };

const { values: options } = parseArgs({
  options: { json: { type: 'string' }, against: { type: 'string' }, short: { type: 'boolean', default: false } },
});
if (options.against && !peers[options.against]) throw new Error(`--against knows ${Object.keys(peers).join(', ')}`);

async function run(target) {
  await target.start();
  try {
    const figures = await measure(target, (part) => console.error(`${target.name}: ${part}`));
    return { figures, verified: await target.stop() };
  } catch (error) {
    await target.process?.stop('SIGKILL');
    throw error;
  }
}

const serve = new Serve();
if (options.short) {
  serve.large = undefined;
  serve.coldStart = false;
}
const ours = await run(serve);
const peer = options.against && new peers[options.against]();
const theirs = peer && (await run(peer));

const lines = rows(ours.figures, theirs?.figures);
console.log(`\n${table(lines, serve.name, peer?.name)}`);
console.log(`\n${ours.verified} stored events verified; ${cpus().length} x ${cpus()[0].model}, Node ${process.version}, requests over one keep-alive loopback connection each`);
if (options.json) {
  const report = { date: new Date().toISOString(), cpu: cpus()[0].model, cpus: cpus().length, verified: ours.verified, serve: ours.figures, [options.against ?? 'peer']: theirs?.figures, rows: lines };
  await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
}
process.exitCode = lines.some((line) => line.verdict === 'missed') ? 1 : 0;
