//! The values that tables hold.

use crate::position::Position;
use ephapse_store::KeyPart;
use ephapse_streams::Offset;
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, presence::PresenceState};
use serde::{Deserialize, Deserializer, Serialize};

use super::{RoomNid, UserNid};

/// Reads a field that was put behind the others later: in a record that was written before, it is
/// the default.
fn trailing<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(T::deserialize(deserializer).unwrap_or_default())
}

/// A piece of JSON, kept as the text it was given in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Json(pub String);

/// Bytes that have an encoding of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawBytes(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// A node's key, name and instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredIdentity {
    /// The ed25519 seed.
    pub seed: [u8; 32],
    /// The server name, fixed when the database was made.
    pub server_name: OwnedServerName,
    /// Tells this database from every other one.
    pub instance: u32,
}

/// A signing key of another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKey {
    /// The ed25519 key.
    pub key: [u8; 32],
    /// Until when it is good, in ms, as far as its server has said.
    pub valid_until: u64,
    /// When its server stopped to use it, in ms.
    pub expired: Option<u64>,
}

impl ServerKey {
    /// Until when it is good, in ms.
    pub fn good_until(&self) -> u64 {
        self.expired.unwrap_or(self.valid_until)
    }
}

/// What another server says of its signing keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeyDocument {
    /// In its own words, with its signatures.
    pub json: Json,
    /// Until when it is good, in ms.
    pub valid_until: u64,
    /// When it was fetched, in ms.
    pub fetched: u64,
}

/// What is known of a server that things are sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// How many transactions were made for it.
    pub sequence: u64,
    /// Where the newest event is that it got.
    pub delivered: Position,
    /// Events that were not kept for it.
    pub missed: Option<Missed>,
}

/// Events that another server did not get, and that are not kept for it one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// They stand after this position.
    pub since: Position,
    /// The first room that it has not caught up with; none: it does not catch up yet, and what
    /// happens now is missed too.
    pub next: Option<RoomNid>,
}

/// A transaction as another server gets it, and gets it again until it has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxTransaction {
    /// Its id.
    pub id: String,
    /// The body of the request.
    pub body: RawBytes,
    /// What of the queue of events is done with it.
    pub events: Option<Offset>,
    /// What of the queue of EDUs is.
    pub edus: Option<Offset>,
    /// Where the newest of its events is.
    pub newest: Position,
}

/// The device list of a user of another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedDeviceList {
    /// Its version, as its server counts.
    pub version: u64,
    /// The newest position when it was fetched. It is kept up to date for as long as a room is
    /// shared that was shared then.
    pub fetched: Position,
    /// Whether it is known that something is missing.
    pub is_stale: bool,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// Its bytes.
    pub size: u64,
    /// The type it was said to have.
    pub content_type: Option<String>,
    /// The name it was given.
    pub file_name: Option<String>,
    /// Who uploaded it, where that was here.
    pub uploader: Option<UserNid>,
    /// When it came here, in ms.
    pub created: u64,
}

/// A media id without a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMedia {
    /// Who may upload the file.
    pub creator: UserNid,
    /// When the id was given, in ms.
    pub created: u64,
}

/// Something that a client may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// An event entered a room's timeline at this position.
    Event {
        /// The room.
        room: RoomNid,
        /// The user whose membership it sets, when it is an `m.room.member` event.
        member: Option<UserNid>,
    },
    /// A receipt.
    Receipt {
        /// The room.
        room: RoomNid,
        /// Whose receipt.
        user: UserNid,
        /// Which of the user's receipts.
        kind: ReceiptKind,
    },
    /// Who types changed; who does is in memory only.
    Typing {
        /// The room.
        room: RoomNid,
        /// Whether anybody types now: after a restart nobody does, and clients are told so.
        anybody: bool,
    },
    /// Account data, of a room or of the account (room 0); push rules and tags too.
    AccountData {
        /// Whose.
        user: UserNid,
        /// The room, or 0.
        room: RoomNid,
        /// The type.
        kind: String,
    },
    /// A user's devices or cross-signing keys changed.
    DeviceList {
        /// Whose.
        user: UserNid,
    },
    /// Messages wait for a device.
    ToDevice {
        /// Whose.
        user: UserNid,
        /// The device.
        device: OwnedDeviceId,
    },
    /// A user signed another user's key, or has a new key to do that with: only the signer is told.
    KeySignature {
        /// Who signed.
        by: UserNid,
        /// Whose key.
        of: UserNid,
    },
    /// Presence changed.
    Presence {
        /// Whose.
        user: UserNid,
    },
    /// A room was forgotten by a user: it is gone from that user's syncs.
    Forgotten {
        /// By whom.
        user: UserNid,
        /// The room.
        room: RoomNid,
    },
    /// An event took this position that nobody is shown.
    Hidden,
    /// The state of a room changed without an event at its end: a fork was resolved.
    StateReset {
        /// The room.
        room: RoomNid,
    },
}

/// How present a user is, the most present last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PresenceKind {
    /// `offline`
    Offline,
    /// `unavailable`
    Unavailable,
    /// `online`
    Online,
}

/// The presence of somebody who is not offline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPresence {
    /// What others were told.
    pub told: PresenceKind,
    /// Whether that is so because the user did nothing, though online.
    pub is_idle: bool,
}

impl From<PresenceKind> for PresenceState {
    fn from(kind: PresenceKind) -> Self {
        match kind {
            PresenceKind::Offline => Self::Offline,
            PresenceKind::Unavailable => Self::Unavailable,
            PresenceKind::Online => Self::Online,
        }
    }
}

/// What never changes about a room.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Room {
    /// The room's id.
    pub id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
}

/// A forward extremity: an event that no other event refers to yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extremity {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Where it is.
    pub position: Position,
    /// Its depth.
    pub depth: u64,
    /// The root of the state after it.
    pub state: [u8; 16],
}

/// What a send reads and writes of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomHead {
    /// The forward extremities.
    pub extremities: Vec<Extremity>,
    /// The root of the current state.
    pub state: [u8; 16],
    /// The newest event that is shown.
    pub newest: Position,
    /// The oldest event: below 1 when earlier ones were fetched.
    pub oldest: Position,
    /// The newest event that changed the current state.
    pub newest_state: Position,
    // Where the events are of the current state that authorize most others.
    /// The create event.
    pub create: Option<Position>,
    /// The current power levels.
    pub power_levels: Option<Position>,
    /// The current join rules.
    pub join_rules: Option<Position>,
    /// The current history visibility.
    pub history_visibility: Option<Position>,
    /// How many members have joined.
    pub joined: u32,
    /// How many are invited.
    pub invited: u32,
    /// How many outliers were given a position.
    #[serde(deserialize_with = "trailing")]
    pub outliers: u64,
    /// The depth at which this server came into the room last: what lies below it happened before.
    /// 0 where the room was made here.
    #[serde(deserialize_with = "trailing")]
    pub entered_at: u64,
}

/// Why nobody is shown an event that was not rejected. (The first two are as the flag was that
/// stood here before.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Withheld {
    /// It is not withheld.
    No,
    /// It failed against the current state when it arrived.
    SoftFailed,
    /// It is a redaction that cannot be applied, or not yet.
    Waiting,
}

/// An event and what this server knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The PDU as canonical JSON.
    pub pdu: RawBytes,
    /// Its id.
    pub event_id: OwnedEventId,
    /// Why the auth rules rejected it, if they did.
    pub rejected: Option<String>,
    /// Whether it is kept, but shown to nobody.
    pub withheld: Withheld,
    /// The root of the state before it.
    pub state_before: [u8; 16],
    /// The root of the state after it, when it differs.
    pub state_after: Option<[u8; 16]>,
    /// The root of the room's state once it had arrived, when that is not the state after it: the
    /// room was forked.
    pub room_state: Option<[u8; 16]>,
    /// The device and transaction id it was sent with.
    pub txn_id: Option<(OwnedDeviceId, String)>,
    /// The state event that it replaced.
    pub replaces: Option<Position>,
    /// The redaction that took its content away.
    pub redacted_by: Option<Position>,
    /// One more than the greatest of its auth events, 0 without any: what orders auth chains.
    pub auth_depth: u64,
    /// Where states refer to it, when it was an outlier before it got its place in the timeline.
    #[serde(deserialize_with = "trailing")]
    pub outlier: Option<Position>,
}

/// A child of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// `m.annotation`, `m.thread`, `m.replace`, `m.reference`, ...
    pub rel_type: String,
    /// The child's event type.
    pub event_type: String,
    /// Who sent the child.
    pub sender: UserNid,
}

/// A descendant of an event that relates to it through others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndirectRelation {
    /// How the descendant relates to its own parent.
    pub relation: Relation,
    /// Where the events between the two stand, the descendant's parent first.
    pub through: Vec<Position>,
}

/// A membership, as the byte that keys hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum MembershipKind {
    /// `join`
    Join = 1,
    /// `invite`
    Invite = 2,
    /// `knock`
    Knock = 3,
    /// `leave`
    Leave = 4,
    /// `ban`
    Ban = 5,
}

impl MembershipKind {
    /// The specification's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }
}

/// One user's part in one room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// What it is now.
    pub kind: MembershipKind,
    /// The member event.
    pub position: Position,
    /// Where the user last left after having been joined; none: never.
    pub last_left: Option<Position>,
    /// Whether the user has ever been joined.
    pub ever_joined: bool,
    /// Whether the user has forgotten the room.
    pub forgotten: bool,
}

/// Where an alias leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// The room.
    pub room: RoomNid,
    /// Who made it.
    pub creator: UserNid,
}

/// Which of a user's receipts in a room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReceiptKind {
    /// `m.read.private`, shown to its user only; else `m.read`.
    pub private: bool,
    /// `main` or the thread's root; none: whatever the thread.
    pub thread: Option<String>,
}

/// No thread is named by an empty string.
impl KeyPart for ReceiptKind {
    fn encode(&self, out: &mut Vec<u8>) {
        u8::from(self.private).encode(out);
        self.thread.clone().unwrap_or_default().encode(out);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (private, thread) = <(u8, String)>::decode(bytes)?;
        Some(Self { private: private != 0, thread: Some(thread).filter(|thread| !thread.is_empty()) })
    }
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReceipt {
    /// The event read up to.
    pub event_id: OwnedEventId,
    /// Where that event is.
    pub event: Position,
    /// When, in ms.
    pub ts: u64,
    /// The position of the receipt itself.
    pub position: Position,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The argon2id hash, as `accounts/password.rs` writes it; none for an account that cannot log
    /// in by password.
    pub password: Option<String>,
    /// Whether the account has been deactivated for good.
    pub deactivated: bool,
    /// When it was made, in ms.
    pub created: u64,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What its owner calls it.
    pub display_name: Option<String>,
    /// When it was last seen, in ms; at most once an hour.
    pub last_seen: u64,
    /// The hash of its access token.
    pub token: [u8; 32],
}

/// Whose an access token is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The user.
    pub user: UserNid,
    /// The user's id.
    pub user_id: OwnedUserId,
    /// The device.
    pub device: OwnedDeviceId,
}

/// Account data of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountData {
    /// The content.
    pub content: Json,
    /// When it was set.
    pub position: Position,
}

/// What a request with a transaction id was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredRequest {
    /// The event it made, if it made one.
    pub event_id: Option<OwnedEventId>,
    /// When, in ms.
    pub ts: u64,
}

/// What a transaction of another server was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredTransaction {
    /// The whole answer.
    pub response: Json,
    /// When, in ms.
    pub ts: u64,
}

/// A user-interactive session: bound to the request that began it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InteractiveSession {
    /// Method and path, and the SHA-256 of the body without `auth` and passwords.
    pub request: String,
    /// Whose, when the request was authenticated.
    pub user: Option<UserNid>,
    /// Stages done.
    pub completed: Vec<String>,
    /// When it began, in ms.
    pub created: u64,
}

/// What a registration made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The user.
    pub user: UserNid,
    /// The device that was signed in, if one was.
    pub device: Option<OwnedDeviceId>,
}

/// What a registration has said while its user-interactive session has stages left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRegistration {
    /// The name that is wanted.
    pub user_id: Option<OwnedUserId>,
    /// The argon2id hash of the password, as `accounts/password.rs` writes it.
    pub password: Option<String>,
    /// The first device.
    pub device_id: Option<OwnedDeviceId>,
    /// What it is called.
    pub device_display_name: Option<String>,
    /// Whether there is to be no first device.
    pub inhibit_login: Option<bool>,
    /// The SHA-256 of the access token of the guest who becomes a user.
    pub guest: Option<[u8; 32]>,
}

/// What a user has not read in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Events up to here are counted.
    pub counted: Position,
    /// Where something is unread.
    pub threads: Vec<UnreadThread>,
}

/// What a user has not read in a thread, or in the room outside of threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadThread {
    /// The thread's root; none: the main timeline.
    pub root: Option<OwnedEventId>,
    /// Up to where the user had read it when it was counted.
    pub read: Position,
    /// Events that notify.
    pub notifications: u32,
    /// Those of them that highlight.
    pub highlights: u32,
}
