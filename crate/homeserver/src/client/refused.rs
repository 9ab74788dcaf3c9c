//! What a client is told of what rooms and other modules refuse.

use crate::{
    accounts, aliases, devices, directory,
    error::Error,
    hierarchy, keys,
    media::{self, FetchError, NoThumbnail},
    openid, profiles, push,
    rate_limits::TooMany,
    room::{Refused, Stop},
    to_device,
};
use ephapse_store::StoreError;
use http::StatusCode;
use ruma::{
    api::error::{ErrorKind, UserLimitExceededErrorData, WrongRoomKeysVersionErrorData},
    push::InsertPushRuleError,
};
use std::time::Duration;

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
            Refused::OfRoom(..) | Refused::OfAnotherRoom(_) | Refused::OfVersion(..) => Self::invalid_param(message),
        }
    }
}

impl From<accounts::Refused> for Error {
    fn from(refused: accounts::Refused) -> Self {
        let message = refused.to_string();
        match refused {
            accounts::Refused::MalformedName => Self::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidUsername, message),
            accounts::Refused::NameTaken => Self::new(StatusCode::BAD_REQUEST, ErrorKind::UserInUse, message),
            accounts::Refused::EmptyPassword => Self::new(StatusCode::BAD_REQUEST, ErrorKind::WeakPassword, message),
            accounts::Refused::LongPassword => Self::invalid_param(message),
            accounts::Refused::WrongPassword | accounts::Refused::DeviceIdTaken => Self::forbidden(message),
            accounts::Refused::Deactivated => Self::unknown_token(),
            accounts::Refused::Room(refused) => refused.into(),
            accounts::Refused::TooMany(too_many) => too_many.into(),
        }
    }
}

impl From<media::Refused> for Error {
    fn from(refused: media::Refused) -> Self {
        let message = refused.to_string();
        match refused {
            media::Refused::NotFound | media::Refused::OfAnotherServer => Self::not_found(message),
            media::Refused::NotYetUploaded => Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::NotYetUploaded, message),
            media::Refused::NotCreator => Self::forbidden(message),
            media::Refused::HasContent => Self::new(StatusCode::CONFLICT, ErrorKind::CannotOverwriteMedia, message),
            media::Refused::TooManyPending { retry_after } => Self::limit_exceeded(retry_after),
            media::Refused::NoThumbnail(none) => match none {
                NoThumbnail::Unsupported => Self::unrecognized(),
                NoThumbnail::NotAnImage => Self::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, message),
                NoThumbnail::TooLarge => Self::too_large(message),
            },
            media::Refused::TooManyFetches => Self::limit_exceeded(Duration::from_secs(1)),
            media::Refused::Remote(error) => match error {
                FetchError::NotFound => Self::not_found(message),
                FetchError::NotYetUploaded => Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::NotYetUploaded, message),
                FetchError::TooLarge(_) => Self::new(StatusCode::BAD_GATEWAY, ErrorKind::TooLarge, message),
                FetchError::Failed(_) => Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message),
                FetchError::Full => StoreError::QuotaExceeded.into(),
            },
            media::Refused::OverQuota(info) => {
                Self::new(StatusCode::FORBIDDEN, ErrorKind::UserLimitExceeded(UserLimitExceededErrorData::new(info)), message)
            }
        }
    }
}

impl From<TooMany> for Error {
    fn from(too_many: TooMany) -> Self {
        Self::limit_exceeded(too_many.retry_after)
    }
}

impl From<devices::Refused> for Error {
    fn from(refused: devices::Refused) -> Self {
        let message = refused.to_string();
        match refused {
            devices::Refused::Unknown => Self::not_found(message),
            devices::Refused::MalformedId | devices::Refused::LongName => Self::invalid_param(message),
        }
    }
}

impl From<to_device::Refused> for Error {
    fn from(refused: to_device::Refused) -> Self {
        match refused {
            to_device::Refused::NotCanonical => Self::bad_json(refused.to_string()),
            _ => Self::too_large(refused.to_string()),
        }
    }
}

impl From<keys::Refused> for Error {
    fn from(refused: keys::Refused) -> Self {
        let message = refused.to_string();
        match refused {
            keys::Refused::NoDevice => Self::unknown_token(),
            keys::Refused::NotFound(_) => Self::not_found(message),
            keys::Refused::Missing(_) => Self::missing_param(message),
            keys::Refused::Invalid(_) => Self::invalid_param(message),
            keys::Refused::Malformed(_) => Self::bad_json(message),
            keys::Refused::Unreadable(error) => Self::unreadable(&error),
            keys::Refused::NameTaken(_) => Self::forbidden(message),
            keys::Refused::TooLarge(_) => Self::too_large(message),
            keys::Refused::InvalidSignature(_) => Self::invalid_signature(message),
            keys::Refused::NotNewestVersion(newest) => {
                let kind = ErrorKind::WrongRoomKeysVersion(WrongRoomKeysVersionErrorData::new(newest.to_string()));
                Self::new(StatusCode::FORBIDDEN, kind, message)
            }
        }
    }
}

impl From<aliases::Refused> for Error {
    fn from(refused: aliases::Refused) -> Self {
        let message = refused.to_string();
        match refused {
            aliases::Refused::Invalid(_) | aliases::Refused::Malformed(_) | aliases::Refused::OfAnotherServer(_) => Self::invalid_param(message),
            aliases::Refused::NoSuchRoom | aliases::Refused::NotFound(_) => Self::not_found(message),
            aliases::Refused::Exists(_) => Self::new(StatusCode::CONFLICT, ErrorKind::Unknown, message),
            aliases::Refused::NotYours(_) => Self::forbidden(message),
            // "One or more aliases within the `m.room.canonical_alias` event do not point to the
            // room".
            aliases::Refused::LeadsElsewhere(_) => Self::new(StatusCode::BAD_REQUEST, ErrorKind::BadAlias, message),
            aliases::Refused::Room(refused) => refused.into(),
            aliases::Refused::Remote(refused) => refused.into(),
        }
    }
}

impl From<directory::Refused> for Error {
    fn from(refused: directory::Refused) -> Self {
        let message = refused.to_string();
        match refused {
            directory::Refused::NoSuchRoom => Self::not_found(message),
            directory::Refused::NotYours => Self::forbidden(message),
            directory::Refused::NotAToken => Self::invalid_param(message),
            directory::Refused::Room(refused) => refused.into(),
        }
    }
}

impl From<hierarchy::Refused> for Error {
    fn from(refused: hierarchy::Refused) -> Self {
        let message = refused.to_string();
        match refused {
            hierarchy::Refused::Unknown(_) => Self::forbidden(message),
            hierarchy::Refused::NotAToken | hierarchy::Refused::OfAnotherQuestion | hierarchy::Refused::NoRooms => Self::invalid_param(message),
            hierarchy::Refused::Room(refused) => refused.into(),
        }
    }
}

impl From<openid::Error> for Error {
    fn from(error: openid::Error) -> Self {
        match error {
            openid::Error::TooMany(too_many) => too_many.into(),
            openid::Error::Store(error) => error.into(),
        }
    }
}

impl From<profiles::Refused> for Error {
    fn from(refused: profiles::Refused) -> Self {
        let message = refused.to_string();
        match refused {
            profiles::Refused::NoSuchUser | profiles::Refused::NoSuchField => Self::not_found(message),
            profiles::Refused::TooLarge => Self::new(StatusCode::BAD_REQUEST, ErrorKind::ProfileTooLarge, message),
            profiles::Refused::KeyTooLarge => Self::new(StatusCode::BAD_REQUEST, ErrorKind::KeyTooLarge, message),
            profiles::Refused::NotAName | profiles::Refused::ValueTooLong(_) => Self::invalid_param(message),
            profiles::Refused::NotAString(_) => Self::bad_json(message),
            profiles::Refused::Room(refused) => refused.into(),
            profiles::Refused::Remote(refused) => refused.into(),
        }
    }
}

impl From<push::Refused> for Error {
    fn from(refused: push::Refused) -> Self {
        let message = refused.to_string();
        match refused {
            push::Refused::NotFound => Self::not_found(message),
            push::Refused::TooLarge | push::Refused::PatternTooLong => Self::too_large(message),
            push::Refused::Insertion(InsertPushRuleError::UnknownRuleId | InsertPushRuleError::BeforeHigherThanAfter) => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, message)
            }
            push::Refused::NoAction | push::Refused::Insertion(_) | push::Refused::Removal(_) => Self::invalid_param(message),
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
    use crate::room;
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
            is_told(error, status, errcode);
        }
    }
    #[test]
    fn so_has_each_refusal_of_accounts_devices_and_keys() {
        use crate::{accounts::Refused as Account, devices::Refused as Device, keys::Refused as Key, to_device::Refused as Message};
        let too_many = TooMany { retry_after: std::time::Duration::from_millis(1) };
        let unreadable = serde_json::from_str::<u8>("{").expect_err("no number");
        for (error, status, errcode) in [
            (Account::MalformedName.into(), 400, "M_INVALID_USERNAME"),
            (Account::NameTaken.into(), 400, "M_USER_IN_USE"),
            (Account::EmptyPassword.into(), 400, "M_WEAK_PASSWORD"),
            (Account::LongPassword.into(), 400, "M_INVALID_PARAM"),
            (Account::WrongPassword.into(), 403, "M_FORBIDDEN"),
            (Account::DeviceIdTaken.into(), 403, "M_FORBIDDEN"),
            (Account::Deactivated.into(), 401, "M_UNKNOWN_TOKEN"),
            (Account::Room(Refused::NotInRoom).into(), 403, "M_FORBIDDEN"),
            (Account::TooMany(too_many).into(), 429, "M_LIMIT_EXCEEDED"),
            (Device::Unknown.into(), 404, "M_NOT_FOUND"),
            (Device::MalformedId.into(), 400, "M_INVALID_PARAM"),
            (Device::LongName.into(), 400, "M_INVALID_PARAM"),
            (Message::LongContent.into(), 413, "M_TOO_LARGE"),
            (Message::NotCanonical.into(), 400, "M_BAD_JSON"),
            (Message::TooMany.into(), 413, "M_TOO_LARGE"),
            (Key::NoDevice.into(), 401, "M_UNKNOWN_TOKEN"),
            (Key::NotFound("no").into(), 404, "M_NOT_FOUND"),
            (Key::Missing("no").into(), 400, "M_MISSING_PARAM"),
            (Key::Invalid("no".to_owned()).into(), 400, "M_INVALID_PARAM"),
            (Key::Malformed("no".to_owned()).into(), 400, "M_BAD_JSON"),
            (Key::Unreadable(unreadable).into(), 400, "M_BAD_JSON"),
            (Key::NameTaken("no").into(), 403, "M_FORBIDDEN"),
            (Key::TooLarge("no".to_owned()).into(), 413, "M_TOO_LARGE"),
            (Key::InvalidSignature("no".to_owned()).into(), 400, "M_INVALID_SIGNATURE"),
            (Key::NotNewestVersion(2).into(), 403, "M_WRONG_ROOM_KEYS_VERSION"),
        ] {
            is_told(error, status, errcode);
        }
    }

    fn is_told(error: Error, status: u16, errcode: &str) {
        let message = error.to_string();
        let Error::Matrix(error) = error else { panic!("{message}") };
        let said = error.error_kind().map(|kind| kind.errcode().to_string());
        assert_eq!((error.status_code.as_u16(), said.as_deref()), (status, Some(errcode)), "{message}");
    }
}
