// An unmodified Matrix client in a page, as a test drives it: matrix-js-sdk with its Rust
// encryption. The server may be the page's own or any other.

import { ClientEvent, EventTimelineSet, MemoryStore, MsgType, SyncState, createClient } from 'matrix-js-sdk';
import { decodeRecoveryKey } from 'matrix-js-sdk/lib/crypto-api/recovery-key';

let client;
let recoveryKey;

/**
 * Ends when `look` gives something true; fails after `timeout` milliseconds with what it waited
 * for.
 */
async function until(what, look, timeout = 20_000) {
  const end = Date.now() + timeout;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

const bare = ({ baseUrl }) => createClient({ baseUrl, fetchFn: globalThis.server?.fetch });

/** Asked of the server itself: the client has copies of its own. */
const accountData = (n) => `/user/${encodeURIComponent(client.getUserId())}/account_data/org.example.${n}`;

async function digest(bytes) {
  return Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** A picture of nothing that repeats, so that it does not get small. */
async function noise(side) {
  const canvas = Object.assign(document.createElement('canvas'), { width: side, height: side });
  const context = canvas.getContext('2d');
  const picture = context.createImageData(side, side);
  for (let at = 0; at < picture.data.length; at += 65_536) crypto.getRandomValues(picture.data.subarray(at, at + 65_536));
  context.putImageData(picture, 0, 0);
  return new Promise((resolve) => { canvas.toBlob(resolve, 'image/png'); });
}

const tests = {
  /** Starts the homeserver of this page, where there is one to start. */
  async startServer() {
    const { start } = await import(/* a path of the site, not of this bundle */ `${location.origin}/index.js`);
    globalThis.server = await start();
    return globalThis.server.baseUrl;
  },

  /** What the server of this page says of itself. */
  status: () => globalThis.server.status(),

  /** Has the server keep `count` pieces of account data, each of so many bytes. */
  async store({ count, bytes }) {
    for (let n = 0; n < count; n += 1) await client.http.authedRequest('PUT', accountData(n), undefined, { text: String(n % 10).repeat(bytes) });
  },

  /** How many of those pieces the server still has as they were. */
  async stored({ count, bytes }) {
    const found = await Promise.all(Array.from({ length: count }, (_, n) => client.http.authedRequest('GET', accountData(n))));
    return found.filter((content, n) => content.text === String(n % 10).repeat(bytes)).length;
  },

  /** Uploads a square picture; gives its address, its bytes and their digest. */
  async upload({ side }) {
    const picture = await noise(side);
    const { content_uri: uri } = await client.uploadContent(picture, { type: 'image/png', name: 'noise.png' });
    return { uri, bytes: picture.size, digest: await digest(await picture.arrayBuffer()) };
  },

  /** What comes back for it, and the width at which it is shown. */
  async download({ uri }) {
    const url = client.mxcUrlToHttp(uri, undefined, undefined, undefined, false, true, true);
    const response = await globalThis.server.fetch(url, { headers: { authorization: `Bearer ${client.getAccessToken()}` } });
    const picture = await response.blob();
    const image = new Image();
    image.src = URL.createObjectURL(picture);
    await image.decode();
    return { width: image.naturalWidth, type: picture.type, bytes: picture.size, digest: await digest(await picture.arrayBuffer()) };
  },

  /** A new account; gives the session that `connect` takes. */
  async register({ baseUrl, user, password }) {
    const made = await bare({ baseUrl }).registerRequest({ username: user, password, auth: { type: 'm.login.dummy' } });
    return { baseUrl, userId: made.user_id, deviceId: made.device_id, accessToken: made.access_token };
  },

  /** Uploads so many bytes and downloads them again. */
  async uploadAndDownload({ bytes, ...session }) {
    const uploader = createClient({ ...session, fetchFn: globalThis.server?.fetch });
    const content = new Uint8Array(bytes).map((_, at) => at * 31 + (at >> 8));
    const { content_uri: uri } = await uploader.uploadContent(new Blob([content], { type: 'image/png' }), { name: 'picture.png' });
    const url = uploader.mxcUrlToHttp(uri, undefined, undefined, undefined, false, true, true);
    const response = await (globalThis.server?.fetch ?? fetch)(url, { headers: { authorization: `Bearer ${session.accessToken}` } });
    const found = new Uint8Array(await response.arrayBuffer());
    const { 'm.upload.size': limit } = await uploader.getMediaConfig(true);
    return { limit, same: found.length === bytes && found.every((byte, at) => byte === content[at]), type: response.headers.get('content-type') };
  },

  /** Another device of an account. */
  async logIn({ baseUrl, user, password }) {
    const made = await bare({ baseUrl }).loginRequest({ type: 'm.login.password', identifier: { type: 'm.id.user', user }, password });
    return { baseUrl, userId: made.user_id, deviceId: made.device_id, accessToken: made.access_token };
  },

  /** Starts encryption and sync; ends after the first sync. */
  async connect({ baseUrl, userId, deviceId, accessToken }) {
    client = createClient({
      baseUrl, userId, deviceId, accessToken,
      fetchFn: globalThis.server?.fetch,
      store: new MemoryStore({ localStorage }),
      timelineSupport: true,
      cryptoCallbacks: {
        getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], recoveryKey],
        cacheSecretStorageKey: (_id, _info, key) => { recoveryKey = key; },
      },
    });
    globalThis.client = client;
    await client.initRustCrypto({ cryptoDatabasePrefix: `${userId} ${deviceId}` });
    const prepared = new Promise((resolve) => client.on(ClientEvent.Sync, (state) => { if (state === SyncState.Prepared) resolve(); }));
    await client.startClient({ initialSyncLimit: 10 });
    await prepared;
  },

  /** Publishes cross-signing keys; gives whether this device is signed by them. */
  async crossSign({ password }) {
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning({
      authUploadDeviceSigningKeys: (makeRequest) => makeRequest({ type: 'm.login.password', identifier: { type: 'm.id.user', user: client.getUserId() }, password }),
    });
    const own = await until('the own device to be signed', async () => {
      const status = await crypto.getDeviceVerificationStatus(client.getUserId(), client.getDeviceId());
      return status?.signedByOwner && status;
    });
    return own.crossSigningVerified;
  },

  /** Secret storage and a key backup; gives the recovery key. */
  async backUp() {
    const crypto = client.getCrypto();
    const created = await crypto.createRecoveryKeyFromPassphrase();
    await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => created, setupNewSecretStorage: true, setupNewKeyBackup: true });
    await until('the key backup', async () => (await crypto.getActiveSessionBackupVersion()) !== null);
    return created.encodedPrivateKey;
  },

  /**
   * Waits until the server keeps so many keys in the backup; the client uploads them after a pause
   * of up to ten seconds.
   */
  async backedUp({ keys }) {
    await until(`${keys} keys in the backup`, async () => (await client.http.authedRequest('GET', '/room_keys/version')).count >= keys, 30_000);
  },

  /** What a new device does with a recovery key; gives how many keys came back. */
  async restore({ key }) {
    const crypto = client.getCrypto();
    recoveryKey = decodeRecoveryKey(key);
    await until('the own public keys', () => crypto.userHasCrossSigningKeys(undefined, true));
    await crypto.bootstrapCrossSigning({});
    await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    await crypto.checkKeyBackupAndEnable();
    return (await crypto.restoreKeyBackup()).imported;
  },

  async createRoom({ name, invite }) {
    const { room_id: roomId } = await client.createRoom({
      name, invite, preset: 'private_chat', visibility: 'private',
      initial_state: [{ type: 'm.room.encryption', state_key: '', content: { algorithm: 'm.megolm.v1.aes-sha2' } }],
    });
    await until('the room', () => client.getRoom(roomId)?.hasEncryptionStateEvent());
    return roomId;
  },

  /** Invites; gives what the server answered when it refused. */
  async invite({ roomId, userId }) {
    try {
      await client.invite(roomId, userId);
      return undefined;
    } catch ({ httpStatus, errcode, data }) {
      return { status: httpStatus, errcode, error: data?.error };
    }
  },

  async invited({ roomId }) {
    await until('the invitation', () => client.getRoom(roomId)?.getMyMembership() === 'invite');
  },

  async join({ roomId }) {
    await client.joinRoom(roomId);
    await until('the room', () => client.getRoom(roomId)?.getMyMembership() === 'join');
  },

  async joined({ roomId, userId }) {
    await until(`${userId} to join`, () => client.getRoom(roomId)?.getMember(userId)?.membership === 'join');
  },

  /** Ends when `userId` has that membership, as far as this client knows. */
  async isMember({ roomId, userId, membership }) {
    await until(`${userId} to have the membership ${membership}`, () => client.getRoom(roomId)?.getMember(userId)?.membership === membership);
  },

  async kick({ roomId, userId, reason }) {
    await client.kick(roomId, userId, reason);
  },

  async leave({ roomId }) {
    await client.leave(roomId);
    await until('the end of the membership', () => client.getRoom(roomId)?.getMyMembership() === 'leave');
  },

  /** The events around one, by id, as a client gets them that jumps to a link. */
  async around({ roomId, eventId }) {
    const jumped = new EventTimelineSet(client.getRoom(roomId), { timelineSupport: true }, client);
    const timeline = await client.getEventTimeline(jumped, eventId);
    return timeline.getEvents().map((event) => event.getId());
  },

  async send({ roomId, body }) {
    return (await client.sendMessage(roomId, { msgtype: MsgType.Text, body })).event_id;
  },

  /** Sends when the client knows so many devices of a user. */
  async sendOnceKnown({ roomId, body, userId, devices }) {
    await until(`${devices} devices of ${userId}`, async () => (await client.getCrypto().getUserDeviceInfo([userId])).get(userId)?.size === devices);
    return tests.send({ roomId, body });
  },

  async edit({ roomId, eventId, body }) {
    const content = { msgtype: MsgType.Text, body };
    return (await client.sendMessage(roomId, { ...content, body: `* ${body}`, 'm.new_content': content, 'm.relates_to': { rel_type: 'm.replace', event_id: eventId } })).event_id;
  },

  async react({ roomId, eventId, key }) {
    return (await client.sendEvent(roomId, 'm.reaction', { 'm.relates_to': { rel_type: 'm.annotation', event_id: eventId, key } })).event_id;
  },

  async redact({ roomId, eventId }) {
    return (await client.redactEvent(roomId, eventId)).event_id;
  },

  /** The text of an event, decrypted, once it is `body`. */
  async reads({ roomId, eventId, body }) {
    const event = await until(`${eventId} to say "${body}"`, () => {
      const known = client.getRoom(roomId)?.findEventById(eventId);
      return known?.getContent().body === body && known;
    });
    return { encrypted: event.isEncrypted(), sender: event.getSender() };
  },

  async reacted({ roomId, eventId, key }) {
    await until('the reaction', () =>
      client.getRoom(roomId).relations.getChildEventsForEvent(eventId, 'm.annotation', 'm.reaction')?.getSortedAnnotationsByKey()?.some(([each, events]) => each === key && events.size === 1),
    );
  },

  async redacted({ roomId, eventId }) {
    await until('the redaction', () => client.getRoom(roomId).findEventById(eventId)?.isRedacted());
  },

  async type({ roomId }) {
    await client.sendTyping(roomId, true, 10_000);
  },

  async types({ roomId, userId }) {
    await until(`${userId} to type`, () => client.getRoom(roomId).getMember(userId)?.typing);
  },

  async read({ roomId, eventId }) {
    await client.sendReadReceipt(client.getRoom(roomId).findEventById(eventId));
  },

  async hasRead({ roomId, eventId, userId }) {
    await until(`${userId} to read`, () => client.getRoom(roomId).hasUserReadEvent(userId, eventId));
  },

  /**
   * Back to the room's start; gives every message with text, oldest first, and the type of the very
   * first event.
   */
  async history({ roomId }) {
    const timeline = client.getRoom(roomId).getLiveTimeline();
    while (await client.paginateEventTimeline(timeline, { backwards: true, limit: 20 }));
    const events = timeline.getEvents();
    await until('the history to be decrypted', () => events.every((event) => !event.isBeingDecrypted() && !event.shouldAttemptDecryption()));
    return {
      first: events[0].getType(),
      ids: events.map((event) => event.getId()),
      bodies: events.filter((event) => event.getType() === 'm.room.message' && !event.isRelation('m.replace')).map((event) => event.getContent().body ?? null),
      unreadable: events.filter((event) => event.isDecryptionFailure()).length,
    };
  },

  /** Logs out; gives the errcode that the token is answered with from then on. */
  async logOut() {
    const { baseUrl } = client;
    const token = client.getAccessToken();
    await client.logout(true);
    const answer = await (globalThis.server?.fetch ?? fetch)(`${baseUrl}/_matrix/client/v3/account/whoami`, { headers: { authorization: `Bearer ${token}` } });
    return (await answer.json()).errcode;
  },
};

globalThis.matrix = tests;
