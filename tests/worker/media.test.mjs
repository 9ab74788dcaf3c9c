// Files in the worker: shown to its own pages without a token, given to nothing that could run
// them, and uploaded once.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { answer } from '../../worker/service/answer.ts';
import { engines } from './glue.mjs';
import { engine, freshServer, scope } from './scope.mjs';

const file = '/_matrix/client/v1/media/download/chat.example/abc';

let server;

beforeEach(() => {
  ({ server } = freshServer());
});

/** A request for what `destination` shows or runs. */
function requestOf(destination, path) {
  const request = new Request(new URL(path, scope));
  Object.defineProperty(request, 'destination', { value: destination });
  return request;
}

test('the engine is told whether a page of our own origin asks', async () => {
  const asking = [
    answer(server, requestOf('image', file), file, true),
    answer(server, requestOf('', file), file, false),
    answer(server, requestOf('video', '/_matrix/media/v3/download/chat.example/abc'), '/_matrix/media/v3/download/chat.example/abc', true),
  ];
  const { calls } = await engine(0, 3);
  calls.forEach((call) => call.answer());
  assert.deepEqual((await Promise.all(asking)).map(({ status }) => status), [200, 200, 200]);
  assert.deepEqual(calls.map(({ ownPage }) => ownPage), [true, false, true]);
});

test('nothing that could run a file or show it as a page is given one, whoever asks', async () => {
  const destinations = [
    'audioworklet', 'document', 'embed', 'fencedframe', 'font', 'frame', 'iframe', 'json', 'manifest', 'object', 'paintworklet', 'report', 'script',
    'serviceworker', 'sharedworker', 'style', 'webidentity', 'worker', 'xslt',
  ];
  const paths = [file, '/_matrix/client/v1/media/thumbnail/chat.example/abc', '/_matrix/media/v3/download/chat.example/abc', '/_matrix/media/r0/download/chat.example/abc/a.html'];
  for (const destination of destinations) {
    for (const path of paths) {
      for (const ownPage of [true, false]) {
        const refused = await answer(server, requestOf(destination, path), path, ownPage);
        assert.deepEqual([refused.status, (await refused.json()).errcode], [403, 'M_FORBIDDEN'], `${destination} ${path}`);
      }
    }
  }
  assert.equal(engines.length, 0);
});

test('an upload to a media id is not made twice, since the second would be refused', async () => {
  const path = '/_matrix/media/v3/upload/chat.example/abc';
  const uploading = answer(server, new Request(new URL(path, scope), { method: 'PUT', body: 'a file' }), path);
  const first = await engine(0, 1);
  first.lost = true;
  first.calls[0].answer(503);
  assert.equal((await uploading).status, 503);
  assert.equal(engines.length, 1);
});
