// A certificate authority of a test.

import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { directory } from './server.mjs';

const openssl = (...args) => promisify(execFile)('openssl', args);
const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

export class Authority {
  #issued = 0;

  /** Makes one, whose files go when the test `t` ends; `file` has its certificate, PEM. */
  static async make(t) {
    return Authority.in(await directory(t));
  }

  /** Makes one with its files in a directory. */
  static async in(directory) {
    const authority = new Authority();
    authority.directory = directory;
    authority.file = join(authority.directory, 'ca.pem');
    authority.key = join(authority.directory, 'ca.key');
    await openssl('req', '-x509', ...newKey, '-days', '2', '-keyout', authority.key, '-out', authority.file, '-subj', '/CN=An authority of a test');
    authority.certificate = await readFile(authority.file, 'utf8');
    return authority;
  }

  /**
   * A certificate for names and addresses, `DNS:localhost` or `IP:127.0.0.1`; resolves to the files
   * `{ certificate, key }`, PEM.
   */
  async issue(...names) {
    const files = ['pem', 'key', 'csr', 'ext'].map((kind) => join(this.directory, `${this.#issued}.${kind}`));
    const [certificate, key, request, extensions] = files;
    this.#issued += 1;
    await writeFile(extensions, `subjectAltName=${names.join(',')}\n`);
    await openssl('req', ...newKey, '-keyout', key, '-out', request, '-subj', '/CN=A server of a test');
    const issuer = ['-CA', this.file, '-CAkey', this.key, '-set_serial', String(this.#issued)];
    await openssl('x509', '-req', '-in', request, ...issuer, '-days', '2', '-extfile', extensions, '-out', certificate);
    return { certificate, key };
  }
}
