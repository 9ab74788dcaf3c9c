// A real Synapse with SQLite, from PyPI into `.cache/`, for the same work beside ours. Its rate
// limits are raised; everything else that is not about running on one machine is as it comes.

import { execFile } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { synapse } from '../../scripts/lib/tools.mjs';
import { Connection } from '../connection.mjs';
import { directoryOnDisk } from '../disk.mjs';
import { federated } from '../federated.mjs';
import { ServerProcess, freePort } from './process.mjs';

const run = promisify(execFile);

const unlimited = 'per_second: 1000000, burst_count: 1000000';

const config = (port, directory) => `
server_name: "localhost:${port}"
pid_file: ${directory}/pid
listeners:
  - { port: ${port}, type: http, bind_addresses: ["127.0.0.1"], resources: [{ names: [client] }] }
database: { name: sqlite3, args: { database: ${directory}/homeserver.db } }
log_config: ${directory}/log.yaml
media_store_path: ${directory}/media
signing_key_path: ${directory}/signing.key
trusted_key_servers: []
report_stats: false
enable_registration: true
enable_registration_without_verification: true
rc_message: { ${unlimited} }
rc_registration: { ${unlimited} }
rc_login: { address: { ${unlimited} }, account: { ${unlimited} }, failed_attempts: { ${unlimited} } }
rc_joins: { local: { ${unlimited} }, remote: { ${unlimited} } }
rc_joins_per_room: { ${unlimited} }
rc_invites: { per_room: { ${unlimited} }, per_user: { ${unlimited} }, per_issuer: { ${unlimited} } }
rc_room_creation: { ${unlimited} }
`;

const log = 'version: 1\nhandlers: { console: { class: logging.StreamHandler } }\nroot: { level: ERROR, handlers: [console] }\n';

export class Synapse {
  name = 'Synapse';
  /**
   * It would take hours for what takes us minutes: the first three hundred sends stand for the
   * rest.
   */
  quick = true;

  async start() {
    const python = await synapse();
    this.directory = await directoryOnDisk('synapse');
    const port = await freePort();
    this.url = `http://127.0.0.1:${port}`;
    const file = join(this.directory, 'homeserver.yaml');
    await writeFile(file, config(port, this.directory));
    await writeFile(join(this.directory, 'log.yaml'), log);
    const args = ['-m', 'synapse.app.homeserver', '-c', file];
    await run(python, [...args, '--generate-keys'], { cwd: this.directory });
    this.process = await ServerProcess.start(python, args, { url: this.url, cwd: this.directory });
    const { stdout } = await run(python, ['-c', 'import synapse; print(synapse.__version__)']);
    this.name = `Synapse ${stdout.trim().split(' ')[0]}`;
  }

  connect() {
    return Connection.open(this.url);
  }

  /** What events of another server take it. */
  federated(say) {
    return federated('synapse', (what) => say(`over HTTPS: ${what}`));
  }

  async stop() {
    await this.process.stop();
    await rm(this.directory, { recursive: true });
  }
}
