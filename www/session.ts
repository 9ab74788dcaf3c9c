// A logged-in account: its client, its encryption, its sync.

import { type Server } from 'ephapse';
import { ClientEvent, type MatrixClient, MemoryStore, SyncState, createClient } from 'matrix-js-sdk';
import { decodeRecoveryKey } from 'matrix-js-sdk/lib/crypto-api/recovery-key';
import { type Account, shortName } from './accounts.ts';

/** The client of one account, and what the page does with its keys. */
export interface Session {
  account: Account;
  client: MatrixClient;
  /** Whether encrypted rooms can be used. */
  encryption: boolean;
  /** Lets another tab open the account. */
  close: () => void;
}

// The key that was typed or made last: secret storage asks for it in quick succession.
let recoveryKey: Uint8Array<ArrayBuffer> | undefined;

/** Starts the client and resolves after its first sync. `password` lets a new account publish its cross-signing keys. */
export async function openSession(server: Server, account: Account, password?: string): Promise<Session> {
  const release = await ownTab(account);
  try {
    return await open(server, account, password, release);
  } catch (error) {
    release();
    throw error;
  }
}

async function open(server: Server, account: Account, password: string | undefined, release: () => void): Promise<Session> {
  const client = createClient({
    baseUrl: server.baseUrl,
    fetchFn: server.fetch,
    userId: account.userId,
    deviceId: account.deviceId,
    accessToken: account.accessToken,
    store: new MemoryStore({ localStorage }),
    timelineSupport: true,
    cryptoCallbacks: {
      getSecretStorageKey: ({ keys }) => {
        const [keyId] = Object.keys(keys);
        return Promise.resolve(keyId !== undefined && recoveryKey ? [keyId, recoveryKey] : null);
      },
      cacheSecretStorageKey: (_keyId, _info, key) => { recoveryKey = key; },
    },
  });
  // A token that the server does not know any more ends the session before anything is shown.
  await client.whoami();
  let encryption = true;
  try {
    await client.initRustCrypto({ cryptoDatabasePrefix: `ephapse demo ${account.userId} ${account.deviceId}` });
  } catch (error) {
    encryption = false;
    console.error('Encryption is not available', error);
  }
  await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true });
  await synced(client);
  if (encryption && password !== undefined) await crossSign(client, account, password);
  return { account, client, encryption, close: () => { client.stopClient(); release(); } };
}

/** Makes a recovery key and a key backup; the key is what a later device needs to read old messages. */
export async function makeRecoveryKey(client: MatrixClient): Promise<string> {
  const crypto = client.getCrypto();
  if (!crypto) throw new Error('Encryption is not available in this session.');
  const created = await crypto.createRecoveryKeyFromPassphrase();
  await crypto.bootstrapSecretStorage({ createSecretStorageKey: () => Promise.resolve(created), setupNewSecretStorage: true, setupNewKeyBackup: true });
  return created.encodedPrivateKey ?? '';
}

/** Signs this device and fetches the old keys with a recovery key. */
export async function recover(client: MatrixClient, encoded: string): Promise<number> {
  const crypto = client.getCrypto();
  if (!crypto) throw new Error('Encryption is not available in this session.');
  recoveryKey = decodeRecoveryKey(encoded);
  // The private keys are only taken when the public ones are known.
  await crypto.userHasCrossSigningKeys(undefined, true);
  await crypto.bootstrapCrossSigning({});
  await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
  await crypto.checkKeyBackupAndEnable();
  return (await crypto.restoreKeyBackup()).imported;
}

async function crossSign(client: MatrixClient, account: Account, password: string): Promise<void> {
  await client.getCrypto()?.bootstrapCrossSigning({
    authUploadDeviceSigningKeys: async (makeRequest) => {
      await makeRequest({ type: 'm.login.password', identifier: { type: 'm.id.user', user: account.userId }, password });
    },
  });
}

function synced(client: MatrixClient): Promise<void> {
  return new Promise((resolve) => {
    const look = (state: SyncState): void => {
      if (state !== SyncState.Prepared && state !== SyncState.Syncing) return;
      client.off(ClientEvent.Sync, look);
      resolve();
    };
    client.on(ClientEvent.Sync, look);
  });
}

/** The account is open in another tab of this browser. */
export class AccountInUse extends Error {
  constructor({ userId }: Account) {
    super(`${shortName(userId)} is open in another tab. Use that one, or another account here.`);
  }
}

/** The keys of a device may be used by one tab at a time: the lock is held until the returned function is called. */
async function ownTab(account: Account): Promise<() => void> {
  return new Promise((resolve, reject) => {
    void navigator.locks.request(`ephapse demo ${account.userId}`, { ifAvailable: true }, (lock) => {
      if (!lock) {
        reject(new AccountInUse(account));
        return undefined;
      }
      return new Promise<void>((release) => { resolve(release); });
    });
  });
}
