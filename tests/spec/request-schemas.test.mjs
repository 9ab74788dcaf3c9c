// What the server checks of requests, and its tests of answers, is what the specification says.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { generated as answers } from '../../scripts/answer-schemas.mjs';
import { generated as requests } from '../../scripts/request-schemas.mjs';

for (const [generated, script] of [[requests, 'request-schemas'], [answers, 'answer-schemas']]) {
  test(`what ${script}.mjs writes is what the specification and the list of endpoints give`, () => {
    for (const [file, text] of generated()) {
      assert.ok(readFileSync(file, 'utf8') === text, `${file} is out of date: run \`node scripts/${script}.mjs\``);
    }
  });
}
