// The accounts that were used in this browser, and which one this tab uses. Access tokens lie in the site's local storage, beside the homeserver itself.

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

/** Forgets an account after logging out. */
export function dropAccount(account: Account): void {
  sessionStorage.removeItem(key);
  save(accounts().filter(({ userId }) => userId !== account.userId));
}

function save(all: Account[]): void {
  localStorage.setItem(key, JSON.stringify(all));
}

/** The part of a user id that people say. */
export function shortName(userId: string): string {
  return userId.replace(/^@/, '').split(':', 1)[0] ?? userId;
}
