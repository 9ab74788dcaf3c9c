// A logged-in account: its client, its encryption, its sync.

import { type Server } from 'ephapse';
import { ClientEvent, type MatrixClient, MemoryStore, SyncState, createClient } from 'matrix-js-sdk';
import { type Account, dropAccount, ownAccount } from './accounts.ts';
import { forgetDrafts } from './drafts.ts';
import { HeldKey } from './keys.ts';

/** The client of one account. */
export interface Session {
  account: Account;
  client: MatrixClient;
  /** Whether encrypted rooms can be used. */
  encryption: boolean;
  /** Where a recovery key is put that was typed. */
  held: HeldKey;
  /** Lets another tab open the account. */
  close: () => void;
  /**
   * Ends the session on the server, and deletes what this browser keeps of it: the keys above all.
   */
  logOut: () => Promise<void>;
}

/**
 * Fetches and compiles the encryption's module, and tells it that no other server is to be spared.
 */
export function prepareEncryption(): void {
  prepared ??= (async () => {
    const [{ initAsync }, { RustBackupManager }] = await Promise.all([import('@matrix-org/matrix-sdk-crypto-wasm'), import('matrix-js-sdk/lib/rust-crypto/backup')]);
    // Many clients of one server wait for up to ten seconds, so as not to upload at the same time.
    // Here the server is in this browser.
    (RustBackupManager as { maxBackupLoopStartDelayMillis: number }).maxBackupLoopStartDelayMillis = 300;
    await initAsync();
  })();
  // A session says what is wrong with it.
  prepared.catch(() => { prepared = undefined; });
}

let prepared: Promise<void> | undefined;

/**
 * Starts the client and resolves after its first sync. `password` lets an account without a
 * recovery key publish cross-signing keys.
 */
export async function openSession(server: Server, account: Account, password?: string): Promise<Session> {
  const release = await ownAccount(account.userId);
  try {
    return await open(server, account, password, release);
  } catch (error) {
    release();
    throw error;
  }
}

async function open(server: Server, account: Account, password: string | undefined, release: () => void): Promise<Session> {
  const held = new HeldKey();
  const client = createClient({
    baseUrl: server.baseUrl,
    fetchFn: server.fetch,
    userId: account.userId,
    deviceId: account.deviceId,
    accessToken: account.accessToken,
    store: new MemoryStore({ localStorage }),
    timelineSupport: true,
    // The server has no calls to ask TURN servers for.
    disableVoip: true,
    cryptoCallbacks: held.callbacks,
  });
  // A token that the server does not know any more ends the session before anything is shown.
  await client.whoami();
  const cryptoDatabasePrefix = `ephapse demo ${account.userId} ${account.deviceId}`;
  let encryption = true;
  try {
    await client.initRustCrypto({ cryptoDatabasePrefix });
  } catch (error) {
    encryption = false;
    console.error('Encryption is not available', error);
  }
  await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true });
  await synced(client);
  if (encryption && password !== undefined && !(await client.secretStorage.hasKey())) await crossSign(client, account, password);
  const close = (): void => {
    client.stopClient();
    release();
  };
  const logOut = async (): Promise<void> => {
    await client.logout(true);
    await client.clearStores({ cryptoDatabasePrefix });
    forgetDrafts(account.userId);
    close();
    dropAccount(account);
  };
  return { account, client, encryption, held, close, logOut };
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
