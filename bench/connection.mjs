// One keep-alive HTTP/1.1 connection, one request at a time. Deliberately bare: what node:http adds
// to every request (about as much as the server itself needs for some of them) would be measured as
// the server's.

import net from 'node:net';

const END_OF_HEAD = Buffer.from('\r\n\r\n');

export class Connection {
  #url;
  #socket;
  #received = [];
  #bytes = 0;
  /** How many bytes there have to be before it is worth looking: a large body is looked at once. */
  #needed = 0;
  #waiting = null;

  /** Connects to `url`, of which host and port count. */
  static async open(url) {
    const connection = new Connection();
    connection.#url = new URL(url);
    await connection.#open();
    return connection;
  }

  #open() {
    return new Promise((resolve, reject) => {
      const socket = net.connect(Number(this.#url.port), this.#url.hostname, () => {
        this.#socket = socket;
        resolve();
      });
      socket.setNoDelay(true);
      socket.on('data', (data) => this.#take(data));
      let error = new Error('the server closed the connection');
      socket.on('error', (cause) => { error = cause; });
      // Comes after an error, too.
      socket.on('close', () => {
        reject(error);
        this.#fail(error);
      });
    });
  }

  /** Sends a request and resolves to `{ status, body }`, the body as text. */
  async send(method, path, token, body) {
    if (this.#waiting) throw new Error('one request at a time');
    // Servers close connections that were idle for long.
    if (!this.#socket) await this.#open();
    const text = body === undefined ? '' : JSON.stringify(body);
    let head = `${method} ${path} HTTP/1.1\r\nhost: ${this.#url.host}\r\n`;
    if (token) head += `authorization: Bearer ${token}\r\n`;
    if (body !== undefined) head += `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\n`;
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#socket.write(`${head}\r\n${text}`);
    });
  }

  close() {
    this.#socket?.destroy();
  }

  #fail(error) {
    const waiting = this.#waiting;
    this.#waiting = null;
    this.#socket = null;
    this.#received = [];
    this.#bytes = 0;
    this.#needed = 0;
    waiting?.reject(error);
  }

  #take(data) {
    this.#received.push(data);
    this.#bytes += data.length;
    if (this.#bytes < this.#needed) return;
    const bytes = this.#received.length === 1 ? data : Buffer.concat(this.#received);
    const { response, length } = parse(bytes);
    const rest = response ? bytes.subarray(length) : bytes;
    this.#received = rest.length ? [rest] : [];
    this.#bytes = rest.length;
    this.#needed = response ? 0 : length;
    if (!response) return;
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.resolve(response);
  }
}

/**
 * The response at the start of `bytes` with its length; before it is there as a whole, how long
 * `bytes` has to be at least.
 */
function parse(bytes) {
  const headEnd = bytes.indexOf(END_OF_HEAD);
  if (headEnd < 0) return { length: 0 };
  const head = bytes.latin1Slice(0, headEnd).toLowerCase();
  const status = Number(head.slice(9, 12));
  const start = headEnd + END_OF_HEAD.length;
  const declared = /\r\ncontent-length: *(\d+)/.exec(head);
  if (declared) {
    const end = start + Number(declared[1]);
    return bytes.length < end ? { length: end } : { length: end, response: { status, body: bytes.utf8Slice(start, end) } }
  }
  if (/\r\ntransfer-encoding: *chunked/.test(head)) return parseChunks(bytes, start, status);
  return { length: start, response: { status, body: '' } }
}

function parseChunks(bytes, start, status) {
  const parts = [];
  for (let at = start; ; ) {
    const lineEnd = bytes.indexOf('\r\n', at);
    if (lineEnd < 0) return { length: 0 };
    const size = Number.parseInt(bytes.latin1Slice(at, lineEnd), 16);
    const next = lineEnd + 2 + size + 2;
    if (bytes.length < next) return { length: next };
    if (size === 0) return { length: next, response: { status, body: Buffer.concat(parts).toString() } }
    parts.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + size));
    at = next;
  }
}
