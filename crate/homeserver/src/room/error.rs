//! Why a room does not do what it is asked for. It knows no HTTP: who asked is told at the edges, a
//! client by `client/refused.rs`.

use crate::failure::{Failure, Refusal};
use ephapse_events::PduError;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId};

/// What a room answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a room does not do what it is asked for.
pub type Error = Failure<Refused>;

impl Refusal for Refused {}

/// What is refused, and why. The texts are for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// By the authorization rules, or by power levels that cannot be read.
    #[error("{0}")]
    NotAllowed(String),
    /// What concerns a room that everybody here has forgotten.
    #[error("You are not in this room")]
    NotInRoom,
    /// A guest's join.
    #[error("Guest access is not allowed in this room")]
    Guest,
    /// An invitation of a user who wants none.
    #[error("{0} does not accept invites")]
    InvitesBlocked(OwnedUserId),
    /// An invitation of a user who would be of this server, and is not.
    #[error("{0} does not exist on this server")]
    NoAccount(OwnedUserId),
    /// An invitation of a user of another server, which cannot be asked.
    #[error("{0} is on another server, which cannot be asked")]
    OutOfReach(OwnedUserId),
    /// An annotation that its sender has made before.
    #[error("You have already reacted to this event with the same key")]
    DuplicateAnnotation,
    /// A thread on an event that relates to another one.
    #[error("Cannot start threads from an event with a relation")]
    ThreadOnRelation,
    /// What has not the form of an event.
    #[error("{0}")]
    Malformed(String),
    /// An event, or a field of it.
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// A room of another version than somebody says.
    #[error("{0} is a room of version {1}")]
    OfVersion(OwnedRoomId, RoomVersionId),
    /// A new room.
    #[error("This server does not support room version {0}")]
    UnknownVersion(RoomVersionId),
    /// An event of another room than it was sent to.
    #[error("{0} is an event of {1}")]
    OfRoom(OwnedEventId, OwnedRoomId),
    /// An event whose id is that of another room's event.
    #[error("{0} is an event of another room")]
    OfAnotherRoom(OwnedEventId),
    /// An event that stands on events which are not here: they must be fetched first.
    #[error("{event} refers to events that are missing here: {}", .missing.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", "))]
    MissingEvents {
        /// The event.
        event: OwnedEventId,
        /// Those of its parents and auth events that are not here.
        missing: Vec<OwnedEventId>,
    },
}

/// Why an event cannot be built.
impl From<PduError> for Refused {
    fn from(error: PduError) -> Self {
        match error {
            PduError::TooLarge(what) => Self::TooLarge(what),
            error => Self::Malformed(error.to_string()),
        }
    }
}
