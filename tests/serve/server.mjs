// `ephapse serve` for tests: the binary that the suite has built (EPHAPSE names another), a
// directory of its own, a client on a bare connection.

import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Connection } from '../../bench/connection.mjs';
import { ServerProcess, freePort } from '../../bench/targets/process.mjs';
import { built } from '../../scripts/lib/run.mjs';

/** The binary under test. */
export const binary = process.env.EPHAPSE ?? built('debug', 'ephapse');

/** Verifies every event that a data directory holds; resolves to how many there are. */
export async function verifyEvents(dataDirectory) {
  const { stdout } = await promisify(execFile)(built('debug', 'verify-events'), [dataDirectory]);
  return Number(stdout);
}

/** An empty directory that goes when the test `t` ends. */
export async function directory(t) {
  const path = await mkdtemp(join(tmpdir(), 'ephapse-test-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** A server on a directory; it can be started again on the same one. */
export class Server {
  /** Whether the test has ended, so that nobody need try to reach it again. */
  over = false;

  /**
   * With `host` it listens there, by another name of this machine, and logs as `log` says; with
   * `largestFile` it can write no more KiB to any file.
   */
  static async start(t, options = [], dataDirectory, { host = '127.0.0.1', log = 'warn', largestFile } = {}) {
    const server = new Server();
    server.host = host;
    server.log = log;
    server.largestFile = largestFile;
    server.options = options;
    server.directory = dataDirectory ?? (await directory(t));
    t.after(async () => {
      server.over = true;
      await server.process?.stop('SIGKILL');
    });
    await server.#runOnFreePort();
    return server;
  }

  /** A port that is free is not reserved: somebody else may take it first. */
  async #runOnFreePort(attempts = 5) {
    this.port = await freePort();
    this.url = `http://127.0.0.1:${this.port}`;
    try {
      await this.run();
    } catch (error) {
      if (attempts === 1 || !/in use by another process: stop that one, or choose another port/.test(error.message)) throw error;
      await this.#runOnFreePort(attempts - 1);
    }
  }

  async run() {
    const args = ['serve', '--data-dir', this.directory, '--listen', `${this.host}:${this.port}`, '--registration', 'open', '--rate-limits', 'off', '--log', this.log];
    // The system says of such a file what it says of a full disk, if the signal that comes with it
    // is ignored.
    const limited = this.largestFile ? ['bash', '-c', `trap '' XFSZ; ulimit -f ${this.largestFile}; exec "$0" "$@"`, binary] : [binary];
    const [command, ...before] = limited;
    this.process = await ServerProcess.start(command, [...before, ...args, ...this.options], { url: this.url });
  }

  stop(signal) {
    return this.process.stop(signal);
  }

  connect() {
    return Connection.open(this.url);
  }

  /**
   * One request on a connection of its own; resolves to `{ status, body }` with the body read as
   * JSON.
   */
  async request(method, path, token, body) {
    const connection = await this.connect();
    try {
      const response = await connection.send(method, path, token, body);
      return { status: response.status, body: JSON.parse(response.body) };
    } finally {
      connection.close();
    }
  }

  /** As `request`, for what has to succeed. */
  async ok(method, path, token, body) {
    const response = await this.request(method, path, token, body);
    if (response.status !== 200) throw new Error(`${method} ${path} answered ${response.status}: ${JSON.stringify(response.body)}`);
    return response.body;
  }

  /** A new account; resolves to `{ user_id, access_token, device_id }`. */
  register(name) {
    return this.ok('POST', '/_matrix/client/v3/register', undefined, { username: name, password: 'a password', auth: { type: 'm.login.dummy' } });
  }
}

/** Runs the binary to its end, which is to come by itself; resolves to `{ code, said }`. */
export function fails(...args) {
  const child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'], timeout: 30_000 });
  let said = '';
  child.stderr.on('data', (data) => { said += data; });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, said }));
  });
}
