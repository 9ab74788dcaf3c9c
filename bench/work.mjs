// The work that is measured, the same for every target. Nothing here knows what it talks to: a
// connection has `send(method, path, token, body)`, which resolves to `{ status, body }`. Runs in
// Node and, bundled, in a page.

const PASSWORD = 'correct horse battery staple';

/** An account on a connection of its own. */
export class Client {
  #connection;
  #sent = 0;

  constructor(connection, userId, token, name) {
    this.#connection = connection;
    this.userId = userId;
    this.token = token;
    this.name = name;
  }

  static async register(connection, name) {
    const body = { auth: { type: 'm.login.dummy' }, username: name, password: PASSWORD, device_id: 'BENCH' };
    const { user_id: userId, access_token: token } = await call(connection, 'POST', '/_matrix/client/v3/register', undefined, body);
    return new Client(connection, userId, token, name);
  }

  /** The same account on another connection. */
  on(connection) {
    return new Client(connection, this.userId, this.token, this.name);
  }

  call(method, path, body) {
    return call(this.#connection, method, `/_matrix/client/v3${path}`, this.token, body);
  }

  /**
   * As `call`, without reading the JSON: what a large answer takes the server and the way, not the
   * client.
   */
  answer(method, path, body) {
    return answer(this.#connection, method, `/_matrix/client/v3${path}`, this.token, body);
  }

  async createRoom(options = {}) {
    return (await this.call('POST', '/createRoom', { preset: 'public_chat', ...options })).room_id;
  }

  async send(room, text = 'The quick brown fox jumps over the lazy dog.') {
    const transaction = `${this.#connection.id ?? this.name}-${Client.started}-${this.#sent++}`;
    const path = `/rooms/${encodeURIComponent(room)}/send/m.room.message/${transaction}`;
    return (await this.call('PUT', path, { msgtype: 'm.text', body: text })).event_id;
  }

  join(room) {
    return this.call('POST', `/join/${encodeURIComponent(room)}`, {});
  }

  sync(since, timeout = 0) {
    return this.call('GET', `/sync?timeout=${timeout}${since ? `&since=${encodeURIComponent(since)}` : ''}`);
  }
}

// Names and transaction ids must not meet those of an earlier run on the same database.
Client.started = Date.now();

async function answer(connection, method, path, token, body) {
  const response = await connection.send(method, path, token, body);
  if (response.status !== 200) throw new Error(`${method} ${path} answered ${response.status}: ${response.body.slice(0, 300)}`);
  return response.body;
}

const call = async (...request) => JSON.parse(await answer(...request));

/** Milliseconds that `action` takes, `times` times, one after the other. */
async function timed(times, action) {
  const samples = [];
  for (let n = 0; n < times; n++) {
    const start = performance.now();
    await action(n);
    samples.push(performance.now() - start);
  }
  return samples;
}

/** What `share` of the samples do not exceed. */
export function quantile(samples, share) {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

export const median = (samples) => quantile(samples, 0.5);

const mean = (samples) => samples.reduce((sum, sample) => sum + sample, 0) / samples.length;

const several = (count, make) => Promise.all(Array.from({ length: count }, (_, n) => make(n)));

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Does all the work on a target that has been started, and resolves to figures by name; `from` says
 * from which part each came. `say` is told what is going on. With `only` it does that part and what
 * it needs, and the figures say nothing. The figures that compare a thing with its larger self are
 * medians of samples taken in turn, so that what the machine does meanwhile hits both.
 */
export async function measure(target, say, only) {
  Client.started = Date.now();
  const figures = { from: {} };
  const connections = [];
  const connect = async () => {
    const connection = await target.connect();
    connections.push(connection);
    connection.id = connections.length;
    return connection;
  };
  const part = async (name, body) => {
    if (only !== undefined && only !== name) return;
    await say(name);
    const found = await body();
    for (const figure of Object.keys(found)) figures.from[figure] = name;
    Object.assign(figures, found);
  };

  const alice = await Client.register(await connect(), `alice${Client.started}`);
  const bob = await Client.register(await connect(), `bob${Client.started}`);
  const room = await alice.createRoom();
  await bob.join(room);

  await part('sends', () => sends(target, alice, room));
  await part('eight at once', () => together(target, alice, room, connect));
  await part('arrival', () => arrival(alice, bob, room));
  await part('createRoom', () => createRoom(alice));
  await part('a hundred rooms', () => hundredRooms(connect));
  await part('many sends', () => manySends(target, alice, room, figures.send));
  if (target.memory) figures.memory = await target.memory();
  if (!target.quick) await part('events in bulk', () => bulk(alice));
  if (target.large) {
    await part('a large room', () => largeRoom(target, alice, room, connect));
    await part('many members', () => manyMembers(target, alice, connect));
    if (target.memory) figures.memoryLarge = await target.memory();
  }
  if (target.restart && target.large) await part('a thousand rooms and a cold start', () => coldStart(target, connect));
  for (const connection of connections) connection.close?.();
  return figures;
}

/** In turn with what the platform alone takes for as much, where the target knows that. */
async function sends(target, alice, room) {
  const alone = await target.alone?.();
  const kinds = {
    whoami: () => alice.call('GET', '/account/whoami'),
    send: () => alice.send(room),
    ...(alone && { aloneAnswer: alone.answer, aloneWrite: alone.write }),
  };
  const taken = Object.fromEntries(Object.keys(kinds).map((kind) => [kind, []]));
  for (const once of Object.values(kinds)) await timed(30, once);
  for (let round = 0; round < 10; round++) {
    for (const [kind, once] of Object.entries(kinds)) taken[kind].push(...await timed(30, once));
  }
  await alone?.end();
  const medians = Object.fromEntries(Object.entries(taken).map(([kind, samples]) => [kind, median(samples)]));
  return { ...medians, send99: quantile(taken.send, 0.99), sendRate: 1000 / mean(taken.send) };
}

async function together(target, alice, room, connect) {
  const clients = await several(8, async () => alice.on(await connect()));
  const each = target.quick ? 60 : 250;
  const run = (times) => Promise.all(clients.map((client) => timed(times, () => client.send(room))));
  await run(10);
  const start = performance.now();
  await run(each);
  return { eightRate: (8 * each * 1000) / (performance.now() - start) };
}

async function arrival(alice, bob, room) {
  let { next_batch: since } = await bob.sync();
  const samples = [];
  for (let n = 0; n < 120; n++) {
    const held = bob.sync(since, 30_000);
    await sleep(4);
    const start = performance.now();
    const sent = alice.send(room);
    const answer = await held;
    const took = performance.now() - start;
    const events = answer.rooms?.join?.[room]?.timeline?.events ?? [];
    const eventId = await sent;
    since = answer.next_batch;
    // A sync that something else woke says nothing about the way of a message.
    if (events.some((event) => event.event_id === eventId)) samples.push(took);
  }
  if (samples.length < 60) throw new Error(`only ${samples.length} of 120 messages came with the sync that was held for them`);
  return { arrival: median(samples) };
}

async function createRoom(alice) {
  await timed(5, () => alice.createRoom());
  return { createRoom: median(await timed(50, () => alice.createRoom())) };
}

/**
 * One request that makes a thousand events, each with its own hash and signature and authorized by
 * those before it, in one durable batch.
 */
async function bulk(alice) {
  const initial_state = Array.from({ length: 1_000 }, (_, n) => ({ type: 'org.example.bench', state_key: `${n}`, content: { n } }));
  await alice.createRoom({ initial_state });
  return { bulk: 1_000_000 / median(await timed(7, () => alice.createRoom({ initial_state }))) };
}

async function hundredRooms(connect) {
  const carol = await Client.register(await connect(), `carol${Client.started}`);
  for (let n = 0; n < 100; n++) {
    const room = await carol.createRoom({ name: `Room ${n}` });
    for (let message = 0; message < 10; message++) await carol.send(room);
  }
  const check = await carol.sync();
  if (Object.keys(check.rooms.join).length !== 100) throw new Error('the initial sync has not every room');
  return { initialSync: median(await timed(15, () => carol.answer('GET', '/sync?timeout=0'))) };
}

/** Sends until there have been ten thousand, then three hundred as at the beginning. */
async function manySends(target, alice, room, first) {
  if (target.quick) return {};
  for (let n = 0; n < 10_000; n++) await alice.send(room);
  const later = await timed(300, () => alice.send(room));
  return { sendLater: median(later), slowdown: median(later) / first };
}

async function largeRoom(target, alice, large, connect) {
  const clients = await several(8, async () => alice.on(await connect()));
  const each = Math.ceil((target.large.events - 11_000) / clients.length);
  await Promise.all(clients.map(async (client) => {
    for (let n = 0; n < each; n++) await client.send(large);
  }));
  const small = await alice.createRoom();
  return { manyEvents: await compare(() => alice.send(small), () => alice.send(large)) };
}

async function manyMembers(target, alice, connect) {
  const small = await alice.createRoom();
  const large = await alice.createRoom();
  const connections = await several(8, connect);
  const names = Array.from({ length: target.large.members }, (_, n) => `m${n}-${Client.started}`);
  await Promise.all(connections.map(async (connection) => {
    for (let name = names.pop(); name !== undefined; name = names.pop()) {
      await (await target.member(connection, name)).join(large);
    }
  }));
  const figures = { manyMembers: await compare(() => alice.send(small), () => alice.send(large)) };
  if (!target.bytesWritten) return figures;
  const written = async (room, members) => {
    const before = await target.bytesWritten();
    for (const member of members) await member.join(room);
    const bytes = (await target.bytesWritten()) - before;
    if (!(bytes > 0)) throw new Error(`${members.length} joins wrote ${bytes} bytes: nothing that is measured here was written to a disk`);
    return bytes / members.length;
  };
  const others = [];
  for (let n = 0; n < 200; n++) others.push(await target.member(connections[0], `j${n}-${Client.started}`));
  const inSmall = await written(small, others);
  const inLarge = await written(large, others);
  return { ...figures, joinBytes: inLarge / inSmall };
}

/** How many times as long `large` takes. */
async function compare(small, large) {
  const samples = { small: [], large: [] };
  for (let round = 0; round < 30; round++) {
    samples.small.push(...await timed(10, small));
    samples.large.push(...await timed(10, large));
  }
  return median(samples.large) / median(samples.small);
}

/** As the server starts anew, with what it had. */
async function coldStart(target, connect) {
  const dave = await Client.register(await connect(), `dave${Client.started}`);
  for (let n = 0; n < 1_000; n++) await dave.createRoom();
  const { next_batch: since } = await dave.sync();
  const samples = [];
  const ready = [];
  const reached = {};
  for (let n = 0; n < 5; n++) {
    const { connection, started, ready: after, stages } = await target.restart();
    if (after !== undefined) ready.push(after);
    await dave.on(connection).sync(since);
    samples.push(performance.now() - started);
    for (const [stage, at] of stages?.() ?? []) (reached[stage] ??= []).push(at - started);
    connection.close?.();
  }
  return { ready: median(ready), coldStart: median(samples), coldStages: Object.entries(reached).map(([stage, at]) => `${stage} after ${median(at).toFixed(0)} ms`) };
}
