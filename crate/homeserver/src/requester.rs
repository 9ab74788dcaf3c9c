//! Who asks.

use crate::tables::Session;
use ruma::ServerName;

/// Who asks something of this server, as authentication has found it. What both users and other
/// servers may ask takes this; what differs between them is decided where it is asked.
#[derive(Clone, Copy, Debug)]
pub enum Requester<'a> {
    /// A user of this server who is no guest.
    User(&'a Session),
    /// A guest of this server.
    Guest(&'a Session),
    /// Another server, for all of its users.
    Server(&'a ServerName),
}

impl<'a> Requester<'a> {
    /// Who asks with a session.
    pub fn local(session: &'a Session, is_guest: bool) -> Self {
        if is_guest { Self::Guest(session) } else { Self::User(session) }
    }

    /// The session of a user or guest; another server has none.
    pub fn session(self) -> Option<&'a Session> {
        match self {
            Self::User(session) | Self::Guest(session) => Some(session),
            Self::Server(_) => None,
        }
    }
}
