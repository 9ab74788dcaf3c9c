// Writes what the specification says of the path, the query and the body of each request that is
// served, from its OpenAPI files in `tests/spec/` and the list of endpoints in
// `crate/homeserver/tests/data/served.txt`: for the server as
// `crate/homeserver/src/schema/table.rs`, for its tests as
// `crate/homeserver/tests/data/requests.json`.

import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parse } from 'yaml';
import { path } from './lib/run.mjs';

const specification = path('tests', 'spec', 'api', 'client-server');
const table = path('crate', 'homeserver', 'src', 'schema', 'table.rs');
const forTests = path('crate', 'homeserver', 'tests', 'data', 'requests.json');
const served = path('crate', 'homeserver', 'tests', 'data', 'served.txt');

/**
 * Formats of strings that have a validator. Of the others, `uri` is for the client to use and
 * `mx-mxc-uri` may be any string in a profile.
 */
const formats = {
  'mx-user-id': 'UserId',
  'mx-room-id': 'RoomId',
  'mx-event-id': 'EventId',
  'mx-room-alias': 'RoomAlias',
  'mx-server-name': 'ServerName',
};

/** What parameters of paths are, also where the specification names no format. */
const named = {
  userId: 'UserId',
  roomId: 'RoomId',
  roomIdOrAlias: 'RoomIdOrAlias',
  roomAlias: 'RoomAlias',
  eventId: 'EventId',
  deviceId: 'DeviceId',
  serverName: 'ServerName',
};

/** The kinds of identifiers: variants of `Identifier`. */
const identifiers = new Set([...Object.values(formats), ...Object.values(named)]);

/** What an algorithm that the server need not know makes of its own data. */
const opaque = { type: 'either', choices: [{ type: 'String' }, { type: 'object', properties: [], others: undefined }] };

/** What the specification says in words, and what other servers take beyond it. */
const otherwise = [
  ...['m.fully_read', 'm.read', 'm.read.private'].map((property) => ({ path: 'rooms/{}/read_markers', property, schema: { type: 'EventId' } })),
  // Synapse keeps backups of every algorithm.
  { path: 'room_keys/version', property: 'algorithm', schema: { type: 'String' } },
  { path: 'room_keys/version/{}', property: 'algorithm', schema: { type: 'String' } },
  { path: 'room_keys/version', property: 'auth_data', schema: opaque },
  { path: 'room_keys/version/{}', property: 'auth_data', schema: opaque },
  // Old clients write the order as a string.
  { path: 'user/{}/rooms/{}/tags/{}', property: 'order', schema: { type: 'either', choices: [{ type: 'Number' }, { type: 'String' }] } },
];

/** The same of objects that are in several requests, by their titles. */
const widerObjects = [{ title: 'KeyBackupData', property: 'session_data', schema: opaque }];

const files = new Map();

function load(file) {
  if (!files.has(file)) files.set(file, parse(readFileSync(file, 'utf8')));
  return files.get(file);
}

/** Follows `$ref`: the schema, and the file in which its own references are looked up. */
function follow(schema, file) {
  if (typeof schema?.$ref !== 'string') return [schema, file];
  const [name, fragment = ''] = schema.$ref.split('#');
  const target = name === '' ? file : resolve(dirname(file), name);
  const parts = fragment.split('/').filter((part) => part !== '');
  return follow(parts.reduce((value, part) => value[part], load(target)), target);
}

/** A schema as one of the shapes `{ type, ... }` that `written` knows. */
function simple(given, from) {
  const [schema, file] = follow(given, from);
  const parts = schema.allOf ?? [];
  if (parts.length > 0) {
    const rest = { ...schema, allOf: undefined };
    const all = [...parts.map((part) => simple(part, file)), simple(rest, file)].filter((part) => part.type !== 'any');
    return all.reduce(both);
  }
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices !== undefined) return either(choices.map((choice) => simple(choice, file)));
  if (Array.isArray(schema.type)) return either(schema.type.map((type) => simple({ ...schema, type }, file)));
  if (schema.enum !== undefined) return { type: 'enum', values: schema.enum };
  switch (schema.type ?? (schema.properties === undefined ? 'any' : 'object')) {
    case 'object': return object(schema, file);
    case 'array': return { type: 'array', items: schema.items === undefined ? { type: 'any' } : simple(schema.items, file) };
    case 'string': return { type: formats[schema.format] ?? 'String' };
    case 'integer': return { type: 'Integer' };
    case 'number': return { type: 'Number' };
    case 'boolean': return { type: 'Boolean' };
    case 'null': return { type: 'Null' };
    case 'any': return { type: 'any' };
    default: throw new Error(`${file}: a schema of type ${schema.type}`);
  }
}

function object(schema, file) {
  const required = new Set(schema.required ?? []);
  const properties = Object.entries(schema.properties ?? {}).map(([name, value]) => {
    const wide = widerObjects.find(({ title, property }) => title === schema.title && property === name);
    return { name, required: required.has(name), value: wide?.schema ?? simple(value, file) };
  });
  const patterns = Object.values(schema.patternProperties ?? {}).map((pattern) => ({ key: formats[pattern['x-pattern-format']] ?? 'any', value: simple(pattern, file) }));
  const more = typeof schema.additionalProperties === 'object' && schema.additionalProperties !== null ? [{ key: 'any', value: simple(schema.additionalProperties, file) }] : [];
  const others = [...patterns, ...more].filter(({ key, value }) => key !== 'any' || value.type !== 'any');
  if (others.length > 1) throw new Error(`${file}: an object has properties of several patterns`);
  return { type: 'object', title: schema.title, properties, others: others[0] };
}

/** What both of two schemas of one type say. */
function both(a, b) {
  if (a.type !== 'object' || b.type !== 'object') throw new Error(`all of ${a.type} and ${b.type}`);
  return { type: 'object', title: b.title ?? a.title, properties: [...a.properties, ...b.properties], others: a.others ?? b.others };
}

const jsonType = ({ type }) => (type === 'enum' || identifiers.has(type) ? 'String' : type);

/** One of several schemas: of two of the same type, what either may have. */
function either(choices) {
  if (choices.some(({ type }) => type === 'any')) return { type: 'any' };
  const merged = new Map();
  for (const choice of choices) {
    const type = jsonType(choice);
    const known = merged.get(type);
    if (known === undefined) merged.set(type, choice);
    else if (type === 'object') merged.set(type, widened(known, choice));
    else if (known.type === 'enum' && choice.type === 'enum') merged.set(type, { type: 'enum', values: [...known.values, ...choice.values] });
    else merged.set(type, { type: 'String' });
  }
  const [first, ...others] = merged.values();
  return others.length === 0 ? first : { type: 'either', choices: [first, ...others] };
}

function widened(a, b) {
  const names = new Set([...a.properties, ...b.properties].map(({ name }) => name));
  const properties = [...names].map((name) => {
    const found = [a, b].map((object) => object.properties.find((property) => property.name === name));
    const values = found.filter((property) => property !== undefined).map(({ value }) => value);
    return { name, required: found.every((property) => property?.required), value: either(values) };
  });
  return { type: 'object', title: a.title, properties, others: a.others ?? b.others };
}

const text = (value) => JSON.stringify(value);
const list = (values) => `&[${values.join(', ')}]`;

/** What has a name of its own, because the server asks for it elsewhere too. */
const alwaysNamed = ['Filter', 'RoomEventFilter'];

/** Another object has the title of one of those: that of the room directory. */
const isAnother = ({ title, properties }) => title === 'Filter' && properties.some(({ name }) => name === 'generic_search_term');

/** What is written once and named by its title, since several endpoints have it. */
class Shared {
  #titles = new Map();
  #constants = new Map();

  /** Counts the objects of a schema by their titles. */
  count(schema) {
    for (const part of parts(schema)) this.count(part);
    if (schema.type !== 'object' || schema.title === undefined || schema.properties.length === 0) return;
    const found = this.#titles.get(schema.title) ?? [];
    this.#titles.set(schema.title, [...found, this.#inline(schema)]);
  }

  written(schema) {
    const found = this.#titles.get(schema.title) ?? [];
    const inline = this.#inline(schema);
    const isShared = (alwaysNamed.includes(schema.title) && !isAnother(schema)) || (schema.type === 'object' && found.length > 1 && found.every((other) => other === found[0]));
    if (!isShared) return inline;
    const name = schema.title.replaceAll(/([a-z])([A-Z])/g, '$1_$2').replaceAll(/[^A-Za-z0-9]+/g, '_').toUpperCase();
    this.#constants.set(name, inline);
    return name;
  }

  constants() {
    return [...this.#constants].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, schema]) => `pub const ${name}: Schema = ${schema};`);
  }

  #inline(schema) {
    switch (schema.type) {
      case 'any': return 'Any';
      case 'array': return `Array(&${this.written(schema.items)})`;
      case 'either': return `Either(${list(schema.choices.map((choice) => this.written(choice)))})`;
      case 'enum': return `OneOf(${list(schema.values.map(text))})`;
      case 'object': return this.#object(schema);
      default: return identifiers.has(schema.type) ? `Id(${schema.type})` : schema.type;
    }
  }

  #object({ properties, others }) {
    const fields = properties
      .filter(({ value, required }) => value.type !== 'any' || required)
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .map(({ name, required, value }) => `${required ? 'Required' : 'Optional'}(${text(name)}, ${this.written(value)})`);
    const other = others === undefined ? 'None' : `Some(&(${this.#inline({ type: others.key })}, ${this.written(others.value)}))`;
    return `Object(${list(fields)}, ${other})`;
  }
}

function parts(schema) {
  switch (schema.type) {
    case 'array': return [schema.items];
    case 'either': return schema.choices;
    case 'object': return [...schema.properties.map(({ value }) => value), ...(schema.others === undefined ? [] : [schema.others.value])];
    default: return [];
  }
}

const shape = (name) => name.trim().replaceAll(/\{[^/]*\}/g, '{}');

function* operations() {
  const endpoints = new Set(readFileSync(served, 'utf8').split('\n').map(shape));
  for (const name of readdirSync(specification).filter((name) => name.endsWith('.yaml')).sort()) {
    const file = resolve(specification, name);
    const { paths, servers } = load(file);
    const base = servers?.[0]?.variables?.basePath?.default ?? '';
    for (const [route, methods] of Object.entries(paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        const full = shape(`${base}${route}`);
        if (endpoints.has(`${method.toUpperCase()} ${full}`)) {
          const parameters = [...(methods.parameters ?? []), ...(operation.parameters ?? [])].map((parameter) => follow(parameter, file));
          yield { method: method.toUpperCase(), path: full, file, route, parameters, operation };
        }
      }
    }
  }
}

function endpoint({ method, path, file, route, parameters, operation }) {
  const of = (place) => parameters.filter(([parameter]) => parameter.in === place);
  const schemaOf = ([parameter, from]) => simple(parameter.schema, from);
  const inPath = [...route.matchAll(/\{([^/]*)\}/g)].map(([, name]) => {
    const schema = schemaOf(of('path').find(([parameter]) => parameter.name === name));
    return schema.type === 'String' ? { type: named[name] ?? 'String' } : schema;
  });
  const inQuery = of('query').map((parameter) => ({ name: parameter[0].name, schema: schemaOf(parameter) })).filter(({ schema }) => !['any', 'String'].includes(schema.type));
  const [requestBody] = follow(operation.requestBody, file);
  const contents = requestBody?.content ?? { 'application/json': {} };
  const content = contents['application/json']?.schema;
  // A file is of no type that is looked at.
  const nothing = { type: contents['application/json'] === undefined ? 'any' : 'object', properties: [] };
  const body = content === undefined ? nothing : simple(content, file);
  if (!['any', 'object'].includes(body.type)) throw new Error(`${method} ${path}: the body is of type ${body.type}`);
  const short = path.replace(/^\/_matrix\/(client|media)\/[^/]*\//, '');
  for (const { property, schema } of otherwise.filter((other) => other.path === short)) {
    for (const found of body.properties.filter(({ name }) => name === property)) found.value = schema;
  }
  return { method, full: path, path: short, inPath, inQuery: inQuery.sort((a, b) => (a.name < b.name ? -1 : 1)), body };
}

/** Two ways to ask the same endpoint are one that takes either. */
function together(endpoints) {
  const found = new Map();
  for (const endpoint of endpoints) {
    const key = `${endpoint.path} ${endpoint.method}`;
    const known = found.get(key);
    found.set(key, known === undefined ? endpoint : { ...known, body: widened(known.body, endpoint.body) });
    // The state key may be left out.
    const short = endpoint.path.replace(/(\/state\/\{\})\/\{\}$/, '$1');
    if (short !== endpoint.path) found.set(`${short} ${endpoint.method}`, { ...endpoint, path: short, full: endpoint.full.replace(/\/\{\}$/, ''), inPath: endpoint.inPath.slice(0, -1) });
  }
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, endpoint]) => endpoint);
}

const known = () => together([...operations()].map(endpoint)).filter(({ inPath, inQuery, body }) => (
  inPath.some(({ type }) => type !== 'String') || inQuery.length > 0 || body.properties.length > 0 || body.others !== undefined
));

/** The files, each with what it should hold. */
export function generated() {
  const endpoints = known();
  return [[table, source(endpoints)], [forTests, `[\n${endpoints.map((endpoint) => `  ${JSON.stringify(endpoint)}`).join(',\n')}\n]\n`]];
}

function source(endpoints) {
  const shared = new Shared();
  for (const { body } of endpoints) shared.count(body);
  const lines = endpoints.map(({ method, path, inPath, inQuery, body }) => `Endpoint {
    method: ${text(method)},
    path: ${text(path)},
    arguments: ${list(inPath.some(({ type }) => type !== 'String') ? inPath.map((schema) => shared.written(schema)) : [])},
    query: ${list(inQuery.map(({ name, schema }) => `(${text(name)}, ${shared.written(schema)})`))},
    body: ${shared.written(body)},
  },`);
  return formatted(`//! What the specification says of requests. Written by
//! \`node scripts/request-schemas.mjs\` from the OpenAPI files in \`tests/spec/\`: not to be changed
//! by hand.

use super::{
    Endpoint,
    Identifier::{${[...identifiers].sort().join(', ')}},
    Property::{Optional, Required},
    Schema::{self, Any, Array, Boolean, Either, Id, Integer, Null, Number, Object, OneOf, String},
};

/// Every endpoint of which the specification says more than that its body is an object, in the
/// order of their paths.
pub static ENDPOINTS: &[Endpoint] = &[
${lines.join('\n')}
];

${shared.constants().join('\n\n')}
`);
}

function formatted(source) {
  const { status, stdout, stderr } = spawnSync('rustfmt', ['--edition', '2024', '--config-path', path('rustfmt.toml')], { input: source, encoding: 'utf8' });
  if (status !== 0) throw new Error(`rustfmt: ${stderr}`);
  return stdout;
}

if (process.argv[1] === path('scripts', 'request-schemas.mjs')) {
  for (const [file, text] of generated()) writeFileSync(file, text);
}
