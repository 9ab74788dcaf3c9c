//! What a client is told of what a room refuses.

use crate::{
    error::Error,
    room::{self, Refused, Stop},
};
use http::StatusCode;
use ruma::api::error::ErrorKind;

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::NotAllowed(_) | Refused::NotInRoom | Refused::OutOfReach(_) => Self::forbidden(message),
            Refused::Guest => Self::guest_access_forbidden(message),
            Refused::InvitesBlocked(_) => Self::new(StatusCode::FORBIDDEN, ErrorKind::InviteBlocked, message),
            Refused::NoAccount(_) | Refused::MissingEvents { .. } => Self::not_found(message),
            Refused::DuplicateAnnotation => Self::new(StatusCode::BAD_REQUEST, ErrorKind::DuplicateAnnotation, message),
            Refused::ThreadOnRelation => Self::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, message),
            Refused::Malformed(_) => Self::bad_json(message),
            Refused::TooLarge(_) => Self::too_large(message),
            Refused::UnknownVersion(_) => Self::new(StatusCode::BAD_REQUEST, ErrorKind::UnsupportedRoomVersion, message),
            Refused::OfRoom(..) | Refused::OfAnotherRoom(_) => Self::invalid_param(message),
        }
    }
}

impl From<room::Error> for Error {
    fn from(error: room::Error) -> Self {
        match error {
            room::Error::Refused(refused) => refused.into(),
            room::Error::Store(error) => Self::Store(error),
            room::Error::Damaged(damaged) => Self::Damaged(damaged),
            room::Error::Internal(text) => Self::Internal(text),
        }
    }
}

/// A handler decides by more than a room does.
impl From<Stop> for Stop<Error> {
    fn from(stop: Stop) -> Self {
        stop.map(Error::from)
    }
}
