// A DNS server for tests, over UDP: A and SRV records.

import dgram from 'node:dgram';
import { once } from 'node:events';

const A = 1;
const SRV = 33;

const name = (text) => Buffer.concat([...text.split('.').map((label) => Buffer.from([label.length, ...Buffer.from(label)])), Buffer.from([0])]);
const u16 = (...numbers) => Buffer.concat(numbers.map((number) => Buffer.from([number >> 8, number & 0xff])));

/** The one question of a query: its name, in lower case, its type, and its bytes. */
function question(query) {
  const labels = [];
  let at = 12;
  for (; query[at] !== 0; at += query[at] + 1) labels.push(query.toString('latin1', at + 1, at + 1 + query[at]));
  return { asked: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), bytes: query.subarray(12, at + 5) };
}

/**
 * Listens at `address`, on port 53. `records` has for each name a list of addresses, or of services
 * `{ target, port }`.
 */
export async function serveDns(t, address, records) {
  const socket = dgram.createSocket('udp4');
  socket.on('message', (query, client) => {
    const { asked, type, bytes } = question(query);
    const known = records[asked];
    const data = (known ?? []).flatMap((record) => {
      if (type === A && typeof record === 'string') return [Buffer.from(record.split('.').map(Number))];
      if (type === SRV && record.port) return [Buffer.concat([u16(0, 0, record.port), name(record.target)])];
      return [];
    });
    const answers = data.map((answer) => Buffer.concat([u16(0xc00c, type, 1, 0, 60, answer.length), answer]));
    // An answer, with recursion; without any record of that name: no such domain.
    const head = Buffer.concat([query.subarray(0, 2), u16(known ? 0x8180 : 0x8183, 1, answers.length, 0, 0)]);
    socket.send(Buffer.concat([head, bytes, ...answers]), client.port, client.address);
  });
  socket.bind(53, address);
  await once(socket, 'listening');
  t.after(() => socket.close());
}
