// Two homeservers that know each other: `ephapse serve` and a real Synapse, over HTTPS on the
// loopback interface with certificates of the test's own authority. PEERS names other kinds, such
// as `synapse,synapse`, which shows whether a test asks for what Synapse does among itself.

import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ServerProcess, freePort } from '../../bench/targets/process.mjs';
import { built } from '../../scripts/lib/run.mjs';
import { Authority } from '../serve/authority.mjs';
import { Line } from './line.mjs';
import { User } from './user.mjs';

const kinds = (process.env.PEERS ?? 'ephapse,synapse').split(',');

/** A homeserver as a process, which other servers reach over a line that the test can cut. */
class Homeserver {
  #accounts = 0;

  /**
   * Its name is where other servers find it: a port of this machine, or what `found` says with
   * `{ name, host, port }` and the test's own DNS.
   */
  static async start(directory, certificate, found) {
    const server = new this();
    server.directory = directory;
    server.certificate = certificate;
    await mkdir(directory);
    server.clientPort = await freePort();
    server.host = found?.host ?? '127.0.0.1';
    server.port = found?.port ?? (await freePort());
    if (!found) server.line = await Line.open(server.port);
    server.name = found?.name ?? `localhost:${server.line.port}`;
    server.url = `http://127.0.0.1:${server.clientPort}`;
    await server.prepare?.();
    await server.run();
    return server;
  }

  async run() {
    const { command, args } = this.command();
    this.process = await ServerProcess.start(command, args, { url: this.url, cwd: this.directory });
    this.process.child.stderr.pipe(createWriteStream(join(this.directory, 'stderr.log'), { flags: 'a' }));
  }

  /** Ends the process; `run` starts it again. */
  async stop(signal) {
    await this.process?.stop(signal);
    this.process = undefined;
  }

  async close() {
    await this.stop('SIGKILL');
    this.line?.close();
  }

  /** A new account on this server, whose name begins so. */
  user(name) {
    return User.register(this, `${name}-${++this.#accounts}`);
  }
}

class Ephapse extends Homeserver {
  kind = 'ephapse';

  command() {
    const { ca, certificate, key } = this.certificate;
    return {
      command: process.env.EPHAPSE ?? built('debug', 'ephapse'),
      args: [
        'serve', '--server-name', this.name, '--data-dir', join(this.directory, 'data'),
        '--listen', `127.0.0.1:${this.clientPort}`, '--listen-tls', `${this.host}:${this.port}`, '--tls-cert', certificate, '--tls-key', key,
        '--ca-cert', ca, '--allow-loopback-federation',
        '--registration', 'open', '--rate-limits', 'off', '--log', process.env.HS_LOG ?? 'info',
      ],
    };
  }
}

class Synapse extends Homeserver {
  kind = 'synapse';

  async prepare() {
    await mkdir(join(this.directory, 'media'));
    const key = randomBytes(32).toString('base64').replace(/=+$/, '');
    await writeFile(join(this.directory, 'signing.key'), `ed25519 a_test ${key}\n`);
    await writeFile(join(this.directory, 'homeserver.json'), JSON.stringify(this.configuration()));
    await writeFile(join(this.directory, 'log.json'), JSON.stringify({
      version: 1,
      formatters: { line: { format: '%(asctime)s %(levelname)s %(name)s %(request)s %(message)s' } },
      filters: { request: { '()': 'synapse.logging.context.LoggingContextFilter' } },
      handlers: { file: { class: 'logging.FileHandler', filename: join(this.directory, 'homeserver.log'), formatter: 'line', filters: ['request'] } },
      root: { level: 'INFO', handlers: ['file'] },
      disable_existing_loggers: false,
    }));
  }

  configuration() {
    const { ca, certificate, key } = this.certificate;
    const unlimited = { per_second: 1_000_000, burst_count: 1_000_000 };
    const listener = (host, port, tls) => ({ port, tls, type: 'http', bind_addresses: [host], resources: [{ names: ['client', 'federation'] }] });
    return {
      server_name: this.name,
      pid_file: join(this.directory, 'pid'),
      listeners: [listener('127.0.0.1', this.clientPort, false), listener(this.host, this.port, true)],
      tls_certificate_path: certificate,
      tls_private_key_path: key,
      federation_custom_ca_list: [ca],
      ip_range_blacklist: [],
      trusted_key_servers: [],
      // What a server does that was away for hours, within the seconds of a test.
      federation: { destination_min_retry_interval: 500, destination_retry_multiplier: 1, destination_max_retry_interval: 1_000, max_short_retry_delay: 200, max_short_retries: 1, max_long_retry_delay: 500, max_long_retries: 2 },
      database: { name: 'sqlite3', args: { database: join(this.directory, 'homeserver.db') } },
      log_config: join(this.directory, 'log.json'),
      media_store_path: join(this.directory, 'media'),
      signing_key_path: join(this.directory, 'signing.key'),
      macaroon_secret_key: 'macaroons',
      form_secret: 'forms',
      report_stats: false,
      bcrypt_rounds: 4,
      enable_registration: true,
      enable_registration_without_verification: true,
      allow_public_rooms_over_federation: true,
      room_list_publication_rules: [{ action: 'allow' }],
      dynamic_thumbnails: true,
      rc_message: unlimited,
      rc_registration: unlimited,
      rc_login: { address: unlimited, account: unlimited, failed_attempts: unlimited },
      rc_joins: { local: unlimited, remote: unlimited },
      rc_joins_per_room: unlimited,
      rc_invites: { per_room: unlimited, per_user: unlimited, per_issuer: unlimited },
      rc_presence: { per_user: unlimited },
      rc_room_creation: unlimited,
      rc_media_create: unlimited,
      rc_key_requests: unlimited,
      rc_federation: { window_size: 1_000, sleep_limit: 1_000_000, sleep_delay: 1, reject_limit: 1_000_000, concurrent: 50 },
      remote_media_download_burst_count: '1G',
    };
  }

  command() {
    return { command: process.env.SYNAPSE_PYTHON, args: ['-m', 'synapse.app.homeserver', '-c', 'homeserver.json'] };
  }

  /** Errors in its log, and warnings that name `server`. */
  async complaints(server) {
    const log = await readFile(join(this.directory, 'homeserver.log'), 'utf8');
    return log.split('\n').filter((line) => / (ERROR|CRITICAL) /.test(line) || (/ WARNING /.test(line) && line.includes(server.name)));
  }
}

export const kindsOfServers = { ephapse: Ephapse, synapse: Synapse };

/** Starts servers of these kinds; `close` ends them. */
export async function startServers(wanted) {
  const directory = await mkdtemp(join(tmpdir(), 'ephapse-federation-'));
  const authority = await Authority.in(directory);
  const certificate = { ca: authority.file, ...(await authority.issue('DNS:localhost', 'IP:127.0.0.1')) };
  const started = await Promise.allSettled(wanted.map((kind, n) => kindsOfServers[kind].start(join(directory, `${n}-${kind}`), certificate)));
  const servers = started.filter(({ value }) => value).map(({ value }) => value);
  const close = async () => {
    await Promise.all(servers.map((server) => server.close()));
    if (!process.env.KEEP) await rm(directory, { recursive: true, force: true });
    else console.log(`The servers' directories are in ${directory}`);
  };
  const failed = started.find(({ reason }) => reason);
  if (failed) {
    await close();
    throw failed.reason;
  }
  return { servers, close };
}

/** Two servers. `directions` are both orders of them, with words for the name of a test. */
export async function startPair() {
  const { servers, close } = await startServers(kinds);
  const [one, other] = servers;
  const directions = [[one, other], [other, one]].map(([here, there]) => ({ here, there, words: `${here.kind} to ${there.kind}` }));
  return { one, other, servers, directions, close };
}
