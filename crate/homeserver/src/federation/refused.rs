//! Why something that needs other servers is not done.

use super::client::AskError;
use crate::{
    error::Error,
    failure::{Failure, Refusal},
    room,
    transport::TransportError,
};
use http::StatusCode;
use ruma::{OwnedRoomId, OwnedServerName, api::error::ErrorKind};
use serde_json::value::RawValue;

/// What is refused, and why. The texts are for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nobody is known who could help.
    #[error("{0} is not known here, and no server is known that is in it: name one")]
    NoServer(OwnedRoomId),
    /// Another server did not do what was asked of it; of several, the last one.
    #[error("{server}: {error}")]
    Server {
        /// Which.
        server: OwnedServerName,
        /// What it did instead.
        error: AskError,
    },
    /// The room.
    #[error(transparent)]
    Room(#[from] room::Refused),
}

/// Why something that needs other servers is not done.
pub type RemoteError = Failure<Refused>;

impl Refusal for Refused {}

impl Refused {
    /// What became of asking one server after the other.
    pub fn of(room: &ruma::RoomId, last: Option<(OwnedServerName, AskError)>) -> Self {
        match last {
            Some((server, error)) => Self::Server { server, error },
            None => Self::NoServer(room.to_owned()),
        }
    }

    /// Whether nobody was asked, since this server does not federate.
    pub fn is_alone(&self) -> bool {
        matches!(self, Self::Server { error: AskError::Transport(TransportError::NoFederation), .. })
    }

    /// What a server has answered is not what it should be.
    pub fn malformed(server: &ruma::ServerName, why: impl Into<String>) -> Self {
        Self::Server { server: server.to_owned(), error: AskError::Malformed(why.into()) }
    }
}

impl From<room::Error> for RemoteError {
    fn from(error: room::Error) -> Self {
        error.map(Refused::Room)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::NoServer(_) => Self::not_found(message),
            Refused::Room(refused) => refused.into(),
            // What another server refuses is refused here for the same reason.
            Refused::Server { error: AskError::Refused { status, errcode, body, .. }, .. }
                if [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&status) =>
            {
                Self::new(status, kind_of(&errcode, body.as_deref()), message)
            }
            Refused::Server { .. } => Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message),
        }
    }
}

/// The kind of a refusal. Those that say more than a code are passed on as what they are about: of
/// the others only the code counts.
fn kind_of(errcode: &str, body: Option<&RawValue>) -> ErrorKind {
    let said = body.filter(|_| errcode == "M_INCOMPATIBLE_ROOM_VERSION").and_then(|body| serde_json::from_str(body.get()).ok());
    said.or_else(|| serde_json::from_value(serde_json::json!({ "errcode": errcode })).ok()).unwrap_or(ErrorKind::Unknown)
}
