// Responses that leave together at a hand-over.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ResponseBarrier } from '../../worker/service/response-barrier.ts';

const turn = () => new Promise((resolve) => setTimeout(resolve));

/** A request whose answer comes when `answer` is called; `left` says whether it has gone out. */
function ask(barrier) {
  const request = { left: false };
  const answer = new Promise((resolve) => { request.answer = resolve; });
  barrier.pass(answer).then(() => { request.left = true; });
  return request;
}

test('a response leaves as soon as it is there', async () => {
  const barrier = new ResponseBarrier();
  const [first, second] = [ask(barrier), ask(barrier)];
  first.answer();
  await turn();
  assert.deepEqual([first.left, second.left], [true, false]);
});

test('held responses leave when all are there and are released, also those to requests that came meanwhile', async () => {
  const barrier = new ResponseBarrier();
  const [first, second] = [ask(barrier), ask(barrier)];
  let release;
  barrier.hold().then((letGo) => { release = letGo; });
  first.answer();
  await turn();
  const third = ask(barrier);
  second.answer();
  await turn();
  assert.equal(release, undefined, 'the third is pending');
  third.answer();
  await turn();
  assert.deepEqual([first.left, second.left, third.left], [false, false, false]);
  release();
  await turn();
  assert.deepEqual([first.left, second.left, third.left], [true, true, true]);
  const later = ask(barrier);
  later.answer();
  await turn();
  assert.equal(later.left, true);
});

test('with no pending request there is nothing to wait for', async () => {
  const release = await new ResponseBarrier().hold();
  release();
});
