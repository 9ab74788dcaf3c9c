// A user as their client sees it: requests with a token, and what syncs have told so far.

import assert from 'node:assert/strict';

const client = '/_matrix/client/v3';
const filter = encodeURIComponent(JSON.stringify({ room: { timeline: { limit: 500 } } }));
const part = encodeURIComponent;

/** How long somebody waits for what another server does, in milliseconds. */
const PATIENCE = 20_000;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/**
 * Ends when `look` gives something true, which it gives; fails after a while with `what` was waited
 * for, and with what `found` says of how it stands.
 */
export async function until(what, look, { found = () => '', patience = PATIENCE } = {}) {
  const end = Date.now() + patience;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}${found()}`);
    await pause(100);
  }
}

/** What a user knows of a room they are or were in. */
class Room {
  /** Events in the order of the timeline. */
  timeline = [];
  state = new Map();
  typing = [];
  /** Who has read up to which event. */
  receipts = new Map();

  /** The bodies of the messages. */
  get said() {
    return this.timeline.filter(({ type }) => type === 'm.room.message').map(({ content }) => content.body);
  }

  event(id) {
    return this.timeline.find(({ event_id }) => event_id === id);
  }

  member(user) {
    return this.state.get(`m.room.member|${user.id ?? user}`)?.content;
  }

  take({ state, timeline, ephemeral }) {
    for (const event of [...(state?.events ?? []), ...(timeline?.events ?? [])]) {
      if (event.state_key !== undefined) this.state.set(`${event.type}|${event.state_key}`, event);
    }
    this.timeline.push(...(timeline?.events ?? []));
    for (const { type, content } of ephemeral?.events ?? []) {
      if (type === 'm.typing') this.typing = content.user_ids;
      if (type !== 'm.receipt') continue;
      for (const [event, kinds] of Object.entries(content)) {
        for (const user of Object.keys(kinds['m.read'] ?? {})) this.receipts.set(user, event);
      }
    }
  }
}

export class User {
  rooms = new Map();
  invites = new Map();
  knocks = new Map();
  left = new Set();
  presence = new Map();
  toDevice = [];
  /** Users whose devices have changed. */
  changed = new Set();
  #since;
  #transaction = 0;

  static async register(server, name) {
    const user = new User();
    user.server = server;
    const made = await user.ok('POST', `${client}/register`, { username: name, password: 'a password', auth: { type: 'm.login.dummy' } });
    return Object.assign(user, { id: made.user_id, token: made.access_token, device: made.device_id });
  }

  /** A further device of the account, as a user of its own. */
  async logIn() {
    const user = new User();
    user.server = this.server;
    const made = await user.ok('POST', `${client}/login`, { type: 'm.login.password', identifier: { type: 'm.id.user', user: this.id }, password: 'a password' });
    return Object.assign(user, { id: made.user_id, token: made.access_token, device: made.device_id });
  }

  get name() {
    return this.id.slice(1, this.id.indexOf(':'));
  }

  /** One request; resolves to `{ status, body }`. A path that begins with no `/` is of v3. */
  async request(method, path, body) {
    const url = `${this.server.url}${path.startsWith('/') ? path : `${client}/${path}`}`;
    const headers = { ...(this.token && { authorization: `Bearer ${this.token}` }), ...(body && { 'content-type': 'application/json' }) };
    const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    try {
      return { status: response.status, body: JSON.parse(text) };
    } catch {
      return { status: response.status, body: text };
    }
  }

  /** As `request`, for what has to succeed: gives the body. */
  async ok(method, path, body) {
    const answer = await this.request(method, path, body);
    if (answer.status !== 200) throw new Error(`${method} ${path} of ${this.id ?? 'nobody'} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  /** What has to be refused with `status` and `errcode`. */
  async refused(status, errcode, method, path, body) {
    const answer = await this.request(method, path, body);
    assert.deepEqual({ status: answer.status, errcode: answer.body.errcode }, { status, errcode }, `${method} ${path}: ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  async #sync(timeout) {
    const since = this.#since ? `&since=${part(this.#since)}` : '';
    const told = await this.ok('GET', `sync?set_presence=offline&timeout=${timeout}&filter=${filter}${since}`);
    this.#since = told.next_batch;
    const { join = {}, invite = {}, knock = {}, leave = {} } = told.rooms ?? {};
    for (const [id, room] of [...Object.entries(join), ...Object.entries(leave)]) this.room(id).take(room);
    for (const id of Object.keys(join)) for (const other of [this.left, this.invites, this.knocks]) other.delete(id);
    for (const id of Object.keys(leave)) {
      this.left.add(id);
      for (const other of [this.invites, this.knocks]) other.delete(id);
    }
    for (const [id, { invite_state: { events } }] of Object.entries(invite)) {
      this.invites.set(id, events);
      this.left.delete(id);
    }
    for (const [id, { knock_state: { events } }] of Object.entries(knock)) this.knocks.set(id, events);
    for (const { sender, content } of told.presence?.events ?? []) this.presence.set(sender, content);
    this.toDevice.push(...(told.to_device?.events ?? []));
    for (const user of told.device_lists?.changed ?? []) this.changed.add(user);
  }

  /** What is known of a room so far. */
  room(id) {
    if (!this.rooms.has(id)) this.rooms.set(id, new Room());
    return this.rooms.get(id);
  }

  /** Everything that is to be told now. */
  catchUp() {
    return this.#sync(0);
  }

  /** Syncs until `look` gives something true, which it gives. */
  async sees(what, look, { patience = PATIENCE } = {}) {
    const end = Date.now() + patience;
    for (let timeout = 0; ; timeout = 1_000) {
      await this.#sync(timeout);
      const seen = look();
      if (seen) return seen;
      if (Date.now() > end) throw new Error(`${this.id} waited in vain for ${what}`);
    }
  }

  /** Waits for messages with these texts, in this order and next to each other or not. */
  async reads(room, ...bodies) {
    await this.sees(`"${bodies.join('", "')}" in ${room}`, () => bodies.every((body) => this.room(room).said.includes(body)));
    const read = this.room(room).said.filter((body) => bodies.includes(body));
    assert.deepEqual(read, bodies, `what ${this.id} read`);
  }

  /** Waits until `other` has that membership. */
  seesMember(room, other, membership) {
    return this.sees(`${other.id} to have the membership ${membership} in ${room}`, () => this.room(room).member(other)?.membership === membership);
  }

  seesInvite(room) {
    return this.sees(`an invitation to ${room}`, () => this.invites.get(room));
  }

  seesEnd(room) {
    return this.sees(`the end of the membership in ${room}`, () => this.left.has(room));
  }

  async createRoom({ version = '11', ...options } = {}) {
    return (await this.ok('POST', 'createRoom', { room_version: version, ...options })).room_id;
  }

  invite(room, other) {
    return this.ok('POST', `rooms/${part(room)}/invite`, { user_id: other.id });
  }

  #via(servers) {
    return servers.map((server) => `server_name=${part(server.name)}&via=${part(server.name)}`).join('&');
  }

  async join(roomOrAlias, ...via) {
    return (await this.ok('POST', `join/${part(roomOrAlias)}?${this.#via(via)}`, {})).room_id;
  }

  /** Tries to join, and has to be refused; Synapse has a code of its own for who is banned. */
  async mayNotJoin(room, ...via) {
    const answer = await this.request('POST', `join/${part(room)}?${this.#via(via)}`, {});
    assert.equal(answer.status, 403, JSON.stringify(answer.body));
    assert.ok(['M_FORBIDDEN', 'M_BAD_STATE'].includes(answer.body.errcode), answer.body.errcode);
  }

  async knock(room, reason, ...via) {
    return (await this.ok('POST', `knock/${part(room)}?${this.#via(via)}`, { reason })).room_id;
  }

  leave(room) {
    return this.ok('POST', `rooms/${part(room)}/leave`, {});
  }

  /** `kick`, `ban` or `unban`. */
  moderate(what, room, other, reason) {
    return this.ok('POST', `rooms/${part(room)}/${what}`, { user_id: other.id, reason });
  }

  async send(room, content, type = 'm.room.message') {
    const path = `rooms/${part(room)}/send/${type}/${this.#transaction++}`;
    return (await this.ok('PUT', path, content)).event_id;
  }

  say(room, body) {
    return this.send(room, { msgtype: 'm.text', body });
  }

  /** Says it as a client does whose server is away now and then: again until it is accepted. */
  async insist(room, body) {
    const path = `rooms/${part(room)}/send/m.room.message/${this.#transaction++}`;
    const { event_id: event } = await until(`"${body}" to be accepted`, async () => {
      const answer = await this.request('PUT', path, { msgtype: 'm.text', body }).catch(() => undefined);
      return answer?.status === 200 && answer.body;
    });
    return event;
  }

  async setState(room, type, content, key = '') {
    return (await this.ok('PUT', `rooms/${part(room)}/state/${type}/${part(key)}`, content)).event_id;
  }

  async redact(room, event, reason) {
    return (await this.ok('PUT', `rooms/${part(room)}/redact/${part(event)}/${this.#transaction++}`, { reason })).event_id;
  }

  sendToDevice(other, content, type = 'org.example.note') {
    return this.ok('PUT', `sendToDevice/${type}/${this.#transaction++}`, { messages: { [other.id]: { [other.device]: content } } });
  }

  /** The room's state as ids of events, by type and state key. */
  async state(room) {
    const events = await this.ok('GET', `rooms/${part(room)}/state`);
    return Object.fromEntries(events.map((event) => [`${event.type}|${event.state_key}`, event.event_id]).sort());
  }

  /** Back from the end to where there is nothing more: events, newest first. */
  async history(room, limit = 20) {
    const events = [];
    for (let from = ''; ;) {
      const page = await this.ok('GET', `rooms/${part(room)}/messages?dir=b&limit=${limit}${from}`);
      events.push(...page.chunk);
      if (!page.end) return events;
      assert.ok(events.length < 10_000, 'the history has an end');
      from = `&from=${part(page.end)}`;
    }
  }
}

/** Waits until all of them see the same state of a room; gives it. */
export async function agree(room, ...users) {
  let states;
  const different = () => {
    const keys = [...new Set(states.flatMap(Object.keys))].filter((key) => states.some((state) => state[key] !== states[0][key]));
    return keys.map((key) => `\n  ${key}: ${states.map((state) => state[key]).join(', ')}`).join('');
  };
  await until(`${users.map(({ id }) => id).join(' and ')} to see the same state of ${room}`, async () => {
    states = await Promise.all(users.map((user) => user.state(room)));
    return different() === '';
  }, { found: () => `:${different()}` });
  return states[0];
}
