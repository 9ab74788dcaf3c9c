//! Why a decision stops before it is made: something has to be read first, others have their turn,
//! or it is refused.

use super::{
    error::{Error, Refused},
    policy::Unsigned,
    state_tree::{Missing, NodeId},
};
use crate::{position::Position, tables::UserNid};
use ephapse_store::StoreError;
use ruma::{OwnedEventId, OwnedServerName, OwnedUserId};

/// Something that must be in memory before a decision can be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// A node of the room's state tree.
    Node(NodeId),
    /// The event at a position.
    Event(Position),
    /// An event by its id, and what stands in its auth chain.
    EventId(OwnedEventId),
    /// The number of a user.
    User(OwnedUserId),
    /// A user's membership in this room.
    Member(UserNid),
    /// Events that refer to this one, also through others, and came before it.
    Relations(OwnedEventId),
    /// Redactions of this event that came before it.
    WaitingRedactions(OwnedEventId),
    /// The newest annotation of an event with a fingerprint.
    Annotation(OwnedEventId, [u8; 16]),
    /// What would become of an invitation of a user.
    Invitee(OwnedUserId),
    /// Whether a user is a guest of this server.
    Guest(UserNid),
    /// The other servers in this room.
    Servers,
    /// What waits for another server.
    Queues(OwnedServerName),
    /// The newest accepted state events, this many, that have the event at a position among their
    /// auth events.
    AuthEdges(Position, usize),
}

/// Why a decision was not made.
#[derive(Debug)]
pub enum Stop<E = Error> {
    /// More has to be read first.
    Missing(Vec<Need>),
    /// It is long: run it again once others have had their turn. State resolutions that were begun
    /// go on.
    Unfinished,
    /// The room's policy server has to sign an event first.
    Unsigned(Box<Unsigned>),
    /// It was made: no.
    Refused(E),
}

impl<E> Stop<E> {
    /// The same with what `say` makes of a refusal.
    pub fn map<F>(self, say: impl FnOnce(E) -> F) -> Stop<F> {
        match self {
            Self::Missing(needs) => Stop::Missing(needs),
            Self::Unfinished => Stop::Unfinished,
            Self::Unsigned(event) => Stop::Unsigned(event),
            Self::Refused(error) => Stop::Refused(say(error)),
        }
    }
}

// A decision is refused with the room's errors, or with those of who asked, who says them in other
// words.

impl<E: From<Error>> From<Error> for Stop<E> {
    fn from(error: Error) -> Self {
        Self::Refused(error.into())
    }
}

impl<E: From<Error>> From<StoreError> for Stop<E> {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

impl<E: From<Error>> From<Refused> for Stop<E> {
    fn from(refused: Refused) -> Self {
        Error::from(refused).into()
    }
}

impl<E> From<Missing> for Stop<E> {
    fn from(Missing(ids): Missing) -> Self {
        Self::Missing(ids.into_iter().map(Need::Node).collect())
    }
}

impl<E> From<Need> for Stop<E> {
    fn from(need: Need) -> Self {
        Self::Missing(vec![need])
    }
}
