// Another server, as far as tests need one: a key that it publishes over HTTPS, and requests that
// it signs (Server-Server API, "Request Authentication").

import { generateKeyPairSync, sign } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import https from 'node:https';

/** Canonical JSON (Appendices) of what has no floats. */
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const fields = Object.keys(value).filter((key) => value[key] !== undefined).sort();
  return `{${fields.map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(',')}}`;
}

const unpadded = (bytes) => Buffer.from(bytes).toString('base64').replace(/=+$/, '');

export class Peer {
  /** What it was asked, each `METHOD path`. */
  asked = [];
  keyId = 'ed25519:a';

  /** Starts one at `localhost` and a port of its own. */
  static async start(t, authority) {
    const peer = new Peer();
    const { publicKey, privateKey } = generateKeyPairSync('ed25519');
    peer.privateKey = privateKey;
    peer.publicKey = unpadded(Buffer.from(publicKey.export({ format: 'jwk' }).x, 'base64url'));
    const files = await authority.issue('DNS:localhost');
    const server = https.createServer({ cert: await readFile(files.certificate), key: await readFile(files.key) }, (request, response) => {
      peer.asked.push(`${request.method} ${request.url}`);
      const found = request.url === '/_matrix/key/v2/server' ? peer.keys() : { errcode: 'M_UNRECOGNIZED', error: 'Unrecognized request' };
      response.writeHead(found.errcode ? 404 : 200, { 'content-type': 'application/json' }).end(JSON.stringify(found));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => { server.closeAllConnections(); server.close(); });
    peer.name = `localhost:${server.address().port}`;
    return peer;
  }

  signature(object) {
    return unpadded(sign(null, Buffer.from(canonical(object)), this.privateKey));
  }

  keys() {
    const keys = {
      server_name: this.name,
      verify_keys: { [this.keyId]: { key: this.publicKey } },
      old_verify_keys: {},
      valid_until_ts: Date.now() + 24 * 60 * 60 * 1000,
    };
    return { ...keys, signatures: { [this.name]: { [this.keyId]: this.signature(keys) } } };
  }

  /** The `Authorization` header of a request to `destination`. */
  authorization(destination, method, uri, content) {
    const signature = this.signature({ method, uri, origin: this.name, destination, content });
    return `X-Matrix origin="${this.name}",destination="${destination}",key="${this.keyId}",sig="${signature}"`;
  }

  /**
   * Asks the server `url`, whose name is `destination`, over HTTP; resolves to `{ status, body }`.
   * With `as` it says that another path was signed.
   */
  async ask(url, destination, method, path, content, { as = path } = {}) {
    const authorization = this.authorization(destination, method, as, content);
    const response = await fetch(url + path, { method, headers: { authorization }, body: content && JSON.stringify(content) });
    return { status: response.status, body: await response.json() };
  }
}
