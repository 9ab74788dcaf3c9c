//! One validator for each kind of identifier (Appendices, Identifier Grammar), for all endpoints.

use ruma::{EventId, RoomAliasId, RoomId, RoomOrAliasId, ServerName, UserId};

/// Bytes that an identifier may have.
const LONGEST: usize = 255;

/// The kinds of identifiers.
#[derive(Clone, Copy)]
pub enum Identifier {
    /// `@alice:example.org`
    UserId,
    /// `!room:example.org`, or without a server since room version 12.
    RoomId,
    /// `#room:example.org`
    RoomAlias,
    /// What a room may be joined by.
    RoomIdOrAlias,
    /// `$event`
    EventId,
    /// The id of a user's device.
    DeviceId,
    /// `example.org:8448`
    ServerName,
}

impl Identifier {
    /// Whether `text` is an identifier of this kind.
    pub fn fits(self, text: &str) -> bool {
        match self {
            Self::UserId => UserId::parse(text).is_ok(),
            Self::RoomId => RoomId::parse(text).is_ok(),
            Self::RoomAlias => RoomAliasId::parse(text).is_ok(),
            Self::RoomIdOrAlias => RoomOrAliasId::parse(text).is_ok(),
            Self::EventId => EventId::parse(text).is_ok() && text.len() <= LONGEST && !text.contains('\0'),
            // The specification has no grammar for it.
            Self::DeviceId => (1..=LONGEST).contains(&text.len()) && !text.contains('\0'),
            Self::ServerName => ServerName::parse(text).is_ok(),
        }
    }

    /// How an identifier of this kind is called.
    pub fn expected(self) -> &'static str {
        match self {
            Self::UserId => "a user ID, such as @alice:example.org",
            Self::RoomId => "a room ID",
            Self::RoomAlias => "a room alias, such as #room:example.org",
            Self::RoomIdOrAlias => "a room ID or a room alias",
            Self::EventId => "an event ID",
            Self::DeviceId => "a device ID of 1 to 255 bytes",
            Self::ServerName => "a server name",
        }
    }
}
