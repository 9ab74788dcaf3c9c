// From a fetch event's Request to the engine's call, and back to a Response. The server itself writes CORS headers and judges methods and paths.

import { serverLabel } from '../shared/matrix-url.ts';
import { failureOf } from './failed.ts';
import { Died } from './instance.ts';
import { type Server } from './server.ts';

/** No request may be larger, whatever the endpoint: bodies are held in memory. */
const largestBody = 100 * 1024 * 1024;

/** Media is shown or saved, never run: any other use of a response could run it, or show it as a page of this origin. */
const usesOfMedia: ReadonlySet<string> = new Set(['', 'audio', 'image', 'track', 'video']);

/** Answers `request`, whose path on this server is `path`. Never rejects. */
export async function answer(server: Server, request: Request, path: string): Promise<Response> {
  if (!usesOfMedia.has(request.destination) && /^\/_matrix\/(media|client\/[^/]+\/media)\//.test(path)) {
    return problem(403, 'M_FORBIDDEN', 'Media is not served to frames, pages, scripts or workers.');
  }
  try {
    const label = serverLabel(new URL(request.url).hostname);
    if (label !== undefined && label !== (await server.running()).serverName.split('.', 1)[0]) {
      return problem(404, 'M_UNRECOGNIZED', 'This is the name of another server, and this version does not reach others.');
    }
    const body = await readBody(request);
    if (!body) return problem(413, 'M_TOO_LARGE', `A request may have ${String(largestBody)} bytes at most.`);
    const response = await server.handle({ method: request.method, path, headers: [...request.headers].flat(), body });
    return toResponse(response.status, response.headers, response.body);
  } catch (error) {
    if (error instanceof Died) return problem(500, 'M_UNKNOWN', 'The server made a mistake and started anew from its database.');
    const { message, nextStep } = failureOf(error);
    return problem(503, 'M_UNKNOWN', `${message} ${nextStep}`);
  }
}

/** The body, or `undefined` when it is too large. */
async function readBody(request: Request): Promise<Uint8Array | undefined> {
  if (request.method === 'GET' || request.method === 'HEAD') return new Uint8Array();
  // Firefox gives a Request no `body` stream (bug 1387483): there the whole is read first.
  const stream = request.body as ReadableStream<Uint8Array> | null | undefined;
  if (!stream) {
    const bytes = new Uint8Array(await request.arrayBuffer());
    return bytes.length > largestBody ? undefined : bytes;
  }
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > largestBody) {
      await reader.cancel();
      return undefined;
    }
    chunks.push(value);
  }
  if (chunks.length === 1 && chunks[0]) return chunks[0];
  const body = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    body.set(chunk, offset);
    offset += chunk.length;
  }
  return body;
}

function toResponse(status: number, headers: [string, string][], body: Uint8Array<ArrayBuffer>): Response {
  const empty = status === 204 || status === 304;
  return new Response(empty ? null : body, { status, headers });
}

function problem(status: number, errcode: string, error: string): Response {
  return Response.json({ errcode, error }, { status, headers: { 'access-control-allow-origin': '*' } });
}
