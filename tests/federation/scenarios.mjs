// What the files of this suite have in common: two servers for all of a file's tests, which run
// beside each other, and Synapse's log to be read at the end.

import assert from 'node:assert/strict';
import { after, suite, test } from 'node:test';
import { startPair } from './servers.mjs';

/** Said by every Synapse of this version at its start. */
const usual = /Metric named \S+ already registered/;

/**
 * Runs the tests that `define` makes for a pair of servers. `provoked` are the complaints of
 * Synapse that they mean to cause: refusals, or a server that is stopped.
 */
export async function scenarios(what, define, { provoked = [], concurrency = 6 } = {}) {
  const pair = await startPair();
  after(pair.close);
  suite(what, { concurrency }, () => define(pair));
  for (const synapse of pair.servers.filter(({ kind }) => kind === 'synapse')) {
    test(`${what}: Synapse has nothing to complain about`, async () => {
      const complaints = await synapse.complaints(pair.servers.find((server) => server !== synapse));
      assert.deepEqual(complaints.filter((line) => ![usual, ...provoked].some((expected) => expected.test(line))), []);
    });
  }
}

/** A test in a suite, with the time that it may take. */
export const scenario = (name, body) => test(name, { timeout: 180_000 }, body);
