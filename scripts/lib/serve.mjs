// A static file server on the loopback interface, for the demo and for the tests.

import { createServer } from 'node:http';
import { readFile, stat } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip } from 'node:zlib';

const types = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
  '.json': 'application/json',
};

/**
 * By the name that HTTP has for each: the better one first. The largest file takes half a second
 * with 5, and two with 9 to be 5 % smaller.
 */
const packers = {
  br: (body) => promisify(brotliCompress)(body, { params: { [constants.BROTLI_PARAM_QUALITY]: 5, [constants.BROTLI_PARAM_LGWIN]: 24, [constants.BROTLI_PARAM_SIZE_HINT]: body.length } }),
  gzip: promisify(gzip),
};

/** Compressed files, by path, time of change and encoding. */
const packed = new Map();

/** A file as `request` can have it: its bytes and the headers that say how they are packed. */
async function content(file, request) {
  const body = await readFile(file);
  const accepted = (request.headers['accept-encoding'] ?? '').split(',').map((each) => each.trim());
  const encoding = Object.keys(packers).find((name) => accepted.includes(name));
  if (!encoding || body.length < 1_024) return { body };
  const key = `${encoding} ${(await stat(file)).mtimeMs} ${file}`;
  if (!packed.has(key)) packed.set(key, packers[encoding](body));
  return { body: await packed.get(key), headers: { 'content-encoding': encoding, vary: 'accept-encoding' } };
}

/**
 * Serves a directory, compressed where `compress` says so. `override(pathname, request)` may answer
 * a path itself with `{ body, type, headers }`, or with a status alone.
 * @returns {Promise<{url: string, requests: string[], close: () => Promise<void>}>}
 */
export async function serve(directory, { port = 0, compress = false, override = () => undefined } = {}) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    requests.push(pathname);
    // The worker's script is looked at again at every visit, as a site should have it; so is
    // everything else while developing.
    const headers = { 'cache-control': 'no-cache', 'x-content-type-options': 'nosniff' };
    const own = await override(pathname, request);
    if (own) {
      response.writeHead(own.status ?? 200, { ...headers, ...own.headers, 'content-type': own.type ?? 'text/plain' }).end(own.body ?? '');
      return;
    }
    const relative = normalize(decodeURIComponent(pathname)).replace(/^(\.\.[/\\])+/, '');
    const file = join(directory, relative.endsWith('/') ? `${relative}index.html` : relative);
    try {
      const { body, headers: packing } = compress ? await content(file, request) : { body: await readFile(file) };
      response.writeHead(200, { ...headers, ...packing, 'content-type': types[extname(file)] ?? 'application/octet-stream' }).end(body);
    } catch {
      response.writeHead(404, { ...headers, 'content-type': 'text/plain' }).end('Not found\n');
    }
  });
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    requests,
    close: () => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); }),
  };
}
