// What another server's events take over HTTPS, the same for `ephapse serve` and for Synapse: a
// room of `ephapse serve` is joined, its history is read, and what is said there comes in.

import { built } from '../scripts/lib/run.mjs';
import { networkTools, synapse } from '../scripts/lib/tools.mjs';
import { Connection } from './connection.mjs';
import { Client, median } from './work.mjs';

/** Small, since Synapse does it too. */
const MEMBERS = 100;
const BEHIND = 1_000;
const SENT = 500;
const ARRIVALS = 40;
/** Clients that send at once. */
const AT_ONCE = 8;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves to figures by name. `kind`: of the server that is looked at. */
export async function federated(kind, say) {
  await networkTools();
  process.env.EPHAPSE ??= built('release', 'ephapse');
  process.env.HS_LOG ??= 'warn';
  if (kind === 'synapse') process.env.SYNAPSE_PYTHON ??= await synapse();
  const { startServers } = await import('../tests/federation/servers.mjs');
  const { servers: [there, here], close } = await startServers(['ephapse', kind]);
  const connections = [];
  const connect = async (server) => {
    const connection = await Connection.open(server.url);
    connections.push(connection);
    connection.id = connections.length;
    return connection;
  };
  try {
    return await measured({ there, here, connect: (server) => connect(server), say });
  } finally {
    for (const connection of connections) connection.close();
    await close();
  }
}

async function measured({ there, here, connect, say }) {
  say('a room of another server');
  const senders = [];
  for (let n = 0; n < AT_ONCE; n++) senders.push(await Client.register(await connect(there), `sender${n}`));
  const [alice] = senders;
  const room = await alice.createRoom();
  for (const sender of senders.slice(1)) await sender.join(room);
  const connection = await connect(there);
  for (let n = AT_ONCE; n < MEMBERS; n++) await (await Client.register(connection, `member${n}`)).join(room);
  const send = async (count) => {
    const sent = await Promise.all(senders.map(async (sender) => {
      let last;
      for (let n = 0; n < count / AT_ONCE; n++) last = await sender.send(room);
      return last;
    }));
    return new Set(sent);
  };
  await send(BEHIND);

  say('its join');
  const bob = await Client.register(await connect(here), 'bob');
  let start = performance.now();
  await bob.call('POST', `/join/${encodeURIComponent(room)}?server_name=${encodeURIComponent(there.name)}`, {});
  const joinHttps = (performance.now() - start) / 1_000;

  say('its history');
  start = performance.now();
  let seen = 0;
  for (let from = ''; ;) {
    const page = await bob.call('GET', `/rooms/${encodeURIComponent(room)}/messages?dir=b&limit=100${from}`);
    seen += page.chunk.length;
    if (!page.end) break;
    from = `&from=${encodeURIComponent(page.end)}`;
  }
  const backfilledHttps = (seen * 1_000) / (performance.now() - start);
  if (seen < BEHIND) throw new Error(`only ${seen} of ${BEHIND} events came`);

  say('one event');
  let { next_batch: since } = await bob.sync();
  const arrived = async (id) => {
    for (;;) {
      const answer = await bob.sync(since, 30_000);
      since = answer.next_batch;
      if (answer.rooms?.join?.[room]?.timeline?.events.some((event) => event.event_id === id)) return;
    }
  };
  const samples = [];
  for (let n = 0; n < ARRIVALS; n++) {
    const held = bob.sync(since, 30_000);
    await sleep(5);
    start = performance.now();
    const sent = alice.send(room);
    const answer = await held;
    const took = performance.now() - start;
    since = answer.next_batch;
    const id = await sent;
    if (answer.rooms?.join?.[room]?.timeline?.events.some((event) => event.event_id === id)) samples.push(took);
  }
  if (samples.length < ARRIVALS / 2) throw new Error(`only ${samples.length} of ${ARRIVALS} events came with the sync that was held for them`);

  say('many events');
  start = performance.now();
  const last = await send(SENT);
  // Events come in the order in which they were sent.
  await arrived(await alice.send(room));
  const receivedHttps = ((SENT + 1) * 1_000) / (performance.now() - start);
  for (const id of last) await bob.call('GET', `/rooms/${encodeURIComponent(room)}/event/${encodeURIComponent(id)}`);
  return { joinHttps, backfilledHttps, arrivalHttps: median(samples), receivedHttps };
}
