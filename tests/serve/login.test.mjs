// How unmodified clients find `ephapse serve` and log in, started by README's command: as Cinny
// does it, and as Hydrogen.

import assert from 'node:assert/strict';
import { test as anyTest } from 'node:test';
import { Server } from './server.mjs';

const test = (name, body) => anyTest(name, { timeout: 60_000 }, body);
const password = 'a password';
const withoutSlash = (url) => url.replace(/\/+$/, '');

/** One request as a page makes it: from another origin, so that every answer has to allow that. */
async function ask(url, { method = 'GET', token, body } = {}) {
  const headers = { origin: 'https://client.example', ...(token && { authorization: `Bearer ${token}` }), ...(body && { 'content-type': 'application/json' }) };
  const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  assert.equal(response.headers.get('access-control-allow-origin'), '*', url);
  return { status: response.status, body: await response.json() };
}

async function ok(url, options) {
  const { status, body } = await ask(url, options);
  assert.equal(status, 200, `${url}: ${JSON.stringify(body)}`);
  return body;
}

/** What both do once they know where the server is. */
async function logIn(base) {
  const { flows } = await ok(`${base}/_matrix/client/v3/login`);
  assert.ok(flows.some(({ type }) => type === 'm.login.password'));
  const identifier = { type: 'm.id.user', user: 'alice' };
  const session = await ok(`${base}/_matrix/client/v3/login`, { method: 'POST', body: { type: 'm.login.password', identifier, password, initial_device_display_name: 'Client' } });
  const token = session.access_token;
  assert.equal((await ok(`${base}/_matrix/client/v3/account/whoami`, { token })).user_id, session.user_id);
  const filter = { room: { state: { lazy_load_members: true } } };
  const { filter_id: id } = await ok(`${base}/_matrix/client/v3/user/${encodeURIComponent(session.user_id)}/filter`, { method: 'POST', token, body: filter });
  assert.ok((await ok(`${base}/_matrix/client/v3/sync?timeout=0&filter=${id}`, { token })).next_batch);
}

/**
 * Looks up the server that a user has typed, then its versions, then how one may log in and
 * register.
 */
async function asCinny(typed) {
  const { 'm.homeserver': { base_url: told } } = await ok(`${withoutSlash(typed)}/.well-known/matrix/client`);
  assert.match(told, /^https?:\/\//);
  const base = withoutSlash(told);
  const { versions } = await ok(`${base}/_matrix/client/versions`);
  assert.ok(Array.isArray(versions));
  const registering = await ask(`${base}/_matrix/client/v3/register`, { method: 'POST', body: {} });
  assert.equal(registering.status, 401);
  assert.ok(registering.body.flows.some(({ stages }) => stages.includes('m.login.dummy')));
  await logIn(base);
  return base;
}

/** Takes the origin of what was typed, and of what it is told there. */
async function asHydrogen(typed) {
  const { 'm.homeserver': { base_url: told } } = await ok(`${new URL(typed).origin}/.well-known/matrix/client`);
  const base = new URL(told).origin;
  await logIn(base);
  return base;
}

for (const [name, client] of [['Cinny', asCinny], ['Hydrogen', asHydrogen]]) {
  test(`${name} finds the server by the address that its user types, and logs in`, async (t) => {
    const server = await Server.start(t);
    await server.register('alice');
    for (const typed of [`http://127.0.0.1:${server.port}`, `http://localhost:${server.port}/`]) {
      assert.equal(await client(typed), withoutSlash(typed));
    }
  });
}

test('the base URL is the one that the request came by, or what the operator says', async (t) => {
  const told = async (server, headers) => {
    const response = await fetch(`${server.url}/.well-known/matrix/client`, { headers });
    return (await response.json())['m.homeserver'].base_url;
  };
  const server = await Server.start(t);
  assert.equal(await told(server, {}), server.url);
  // A proxy on this machine that ends TLS.
  assert.equal(await told(server, { 'x-forwarded-proto': 'https', 'x-forwarded-host': 'evil.example' }), server.url.replace('http:', 'https:'));
  const named = await Server.start(t, ['--public-url', 'https://matrix.example.org/']);
  assert.equal(await told(named, { 'x-forwarded-proto': 'http' }), 'https://matrix.example.org');
});

test('a name is listened at by every address of it', async (t) => {
  const server = await Server.start(t, [], undefined, { host: 'localhost' });
  await server.register('alice');
  assert.equal(await asCinny(`http://localhost:${server.port}`), `http://localhost:${server.port}`);
});
