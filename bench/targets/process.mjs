// Servers as processes: a free port, the wait for the first answer, the end.

import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import net from 'node:net';
import { Connection } from '../connection.mjs';

const VERSIONS = '/_matrix/client/versions';

/** A port of 127.0.0.1 that is free now. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** A server that runs as a child of this process. */
export class ServerProcess {
  /** The end of what it wrote to standard error. */
  said = '';

  /**
   * Starts `command` and resolves when `url` answers; `started` is when it was started, by the
   * clock of `performance.now()`, and `ready` how long that took.
   */
  static async start(command, args, { url, cwd, within = 60_000 }) {
    const server = new ServerProcess();
    server.started = performance.now();
    server.child = spawn(command, args, { cwd, stdio: ['ignore', 'ignore', 'pipe'] });
    server.child.stderr.on('data', (data) => { server.said = (server.said + data).slice(-4_000); });
    server.ended = new Promise((resolve) => server.child.once('exit', (code, signal) => resolve(signal ?? code)));
    let running = true;
    server.ended.then(() => { running = false; });
    for (;;) {
      const connection = await Connection.open(url).catch(() => null);
      const answer = await connection?.send('GET', VERSIONS).catch(() => null);
      if (answer?.status === 200) {
        server.ready = performance.now() - server.started;
        server.connection = connection;
        return server;
      }
      connection?.close();
      if (!running) throw new Error(`${command} ended before it answered:\n${server.said}`);
      if (performance.now() - server.started > within) {
        server.child.kill('SIGKILL');
        throw new Error(`${command} did not answer within ${within} ms:\n${server.said}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  get pid() {
    return this.child.pid;
  }

  /** Ends it in order; resolves to its exit code. */
  async stop(signal = 'SIGTERM') {
    this.connection.close();
    this.child.kill(signal);
    return this.ended;
  }

  /** Megabytes of memory in use. */
  async memory() {
    const status = await readFile(`/proc/${this.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)[1]) * 1024 / 1e6;
  }

  /** Bytes handed to the disk since the start. */
  async bytesWritten() {
    const io = await readFile(`/proc/${this.pid}/io`, 'utf8');
    return Number(/write_bytes: (\d+)/.exec(io)[1]);
  }
}
