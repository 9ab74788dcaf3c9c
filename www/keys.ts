// The keys of encrypted messages: the recovery key, the backup on the server, and what would be
// lost with this session. https://spec.matrix.org/latest/client-server-api/#server-side-key-backups
// and #secrets

import { ClientPrefix, type MatrixClient, Method } from 'matrix-js-sdk';
import { type CryptoApi, type CryptoCallbacks } from 'matrix-js-sdk/lib/crypto-api';
import { decodeRecoveryKey } from 'matrix-js-sdk/lib/crypto-api/recovery-key';

/** The recovery key that was typed or made last: secret storage asks for it in quick succession. */
export class HeldKey {
  #key: Uint8Array<ArrayBuffer> | undefined;

  readonly callbacks: CryptoCallbacks = {
    getSecretStorageKey: ({ keys }) => {
      const [keyId] = Object.keys(keys);
      return Promise.resolve(keyId !== undefined && this.#key ? [keyId, this.#key] : null);
    },
    cacheSecretStorageKey: (_keyId, _info, key) => { this.hold(key); },
  };

  hold(key: Uint8Array<ArrayBuffer>): void {
    this.#key = key;
  }
}

/**
 * `none`: the account has no recovery key. `locked`: it has one, which was not entered here, so
 * nothing of this session is in the backup. `ready`: what this session learns goes into the backup.
 */
export type KeyState = 'none' | 'locked' | 'ready';

/** How it is with the account's recovery key. */
export async function keyState(client: MatrixClient): Promise<KeyState> {
  if (!(await client.secretStorage.hasKey())) return 'none';
  const crypto = cryptoOf(client);
  await crypto.checkKeyBackupAndEnable();
  const active = await crypto.getActiveSessionBackupVersion();
  return active !== null && (await crypto.getSessionBackupPrivateKey()) !== null ? 'ready' : 'locked';
}

/**
 * Makes a recovery key, and the key backup that it opens. Where there was one before, that one
 * stops working; the backup stays, and the new key opens it.
 */
export async function makeRecoveryKey(client: MatrixClient): Promise<string> {
  const crypto = cryptoOf(client);
  const first = (await keyState(client)) !== 'ready';
  const created = await crypto.createRecoveryKeyFromPassphrase();
  await crypto.bootstrapSecretStorage({ createSecretStorageKey: () => Promise.resolve(created), setupNewSecretStorage: true, setupNewKeyBackup: first });
  return created.encodedPrivateKey ?? '';
}

/**
 * Starts anew without the recovery key that was lost: another identity, an empty backup, and the
 * key that opens it.
 */
export async function replaceLostKey(client: MatrixClient, password: string): Promise<string> {
  const crypto = cryptoOf(client);
  const user = client.getSafeUserId();
  await crypto.resetEncryption(async (makeRequest) => {
    await makeRequest({ type: 'm.login.password', identifier: { type: 'm.id.user', user }, password });
  });
  const created = await crypto.createRecoveryKeyFromPassphrase();
  await crypto.bootstrapSecretStorage({ createSecretStorageKey: () => Promise.resolve(created), setupNewSecretStorage: true });
  return created.encodedPrivateKey ?? '';
}

/** Signs this device and fetches the old keys with a recovery key; gives how many came. */
export async function recover(client: MatrixClient, held: HeldKey, encoded: string): Promise<number> {
  const crypto = cryptoOf(client);
  const key = decoded(encoded);
  const stored = await client.secretStorage.getKey();
  if (!stored) throw new Error('This account has no recovery key yet.');
  if (!(await client.secretStorage.checkKey(key, stored[1]))) throw new Error('This is not the recovery key of this account. Perhaps a newer one has replaced it.');
  held.hold(key);
  // The private keys are only taken when the public ones are known.
  await crypto.userHasCrossSigningKeys(undefined, true);
  if (await client.secretStorage.isStored('m.cross_signing.master')) await crypto.bootstrapCrossSigning({});
  await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
  await crypto.checkKeyBackupAndEnable();
  return (await crypto.restoreKeyBackup()).imported;
}

function decoded(encoded: string): Uint8Array<ArrayBuffer> {
  try {
    return decodeRecoveryKey(encoded);
  } catch {
    throw new Error('Invalid recovery key: it must have twelve groups of four letters and digits. Check for typos.');
  }
}

/** How far the backup is behind this session. */
export interface Unsaved {
  /** Keys that the backup does not have. */
  missing: number;
  /** The rooms whose messages they open. */
  rooms: string[];
}

/** Which keys of this session are in no backup that it could trust. */
export async function unsavedKeys(client: MatrixClient): Promise<Unsaved> {
  const crypto = cryptoOf(client);
  const version = await crypto.getActiveSessionBackupVersion();
  const saved = version === null ? {} : (await get<BackedUp>(client, '/room_keys/keys', { version })).rooms;
  const missing = (await crypto.exportRoomKeys()).filter(({ room_id: roomId, session_id: sessionId }) => saved[roomId]?.sessions[sessionId] === undefined);
  return { missing: missing.length, rooms: [...new Set(missing.map(({ room_id: roomId }) => roomId))] };
}

interface BackedUp {
  rooms: Record<string, { sessions: Record<string, unknown> } | undefined>;
}

/** How long the upload may make no progress. */
const stallTimeout = 30_000;

/**
 * Resolves when every key of this session is in the backup; `tell` hears how many are still
 * missing.
 *
 * @throws when the upload makes no progress, or the backup is not this session's any more; not when
 * `signal` is aborted.
 */
export async function whenSaved(client: MatrixClient, tell: (missing: number) => void, signal: AbortSignal): Promise<void> {
  let before: { etag: string; missing: number } | undefined;
  let progressed = Date.now();
  while (!signal.aborted) {
    if ((await cryptoOf(client).getActiveSessionBackupVersion()) === null) throw new Error('The key backup has been replaced by another device. Enter its recovery key first.');
    const { etag } = await get<{ etag: string }>(client, '/room_keys/version');
    // All keys are compared only when there are others.
    if (before === undefined || before.etag !== etag) {
      const { missing } = await unsavedKeys(client);
      if (missing !== before?.missing) progressed = Date.now();
      before = { etag, missing };
      tell(missing);
      if (missing === 0) return;
    }
    if (Date.now() - progressed > stallTimeout) throw new Error('The keys could not be saved now.');
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

function get<T>(client: MatrixClient, path: string, query?: Record<string, string>): Promise<T> {
  return client.http.authedRequest<T>(Method.Get, path, query, undefined, { prefix: ClientPrefix.V3 });
}

function cryptoOf(client: MatrixClient): CryptoApi {
  const crypto = client.getCrypto();
  if (!crypto) throw new Error('Encryption is not available in this session.');
  return crypto;
}
