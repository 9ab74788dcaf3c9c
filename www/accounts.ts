// The accounts that were used in this browser, and which one this tab uses. Access tokens lie in
// the site's local storage, beside the homeserver itself.

/** What logging in gave. */
export interface Account {
  userId: string;
  deviceId: string;
  accessToken: string;
}

const key = 'ephapse demo accounts';

/** Every account, the last used first. */
export function accounts(): Account[] {
  try {
    return JSON.parse(localStorage.getItem(key) ?? '[]') as Account[];
  } catch {
    return [];
  }
}

/** The account of this tab, or the last used one. */
export function currentAccount(): Account | undefined {
  const own = sessionStorage.getItem(key);
  const all = accounts();
  if (own === '') return undefined;
  return all.find(({ userId }) => userId === own) ?? all[0];
}

/** Makes `account` the one of this tab; `undefined`: none. */
export function useAccount(account: Account | undefined): void {
  sessionStorage.setItem(key, account?.userId ?? '');
  if (account) save([account, ...accounts().filter(({ userId }) => userId !== account.userId)]);
}

/** Forgets an account after logging out; this tab has none then, whatever others there are. */
export function dropAccount(account: Account): void {
  sessionStorage.setItem(key, '');
  save(accounts().filter(({ userId }) => userId !== account.userId));
}

function save(all: Account[]): void {
  localStorage.setItem(key, JSON.stringify(all));
}

/** The part of a user id that people say. */
export function shortName(userId: string): string {
  return userId.replace(/^@/, '').split(':', 1)[0] ?? userId;
}

const lockPrefix = 'ephapse demo ';

/** The account is open in another tab of this browser. */
export class AccountInUse extends Error {
  constructor(userId: string) {
    super(`${shortName(userId)} is open in another tab. Use that one, or another account here.`);
  }
}

/**
 * Makes this tab the only one that uses an account, since the keys of a device may be used by one
 * tab at a time; until the returned function is called.
 *
 * @throws {AccountInUse}
 */
export function ownAccount(userId: string): Promise<() => void> {
  // After a reload the browser may still be about to release what the page held before.
  const reloaded = sessionStorage.getItem(key) === userId;
  const options = reloaded ? { signal: AbortSignal.timeout(1_500) } : { ifAvailable: true };
  return new Promise((resolve, reject) => {
    const inUse = (): void => { reject(new AccountInUse(userId)); };
    navigator.locks.request(lockPrefix + userId, options, (lock) => {
      if (!lock) {
        inUse();
        return undefined;
      }
      return new Promise<void>((release) => { resolve(release); });
    }).catch(inUse);
  });
}

/** The users whose accounts are open in a tab. */
export async function accountsInUse(): Promise<Set<string>> {
  const { held = [] } = await navigator.locks.query();
  return new Set(held.flatMap(({ name }) => (name?.startsWith(lockPrefix) === true ? [name.slice(lockPrefix.length)] : [])));
}
