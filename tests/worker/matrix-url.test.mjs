import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isMatrix, isServerLabel, matrixPath } from '../../worker/shared/matrix-url.ts';

// The example of the IPNS specification: an ed25519 key as CIDv1 in base36.
const name = 'k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8';
const scope = 'https://chat.example/app/';

test('the API of the own origin is answered, at the root and under the scope', () => {
  for (const base of ['https://chat.example/', scope]) {
    assert.equal(matrixPath(`${base}_matrix/client/v3/sync?since=1&timeout=0`, scope), '/_matrix/client/v3/sync?since=1&timeout=0');
    assert.equal(matrixPath(`${base}.well-known/matrix/client`, scope), '/.well-known/matrix/client');
  }
});

test('everything else of the own origin is left to the network', () => {
  for (const path of ['', 'index.html', '_matrix', '_matrixes/', '.well-known/acme-challenge/x', 'x/_matrix/client/versions', 'app/x/_matrix/client/versions']) {
    assert.equal(isMatrix(`https://chat.example/${path}`, scope), false, path);
  }
});

test('other origins are left to the network, whatever their path', () => {
  for (const url of [
    'https://matrix.org/_matrix/client/versions',
    'https://sub.chat.example/_matrix/client/versions',
    'http://chat.example/_matrix/client/versions',
    'https://chat.example:8448/_matrix/client/versions',
    'blob:https://chat.example/_matrix/client/versions',
    'data:text/plain,/_matrix/',
    'not a URL',
  ]) {
    assert.equal(isMatrix(url, scope), false, url);
  }
});

test('a host named after a node is answered, with and without a gateway, on any port', () => {
  for (const host of [name, `${name}.gateway.example`, `${name}:8448`]) {
    assert.equal(matrixPath(`https://${host}/_matrix/federation/v1/version`, scope), '/_matrix/federation/v1/version', host);
  }
  assert.equal(isMatrix(`https://gateway.${name}.example/_matrix/client/versions`, scope), false);
});

test('a node name has one spelling', () => {
  assert.equal(isServerLabel(name), true);
  assert.equal(isServerLabel(name.toUpperCase()), false, 'upper case');
  assert.equal(isServerLabel(name.slice(0, -1)), false, 'a character short');
  assert.equal(isServerLabel(`${name}0`), false, 'a character long');
  assert.equal(isServerLabel(`k0${name.slice(1)}`), false, 'a leading zero');
  assert.equal(isServerLabel(`b${name.slice(1)}`), false, 'another base');
  assert.equal(isServerLabel(`${name.slice(0, -1)}-`), false, 'not a digit');
  assert.equal(isServerLabel(`k52${name.slice(3)}`), false, 'another kind of key');
  assert.equal(isServerLabel(`k${'z'.repeat(61)}`), false, 'too large a number');
});
