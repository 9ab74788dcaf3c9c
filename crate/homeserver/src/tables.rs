//! Every table: its prefix, key and value. The one place that says what is on disk.
//!
//! Rooms and users are interned to small integers (`RoomNid`, `UserNid`), so that keys are short
//! and neighbours in time are neighbours on disk. A prefix is never used again for another meaning;
//! [`FORMAT`] grows when the meaning of what is stored changes.

mod keys;
mod values;

pub use keys::*;
pub use values::*;

use crate::position::Position;
use ephapse_store::Table;
use ephapse_streams::Prefixes;
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};

/// A room's number on this server.
pub type RoomNid = u32;
/// A user's number on this server.
pub type UserNid = u32;
/// A file: `(server name, media id, variant)`; the variant of what was uploaded is empty.
pub type FileKey = (OwnedServerName, String, String);

/// The format of what the tables hold.
pub const FORMAT: u32 = 1;

/// The format the tables were written in.
pub const STORED_FORMAT: Table<(), u32> = Table::new(0x00, "format");
/// The node's key, name and instance.
pub const IDENTITY: Table<(), StoredIdentity> = Table::new(0x01, "identity");
/// The newest position given; in every batch that gives one.
pub const NEWEST_POSITION: Table<(), Position> = Table::new(0x02, "newest position");
/// What changed at a position: incremental sync reads from here. Up to [`CHANGES_FLOOR`] only what
/// outlives the list.
pub const CHANGES: Table<Position, Change> = Table::new(0x03, "changes");
/// Behind which position every change is listed.
pub const CHANGES_FLOOR: Table<(), Position> = Table::new(0x04, "changes floor");
/// Where the changes are that outlive the list: `(kind, user or room, other user)`.
pub const RETAINED_CHANGES: Table<(u8, u32, u32), Position> = Table::new(0x05, "retained changes");
/// Bytes that an uploaded file may have, where the site that the server lives in has said so.
pub const MAX_UPLOAD: Table<(), u64> = Table::new(0x06, "largest upload");

/// Room ids to numbers.
pub const ROOM_NIDS: Table<OwnedRoomId, RoomNid> = Table::new(0x10, "room numbers");
/// Rooms by number.
pub const ROOMS: Table<RoomNid, Room> = Table::new(0x11, "rooms");
/// User ids to numbers.
pub const USER_NIDS: Table<OwnedUserId, UserNid> = Table::new(0x12, "user numbers");
/// Users by number.
pub const USERS: Table<UserNid, OwnedUserId> = Table::new(0x13, "users");

/// Extremities, state, newest positions and counts of a room: what a send reads and writes.
pub const ROOM_HEADS: Table<RoomNid, RoomHead> = Table::new(0x20, "room heads");
/// Events in the order of their arrival.
pub const EVENTS: Table<(RoomNid, Position), EventRecord> = Table::new(0x21, "events");
/// Where an event is.
pub const EVENT_IDS: Table<OwnedEventId, (RoomNid, Position)> = Table::new(0x22, "event ids");
/// The nodes of the rooms' state trees, by the hash of their content.
pub const STATE_NODES: Table<(RoomNid, [u8; 16]), RawBytes> = Table::new(0x23, "state nodes");
/// Children of an event, by the parent's id: `(room, parent, child)`.
pub const RELATIONS: Table<(RoomNid, OwnedEventId, Position), Relation> = Table::new(0x24, "relations");
/// Events that relate to an event through others, by the id of the event at the other end: `(room,
/// event, descendant)`.
pub const INDIRECT_RELATIONS: Table<(RoomNid, OwnedEventId, Position), IndirectRelation> = Table::new(0x2d, "indirect relations");
/// The newest annotation of each kind: `(room, parent, fingerprint of sender, type and key)`.
pub const ANNOTATIONS: Table<(RoomNid, OwnedEventId, [u8; 16]), Position> = Table::new(0x2e, "annotations");
/// Redactions of events that are not here: `(room, event, sender)`, the newest of each sender.
pub const WAITING_REDACTIONS: Table<(RoomNid, OwnedEventId, UserNid), Position> = Table::new(0x2f, "waiting redactions");
/// State events by the events that allowed them: `(room, auth event, state event)`.
pub const AUTH_EDGES: Table<(RoomNid, Position, Position), ()> = Table::new(0x2b, "auth edges");
/// A user's rooms.
pub const MEMBERSHIPS: Table<(UserNid, RoomNid), Membership> = Table::new(0x25, "memberships");
/// A room's members in its current state, by membership (`MembershipKind as u8`).
pub const MEMBERS: Table<(RoomNid, u8, UserNid), Position> = Table::new(0x26, "members");
/// Other servers that have members who have joined a room, and how many.
pub const ROOM_SERVERS: Table<(RoomNid, OwnedServerName), u32> = Table::new(0x31, "servers in a room");
/// What users of this server were told of a room that it was not in, beside their invitation or
/// knock: a JSON array of stripped state events.
pub const STRIPPED_STATES: Table<(RoomNid, UserNid), Json> = Table::new(0x32, "stripped states");
/// Aliases of this server.
pub const ALIASES: Table<OwnedRoomAliasId, Alias> = Table::new(0x27, "aliases");
/// A room's aliases on this server.
pub const ROOM_ALIASES: Table<(RoomNid, OwnedRoomAliasId), ()> = Table::new(0x28, "room aliases");
/// How far each user has read, for each kind and thread.
pub const RECEIPTS: Table<(RoomNid, UserNid, ReceiptKind), StoredReceipt> = Table::new(0x29, "receipts");
/// Rooms that their members show in the directory.
pub const PUBLISHED_ROOMS: Table<RoomNid, ()> = Table::new(0x2a, "published rooms");

/// Rooms that may be deleted (`false`), or are being deleted and known to nobody any more (`true`).
pub const ROOMS_TO_DELETE: Table<RoomNid, bool> = Table::new(0x2c, "rooms to delete");

/// Rooms that may have stopped to let guests in, and where that was: those who are in them leave.
pub const GUESTS_TO_LEAVE: Table<RoomNid, Position> = Table::new(0x30, "rooms that guests may have to leave");

/// Accounts of this server.
pub const ACCOUNTS: Table<UserNid, Account> = Table::new(0x40, "accounts");
/// Accounts that are guests'.
pub const GUESTS: Table<UserNid, ()> = Table::new(0x4e, "guests");
/// Users whose events are erased.
pub const ERASED: Table<UserNid, ()> = Table::new(0x4d, "erased users");
/// Devices, with their display data.
pub const DEVICES: Table<(UserNid, OwnedDeviceId), Device> = Table::new(0x41, "devices");
/// Sessions by the SHA-256 of their access token.
pub const ACCESS_TOKENS: Table<[u8; 32], Session> = Table::new(0x42, "access tokens");
/// Profile fields of local users.
pub const PROFILES: Table<(UserNid, String), Json> = Table::new(0x43, "profiles");
/// Account data: `(user, room or 0, type)`.
pub const ACCOUNT_DATA: Table<(UserNid, RoomNid, String), AccountData> = Table::new(0x44, "account data");
/// Who has account data of a room, whether or not they were ever in it.
pub const ROOM_ACCOUNT_DATA: Table<(RoomNid, UserNid), ()> = Table::new(0x4c, "users with account data of a room");
/// Uploaded filters.
pub const FILTERS: Table<(UserNid, String), Json> = Table::new(0x45, "filters");
/// Requests that were answered, by user, device, method and path with its transaction id.
pub const ANSWERED_REQUESTS: Table<(UserNid, OwnedDeviceId, String), AnsweredRequest> = Table::new(0x46, "answered requests");
/// When requests were answered, so that old ones can be dropped: `(time in ms, user, device,
/// request)`.
pub const ANSWERED_REQUESTS_BY_TIME: Table<(u64, UserNid, OwnedDeviceId, String), ()> = Table::new(0x47, "answered requests by time");
/// User-interactive sessions under way, by their id.
pub const INTERACTIVE_SESSIONS: Table<String, InteractiveSession> = Table::new(0x48, "user-interactive sessions");
/// What was registered through a user-interactive session, for as long as there is one.
pub const REGISTERED: Table<String, Registered> = Table::new(0x4f, "registered by session");
/// What was said so far in user-interactive sessions that register somebody.
pub const PENDING_REGISTRATIONS: Table<String, PendingRegistration> = Table::new(0x5f, "pending registrations");

/// Who is not offline, as far as others were told.
pub const PRESENT: Table<UserNid, StoredPresence> = Table::new(0x49, "present users");
/// When users were last active, in ms, as of the last change of their presence.
pub const LAST_ACTIVE: Table<UserNid, u64> = Table::new(0x4a, "last active times");
/// What users say beside their presence.
pub const STATUS_MESSAGES: Table<UserNid, String> = Table::new(0x4b, "status messages");

/// Durable streams.
pub const STREAMS: Prefixes = Prefixes { heads: 0x60, entries: 0x61, dead_letters: 0x62, totals: 0x63 };
/// Identity keys of devices, as uploaded.
pub const DEVICE_KEYS: Table<(UserNid, OwnedDeviceId), Json> = Table::new(0x65, "device keys");
/// One-time keys that nobody has claimed, in the order of their upload: `(user, device, algorithm,
/// number)`.
pub const ONE_TIME_KEYS: Table<(UserNid, OwnedDeviceId, String, u64), OneTimeKey> = Table::new(0x66, "one-time keys");
/// Which one-time keys nobody has claimed, by `algorithm:id`.
pub const ONE_TIME_KEY_IDS: Table<(UserNid, OwnedDeviceId, String), KnownOneTimeKey> = Table::new(0x67, "one-time key ids");
/// Marks of the one-time keys of a device that were claimed, by their first byte.
pub const CLAIMED_KEYS: Table<(UserNid, OwnedDeviceId, u8), RawBytes> = Table::new(0x6e, "claimed keys");
/// Fallback keys, by algorithm.
pub const FALLBACK_KEYS: Table<(UserNid, OwnedDeviceId, String), FallbackKey> = Table::new(0x68, "fallback keys");
/// How many one-time keys a device has, and which fallback keys are unused.
pub const KEY_COUNTS: Table<(UserNid, OwnedDeviceId), KeyCounts> = Table::new(0x69, "key counts");
/// Cross-signing keys, by use (`CrossSigningUse as u8`).
pub const CROSS_SIGNING_KEYS: Table<(UserNid, u8), Json> = Table::new(0x6a, "cross-signing keys");
/// Signatures uploaded later than what they sign: `(whose key, signer, key, signing key)`.
pub const KEY_SIGNATURES: Table<(UserNid, UserNid, String, String), String> = Table::new(0x6b, "key signatures");
/// Versions of key backups; deleted ones too, so that no version comes twice.
pub const KEY_BACKUPS: Table<(UserNid, u64), KeyBackup> = Table::new(0x6c, "key backups");
/// Keys in backups: `(user, version, room, session)`.
pub const BACKED_UP_KEYS: Table<(UserNid, u64, OwnedRoomId, String), BackedUpKey> = Table::new(0x6d, "backed-up keys");

/// Signing keys of other servers, by their ids.
pub const SERVER_KEYS: Table<(OwnedServerName, String), ServerKey> = Table::new(0x50, "server keys");
/// What other servers say of their signing keys.
pub const SERVER_KEY_DOCUMENTS: Table<OwnedServerName, ServerKeyDocument> = Table::new(0x51, "server key documents");

/// What transactions of other servers were answered, by the server and its id of the transaction.
pub const ANSWERED_TRANSACTIONS: Table<(OwnedServerName, String), AnsweredTransaction> = Table::new(0xa8, "answered transactions");
/// When transactions were answered, so that old answers can be dropped: `(time in ms, server, id)`.
pub const ANSWERED_TRANSACTIONS_BY_TIME: Table<(u64, OwnedServerName, String), ()> = Table::new(0xa9, "answered transactions by time");
/// What is known of the servers that things are sent to.
pub const DESTINATIONS: Table<OwnedServerName, Destination> = Table::new(0xa0, "destinations");
/// The transaction that a server gets until it has answered it.
pub const OUTBOX_TRANSACTIONS: Table<OwnedServerName, OutboxTransaction> = Table::new(0xa1, "outbox transactions");
/// The versions of the device lists of this server's users: the `stream_id` of the last update.
pub const DEVICE_LIST_VERSIONS: Table<UserNid, u64> = Table::new(0xa2, "device list versions");
/// When to-device messages of other servers came, in ms: `(server, message id)`.
pub const RECEIVED_MESSAGES: Table<(OwnedServerName, String), u64> = Table::new(0xa3, "received messages");
/// The same by the time, so that old ones can be dropped: `(time in ms, server, message id)`.
pub const RECEIVED_MESSAGES_BY_TIME: Table<(u64, OwnedServerName, String), ()> = Table::new(0xa4, "received messages by time");
/// The device lists of users of other servers that are here; the keys are in [`DEVICE_KEYS`] and
/// [`CROSS_SIGNING_KEYS`].
pub const CACHED_DEVICE_LISTS: Table<UserNid, CachedDeviceList> = Table::new(0xa5, "cached device lists");

/// Events that are not here though others are which are built on them, and where the newest of
/// those stands: there the room's history goes on elsewhere.
pub const MISSING_PARENTS: Table<(RoomNid, OwnedEventId), Position> = Table::new(0xaa, "missing parents");

/// What a user has not read in a room, as far as it was counted.
pub const UNREAD: Table<(UserNid, RoomNid), Unread> = Table::new(0x70, "unread counts");

/// Files.
pub const MEDIA: Table<FileKey, Media> = Table::new(0x80, "media");
/// The chunks of files, in their order: `(server name, media id, variant, number)`.
pub const MEDIA_CHUNKS: Table<(OwnedServerName, String, String, u32), [u8; 32]> = Table::new(0x81, "media chunks");
/// Which files a chunk is for: `(chunk, server name, media id, variant)`. Written before the chunk
/// is.
pub const CHUNK_USES: Table<([u8; 32], OwnedServerName, String, String), ()> = Table::new(0x82, "chunk uses");
/// Files that are being uploaded or deleted, from before their first chunk is written until after
/// the last one is deleted.
pub const UPLOADS: Table<FileKey, ()> = Table::new(0x83, "uploads under way");
/// Media ids of this server that were given and have no file yet.
pub const PENDING_MEDIA: Table<String, PendingMedia> = Table::new(0x84, "pending media");
/// The same by whom they were given to, and when, in ms.
pub const PENDING_MEDIA_OF: Table<(UserNid, String), u64> = Table::new(0x85, "pending media of users");
/// Bytes of the files that a user has uploaded; none where that is 0.
pub const MEDIA_USED: Table<UserNid, u64> = Table::new(0x86, "bytes uploaded by users");
/// There once [`MEDIA_USED`] counts what was uploaded before there was such a count.
pub const MEDIA_COUNTED: Table<(), ()> = Table::new(0x87, "uploads are counted");
/// Files that came while files were given to everybody: they stay so.
pub const PUBLIC_MEDIA: Table<FileKey, ()> = Table::new(0x88, "public media");
/// Files that can be had again, and their sizes: `(when it came here in ms, server name, media id,
/// variant)`.
pub const CACHED_MEDIA: Table<(u64, OwnedServerName, String, String), u64> = Table::new(0x89, "cached media");
/// The bytes of all of them.
pub const CACHED_MEDIA_BYTES: Table<(), u64> = Table::new(0x8a, "bytes of cached media");
/// Width and height of pictures of which there are thumbnails: `(server name, media id)`.
pub const IMAGE_SIZES: Table<(OwnedServerName, String), (u32, u32)> = Table::new(0x8b, "sizes of pictures");

/// Whose OpenID tokens are, by when they end, in ms, and by their SHA-256.
pub const OPENID_TOKENS: Table<(u64, [u8; 32]), UserNid> = Table::new(0x90, "OpenID tokens");

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Prefixes of former tables: what is stored under them may still be there. 0x64 said which
    /// to-device messages a sync had no room for.
    const FORMER: [u8; 1] = [0x64];

    #[test]
    fn no_two_tables_have_the_same_prefix() {
        let tables = include_str!("tables.rs").split("Table::new(0x").skip(1).filter_map(|rest| u8::from_str_radix(&rest[..2], 16).ok());
        let Prefixes { heads, entries, dead_letters, totals } = STREAMS;
        let prefixes: Vec<u8> = tables.chain([heads, entries, dead_letters, totals]).chain(FORMER).collect();
        assert!(prefixes.len() > 40);
        assert_eq!(prefixes.iter().collect::<HashSet<_>>().len(), prefixes.len());
    }
}
