// Whether requests of the page reach the server. The site's content security policy may forbid
// it, and the site's own worker may answer first.

import { EphapseError } from './api.ts';

/**
 * Why requests of this page do not reach the server at `baseUrl`; `undefined` where they do, or
 * where the server itself has to say what is wrong.
 */
export async function reachabilityError(baseUrl: string): Promise<EphapseError | undefined> {
  const url = `${baseUrl}/_matrix/client/versions`;
  const forbidden: string[] = [];
  const onViolation = ({ effectiveDirective, disposition }: SecurityPolicyViolationEvent): void => {
    if (effectiveDirective === 'connect-src' && disposition === 'enforce') forbidden.push(effectiveDirective);
  };
  document.addEventListener('securitypolicyviolation', onViolation);
  try {
    const response = await fetch(url);
    return isOfServer(await response.json().catch(() => undefined)) ? undefined : answeredByOther(url, response);
  } catch {
    // The event may come after the answer.
    await new Promise((resolve) => setTimeout(resolve, 50));
    return forbidden.length > 0 ? connectionsForbidden() : undefined;
  } finally {
    document.removeEventListener('securitypolicyviolation', onViolation);
  }
}

/** The page may not connect to its own site. */
function connectionsForbidden(): EphapseError {
  return new EphapseError('blocked-by-policy', 'The site\'s content security policy forbids requests to the server.', 'Add connect-src \'self\' to the policy.');
}

function isOfServer(answer: unknown): boolean {
  return typeof answer === 'object' && answer !== null && ('versions' in answer || 'errcode' in answer);
}

function answeredByOther(url: string, { status, headers }: Response): EphapseError {
  return new EphapseError(
    'foreign-worker',
    `Another service worker or server answers ${url} (status ${status}, ${headers.get('content-type') ?? 'no content type'}).`,
    'Make importScripts(\'/ephapse-worker.js\') the first line of the site\'s service worker: its own fetch listener must come after.',
  );
}
