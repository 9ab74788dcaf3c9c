// Answers that leave together at a hand-over.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Together } from '../../worker/service/together.ts';

const turn = () => new Promise((resolve) => setTimeout(resolve));

/** A request whose answer comes when `answer` is called; `left` says whether it has gone out. */
function ask(together) {
  const request = { left: false };
  const answer = new Promise((resolve) => { request.answer = resolve; });
  together.leave(answer).then(() => { request.left = true; });
  return request;
}

test('usually an answer leaves as soon as it is there', async () => {
  const together = new Together();
  const [first, second] = [ask(together), ask(together)];
  first.answer();
  await turn();
  assert.deepEqual([first.left, second.left], [true, false]);
});

test('gathered answers leave when all are there and may go, those of requests that came meanwhile too', async () => {
  const together = new Together();
  const [first, second] = [ask(together), ask(together)];
  let release;
  together.gather().then((let_go) => { release = let_go; });
  first.answer();
  await turn();
  const third = ask(together);
  second.answer();
  await turn();
  assert.equal(release, undefined, 'the third is pending');
  third.answer();
  await turn();
  assert.deepEqual([first.left, second.left, third.left], [false, false, false]);
  release();
  await turn();
  assert.deepEqual([first.left, second.left, third.left], [true, true, true]);
  const later = ask(together);
  later.answer();
  await turn();
  assert.equal(later.left, true);
});

test('where nothing is pending there is nothing to gather', async () => {
  const release = await new Together().gather();
  release();
});
