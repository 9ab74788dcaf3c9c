// `ephapse serve` as it is built for release, on a directory of its own.

import { execFile } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import { promisify } from 'node:util';
import { built, root } from '../../scripts/lib/run.mjs';
import { Connection } from '../connection.mjs';
import { directoryOnDisk } from '../disk.mjs';
import { note } from '../profile.mjs';
import { Client, measure } from '../work.mjs';
import { ServerProcess, freePort } from './process.mjs';

const execute = promisify(execFile);
const binary = built('release', 'ephapse');

export class Serve {
  name = 'ephapse serve';
  large = { events: 100_000, members: 10_000 };

  build() {
    return execute('cargo', ['build', '--release', '--quiet', '-p', 'ephapse-node', '-p', 'ephapse-verify', '--bins'], { cwd: root });
  }

  async start() {
    this.directory = await directoryOnDisk('serve');
    this.port = await freePort();
    this.url = `http://127.0.0.1:${this.port}`;
    await this.#run();
  }

  /**
   * Does one part of the work, on a server that starts for it; resolves to how often each function
   * was at work. Rejects where `perf` is not installed.
   */
  async profile(part) {
    await execute('perf', ['--version']);
    const recordings = await directoryOnDisk('perf');
    this.observer = () => ['perf', 'record', '--quiet', '-F', '1999', '-o', `${recordings}/${performance.now()}`, '--'];
    await this.restart();
    await measure(this, () => undefined, part);
    this.observer = undefined;
    await this.restart();
    const noted = new Map();
    for (const recording of await readdir(recordings)) {
      const { stdout } = await execute('perf', ['script', '-i', `${recordings}/${recording}`, '-F', 'ip,sym'], { maxBuffer: 1e9 });
      for (const [, name] of stdout.matchAll(/^ *[0-9a-f]+ (.+)$/gm)) note(noted, name, 1);
    }
    await rm(recordings, { recursive: true });
    return noted;
  }

  async #run() {
    const args = ['serve', '--data-dir', this.directory, '--listen', `127.0.0.1:${this.port}`, '--registration', 'open', '--rate-limits', 'off', '--log', 'warn'];
    const [command, ...more] = [...(this.observer?.() ?? []), binary, ...args];
    this.process = await ServerProcess.start(command, more, { url: this.url });
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

  /**
   * Ends the server; resolves to how many stored events were verified, and throws when one is not
   * what was signed.
   */
  async stop() {
    await this.process.stop();
    const { stdout } = await execute(built('release', 'verify-events'), [this.directory]);
    await rm(this.directory, { recursive: true });
    return Number(stdout.trim());
  }
}
