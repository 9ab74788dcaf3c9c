// A page holds the module of its worker, where that spares the worker compiling it again.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { Compiled } from '../../worker/page/compiled.ts';

/** What Cache Storage holds, by URL. */
const stored = new Map([['/one', 'module one'], ['/two', 'module two']]);
let compiled;
let compile;

beforeEach(() => {
  compiled = [];
  compile = async (response) => response;
  const values = { navigator: { userAgentData: {} }, caches: { match: async (url) => stored.get(url) } };
  for (const [name, value] of Object.entries(values)) Object.defineProperty(globalThis, name, { configurable: true, value });
  WebAssembly.compileStreaming = async (response) => {
    compiled.push(response);
    return compile(response);
  };
});

test('the module of the newest version is held until the server is not needed any more', async () => {
  const held = new Compiled();
  await held.hold('/one');
  assert.equal(held.module, 'module one');
  await held.hold('/one');
  await held.hold('/two');
  assert.equal(held.module, 'module two');
  assert.deepEqual(compiled, ['module one', 'module two']);
  held.release();
  assert.equal(held.module, undefined);
});

test('an outdated module is not held', async () => {
  const held = new Compiled();
  let end;
  compile = (module) => (module === 'module one' ? new Promise((resolve) => { end = () => resolve(module); }) : module);
  const first = held.hold('/one');
  await held.hold('/two');
  while (!end) await Promise.resolve();
  end();
  await first;
  assert.equal(held.module, 'module two');
});

test('a module that cannot be held is no error', async () => {
  const held = new Compiled();
  await held.hold(undefined);
  await held.hold('/three');
  compile = async () => { throw new WebAssembly.CompileError('refused by the content security policy'); };
  await held.hold('/one');
  assert.equal(held.module, undefined);
  assert.deepEqual(compiled, ['module one']);
});

test('a browser that shares no code compiles nothing in the page', async () => {
  delete globalThis.navigator.userAgentData;
  const held = new Compiled();
  await held.hold('/one');
  assert.deepEqual(compiled, []);
});
