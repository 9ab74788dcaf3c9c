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

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::{RoomVersionId, event_id, room_id, user_id};

    #[test]
    fn each_refusal_has_its_status_and_errcode() {
        let (user, event, room) = (|| user_id!("@a:one.example").to_owned(), || event_id!("$e").to_owned(), room_id!("!r").to_owned());
        for (refused, status, errcode) in [
            (Refused::NotAllowed("no".to_owned()), 403, "M_FORBIDDEN"),
            (Refused::NotInRoom, 403, "M_FORBIDDEN"),
            (Refused::Guest, 403, "M_GUEST_ACCESS_FORBIDDEN"),
            (Refused::InvitesBlocked(user()), 403, "M_INVITE_BLOCKED"),
            (Refused::NoAccount(user()), 404, "M_NOT_FOUND"),
            (Refused::OutOfReach(user()), 403, "M_FORBIDDEN"),
            (Refused::DuplicateAnnotation, 400, "M_DUPLICATE_ANNOTATION"),
            (Refused::ThreadOnRelation, 400, "M_UNKNOWN"),
            (Refused::Malformed("no".to_owned()), 400, "M_BAD_JSON"),
            (Refused::TooLarge("type"), 413, "M_TOO_LARGE"),
            (Refused::UnknownVersion(RoomVersionId::V12), 400, "M_UNSUPPORTED_ROOM_VERSION"),
            (Refused::OfRoom(event(), room), 400, "M_INVALID_PARAM"),
            (Refused::OfAnotherRoom(event()), 400, "M_INVALID_PARAM"),
            (Refused::MissingEvents { event: event(), missing: vec![event()] }, 404, "M_NOT_FOUND"),
        ] {
            let message = refused.to_string();
            let error = Error::from(room::Error::from(refused));
            assert_eq!(error.to_string(), message);
            let Error::Matrix(error) = error else { panic!("{message}: {error}") };
            let said = error.error_kind().map(|kind| kind.errcode().to_string());
            assert_eq!((error.status_code.as_u16(), said.as_deref()), (status, Some(errcode)), "{message}");
        }
    }
}
