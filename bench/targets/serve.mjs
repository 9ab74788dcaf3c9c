// `ephapse serve` as it is built for release, on a directory of its own.

import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Connection } from '../connection.mjs';
import { Client } from '../work.mjs';
import { ServerProcess, freePort } from './process.mjs';

const root = join(import.meta.dirname, '..', '..');
const targetDirectory = process.env.CARGO_TARGET_DIR ?? join(root, 'target');
const binary = join(targetDirectory, 'release', 'ephapse');

export class Serve {
  name = 'ephapse serve';
  large = { events: 100_000, members: 10_000 };

  build() {
    return promisify(execFile)('cargo', ['build', '--release', '--quiet', '-p', 'ephapse-node', '-p', 'ephapse-verify', '--bins'], { cwd: root });
  }

  async start() {
    this.directory = await mkdtemp(join(tmpdir(), 'ephapse-bench-'));
    this.port = await freePort();
    this.url = `http://127.0.0.1:${this.port}`;
    await this.#run();
  }

  async #run() {
    const args = ['serve', '--data-dir', this.directory, '--listen', `127.0.0.1:${this.port}`, '--registration', 'open', '--rate-limits', 'off', '--log', 'warn'];
    this.process = await ServerProcess.start(binary, args, { url: this.url });
    return { connection: this.process.connection, started: this.process.started, ready: this.process.ready };
  }

  connect() {
    return Connection.open(this.url);
  }

  member(connection, name) {
    return Client.register(connection, name);
  }

  memory() {
    return this.process.memory();
  }

  bytesWritten() {
    return this.process.bytesWritten();
  }

  async restart() {
    await this.process.stop();
    return this.#run();
  }

  /** Ends the server; resolves to how many stored events were verified, and throws when one is not what was signed. */
  async stop() {
    await this.process.stop();
    const { stdout } = await promisify(execFile)(join(targetDirectory, 'release', 'verify-events'), [this.directory]);
    await rm(this.directory, { recursive: true });
    return Number(stdout.trim());
  }
}
