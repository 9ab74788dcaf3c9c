// A DNS server that knows a few names: addresses and services. Everything else does not exist.

import dgram from 'node:dgram';

const types = { A: 1, SRV: 33 };

const labels = (name) => Buffer.concat([...name.split('.').map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label)])), Buffer.from([0])]);

/** The name that a question asks for, and the end of the name. */
function question(packet) {
  const parts = [];
  let at = 12;
  while (packet[at] > 0) {
    parts.push(packet.toString('latin1', at + 1, at + 1 + packet[at]));
    at += 1 + packet[at];
  }
  return { name: parts.join('.').toLowerCase(), type: packet.readUInt16BE(at + 1), end: at + 5 };
}

function data(record) {
  if (record.type === 'A') return Buffer.from(record.address.split('.').map(Number));
  const fixed = Buffer.alloc(6);
  fixed.writeUInt16BE(record.port, 4);
  return Buffer.concat([fixed, labels(record.target)]);
}

/**
 * Answers on port 53 of 127.0.0.1. `records` are `{ name, type: 'A', address }` and
 * `{ name, type: 'SRV', target, port }`.
 */
export function dnsServer(records) {
  const socket = dgram.createSocket('udp4');
  socket.on('message', (packet, { port, address }) => {
    const { name, type, end } = question(packet);
    const known = records.filter((record) => record.name === name);
    const answers = known.filter((record) => types[record.type] === type).map((record) => {
      const bytes = data(record);
      const head = Buffer.alloc(12);
      head.writeUInt16BE(0xc00c, 0); // The name in the question.
      head.writeUInt16BE(type, 2);
      head.writeUInt16BE(1, 4);
      head.writeUInt32BE(60, 6);
      head.writeUInt16BE(bytes.length, 10);
      return Buffer.concat([head, bytes]);
    });
    const head = Buffer.alloc(12);
    packet.copy(head, 0, 0, 2);
    // No such name, unless it has records of another type or names below it.
    const exists = known.length > 0 || records.some((record) => record.name.endsWith(`.${name}`));
    head.writeUInt16BE(exists ? 0x8580 : 0x8583, 2);
    head.writeUInt16BE(1, 4);
    head.writeUInt16BE(answers.length, 6);
    socket.send(Buffer.concat([head, packet.subarray(12, end), ...answers]), port, address);
  });
  return new Promise((resolve, reject) => socket.once('error', reject).bind(53, '127.0.0.1', () => resolve(socket)));
}
