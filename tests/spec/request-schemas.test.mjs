// What the server checks of requests is what the specification says.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { generated } from '../../scripts/request-schemas.mjs';

test('the tables of requests are those that the specification and the list of endpoints give', () => {
  for (const [file, text] of generated()) {
    assert.ok(readFileSync(file, 'utf8') === text, `${file} is out of date: run \`node scripts/request-schemas.mjs\``);
  }
});
