// Writes what the specification says of the answers to other servers, from its OpenAPI files in
// `tests/spec/`, for the server's tests as `crate/homeserver/tests/data/answers.json`.

import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parse } from 'yaml';
import { path } from './lib/run.mjs';

const specification = path('tests', 'spec', 'api', 'server-server');
const forTests = path('crate', 'homeserver', 'tests', 'data', 'answers.json');

/** What of a schema says something of values. */
const schemas = ['items', 'additionalProperties'];
const lists = ['allOf', 'anyOf', 'oneOf'];
const maps = ['properties', 'patternProperties'];
const plain = ['type', 'required', 'enum', 'pattern', 'minItems', 'maxItems', 'minProperties', 'maxProperties', 'const'];
/** What says nothing of them that a test could look at. */
const annotations = ['$ref', '$schema', 'title', 'description', 'example', 'examples', 'default', 'deprecated', 'format', 'minimum', 'maxLength', 'x-addedInMatrixVersion', 'x-changedInMatrixVersion', 'x-pattern', 'x-pattern-format'];

/** What events had once and have no more, though some schemas still require it. */
const former = ['origin'];

const files = new Map();

function load(file) {
  if (!files.has(file)) files.set(file, parse(readFileSync(file, 'utf8')));
  return files.get(file);
}

/** Follows `$ref`: what it leads to, and the file in which its own references are looked up. */
function follow(value, file) {
  if (typeof value?.$ref !== 'string') return [value, file];
  const [name, fragment = ''] = value.$ref.split('#');
  const target = name === '' ? file : resolve(dirname(file), name);
  const parts = fragment.split('/').filter((part) => part !== '');
  return follow(parts.reduce((inside, part) => inside[part], load(target)), target);
}

/** A schema without references and descriptions. */
function whole(given, from) {
  if (typeof given !== 'object') return given;
  const [schema, file] = follow(given, from);
  // What stands beside a reference counts too.
  const beside = given.$ref === undefined || schema === given ? {} : whole({ ...given, $ref: undefined }, from);
  const entries = Object.entries(schema).flatMap(([key, value]) => {
    if (schemas.includes(key)) return [[key, whole(value, file)]];
    if (lists.includes(key)) return [[key, value.map((part) => whole(part, file))]];
    if (maps.includes(key)) return [[key, Object.fromEntries(Object.entries(value).map(([name, part]) => [name, whole(part, file)]))]];
    if (key === 'required' && file.endsWith('invite_event.yaml')) return [[key, value.filter((name) => !former.includes(name))]];
    if (plain.includes(key)) return [[key, value]];
    if (!annotations.includes(key)) throw new Error(`${file}: a schema has \`${key}\``);
    return [];
  });
  const own = Object.fromEntries(entries);
  return Object.keys(beside).length === 0 ? own : { allOf: [own, beside] };
}

function answers(responses, from) {
  const entries = Object.entries(responses).flatMap(([status, given]) => {
    const [response, file] = follow(given, from);
    const schema = response.content?.['application/json']?.schema;
    return schema === undefined ? [] : [[status, whole(schema, file)]];
  });
  return Object.fromEntries(entries);
}

/** The file, with what it should hold. */
export function generated() {
  const endpoints = [];
  for (const name of readdirSync(specification).filter((name) => name.endsWith('.yaml')).sort()) {
    const file = resolve(specification, name);
    const { paths, servers } = load(file);
    const base = servers?.[0]?.variables?.basePath?.default ?? '';
    for (const [route, methods] of Object.entries(paths)) {
      for (const [method, operation] of Object.entries(methods).filter(([, { responses }]) => responses !== undefined)) {
        endpoints.push({ method: method.toUpperCase(), path: `${base}${route}`, answers: answers(operation.responses, file) });
      }
    }
  }
  return [[forTests, `[\n${endpoints.map((endpoint) => `  ${JSON.stringify(endpoint)}`).join(',\n')}\n]\n`]];
}

if (process.argv[1] === path('scripts', 'answer-schemas.mjs')) {
  for (const [file, text] of generated()) writeFileSync(file, text);
}
