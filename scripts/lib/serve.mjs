// A static file server on the loopback interface, for the demo and for the tests.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';

const types = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
  '.json': 'application/json',
};

/**
 * Serves a directory. `override(pathname, request)` may answer a path itself with `{ body, type, headers }`, or with a status alone.
 * @returns {Promise<{url: string, requests: string[], close: () => Promise<void>}>}
 */
export async function serve(directory, { port = 0, override = () => undefined } = {}) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    requests.push(pathname);
    // The worker's script is looked at again at every visit, as a site should have it; so is everything else while developing.
    const headers = { 'cache-control': 'no-cache', 'x-content-type-options': 'nosniff' };
    const own = await override(pathname, request);
    if (own) {
      response.writeHead(own.status ?? 200, { ...headers, ...own.headers, 'content-type': own.type ?? 'text/plain' }).end(own.body ?? '');
      return;
    }
    const relative = normalize(decodeURIComponent(pathname)).replace(/^(\.\.[/\\])+/, '');
    const file = join(directory, relative.endsWith('/') ? `${relative}index.html` : relative);
    try {
      const body = await readFile(file);
      response.writeHead(200, { ...headers, 'content-type': types[extname(file)] ?? 'application/octet-stream' }).end(body);
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
