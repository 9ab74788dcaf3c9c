// From a fetch event's Request to the engine's call, and back to a Response. The server itself
// writes CORS headers and judges methods and paths.

import { isMedia, serverLabel } from '../shared/matrix-url.ts';
import { streamOfBytes, received } from './body.ts';
import { failureOf } from './failed.ts';
import { InstanceCrashed, type EngineResponse } from './instance.ts';
import { type Server } from './server.ts';

/**
 * Media is shown or saved, never run: any other use of a response could run it, or show it as a
 * page of this origin.
 */
const usesOfMedia: ReadonlySet<string> = new Set(['', 'audio', 'image', 'track', 'video']);

/**
 * Answers `request`, whose path on this server is `path`. `ownPage`: a page of our own origin sent
 * it, which is shown media without a token, as in an `<img>`. Never rejects.
 */
export async function answer(server: Server, request: Request, path: string, ownPage = false): Promise<Response> {
  if (!usesOfMedia.has(request.destination) && isMedia(path)) {
    return problem(403, 'M_FORBIDDEN', 'Media is not served to frames, pages, scripts or workers');
  }
  try {
    const label = serverLabel(new URL(request.url).hostname);
    if (label !== undefined && label !== (await server.running()).serverName.split('.', 1)[0]) {
      return problem(404, 'M_UNRECOGNIZED', 'Federation is not supported yet: this is the name of another server');
    }
    const { body, rest } = await received(request);
    try {
      const response = await server.handle({ method: request.method, path, headers: [...request.headers].flat(), ownPage, body, rest });
      return toResponse(response);
    } finally {
      rest?.cancel();
    }
  } catch (error) {
    if (error instanceof InstanceCrashed) return problem(500, 'M_UNKNOWN', 'Internal server error: the server was restarted');
    const { message, nextStep } = failureOf(error);
    return problem(503, 'M_UNKNOWN', `${message} ${nextStep}`);
  }
}

function toResponse({ status, headers, body }: EngineResponse): Response {
  const empty = status === 204 || status === 304;
  return new Response(empty ? null : body instanceof Uint8Array ? streamOfBytes(body) : body, { status, headers });
}

function problem(status: number, errcode: string, error: string): Response {
  return Response.json({ errcode, error }, { status, headers: { 'access-control-allow-origin': '*' } });
}
