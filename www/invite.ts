// Who can be invited: what somebody typed becomes user ids, or a sentence that says why it cannot.

import { type MatrixClient } from 'matrix-js-sdk';
import { shortName } from './accounts.ts';

/** The full user ids of what somebody typed, separated by spaces or commas. */
export function userIds(client: MatrixClient, typed: string): string[] {
  const server = client.getDomain() ?? '';
  const names = typed.split(/[\s,]+/).filter(Boolean);
  return [...new Set(names.map((name) => (name.startsWith('@') ? name : `@${name}`)).map((name) => (name.includes(':') ? name : `${name}:${server}`)))];
}

/**
 * Refuses users whom nobody could reach: of other servers, and without an account here.
 *
 * @throws an error whose message is for people.
 */
export async function mustExist(client: MatrixClient, users: string[]): Promise<void> {
  const local = `:${client.getDomain() ?? ''}`;
  const remote = users.filter((user) => !user.endsWith(local));
  if (remote.length > 0) throw new Error(`${listed(remote)} cannot be invited: servers in browsers cannot reach each other or other servers yet.`);
  const exist = await Promise.all(users.map((user) => exists(client, user)));
  const unknown = users.filter((_, index) => exist[index] === false).map(shortName);
  if (unknown.length > 0) throw new Error(`There is no account called ${listed(unknown, 'or')} on this homeserver. Check for typos.`);
}

async function exists(client: MatrixClient, user: string): Promise<boolean> {
  try {
    await client.getProfileInfo(user);
    return true;
  } catch (error) {
    if (typeof error === 'object' && error !== null && 'httpStatus' in error && (error.httpStatus === 404 || error.httpStatus === 400)) return false;
    throw error;
  }
}

/** "a", "a and b", "a, b and c". */
export function listed(names: string[], and = 'and'): string {
  return names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} ${and} ${names.at(-1) ?? ''}`;
}
