//! Profiles of this server's users: fields of any name, two of which are shown in every room the
//! user is in.

use crate::{
    damaged::{Damaged, LeaveOut, readable},
    failure::{Failure, Refusal},
    federation::{client::PATIENCE, refused as remote},
    homeserver::Homeserver,
    locks::LockKey,
    room::{self, Draft, Stop},
    tables::{self, Json, MembershipKind, UserNid},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_events::Inserted;
use ephapse_store::{Direction, StoreError};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId, api::federation::query::get_profile_information, events::StateEventType};
use serde_json::{Value, value::RawValue};
use std::collections::BTreeMap;

/// "The total profile MUST be under 64 KiB."
const LARGEST: usize = 64 << 10;

/// Bytes of a field's name.
const LONGEST_KEY: usize = 255;

/// Bytes of a display name or an avatar's URI: they are in every member event.
const LONGEST_SHOWN: usize = 1024;

/// The field that everybody begins with, and the only one that guests have.
const NAME: &str = "displayname";

/// The fields that member events repeat.
const SHOWN: [&str; 2] = [NAME, "avatar_url"];

/// Fields of one user; few enough, since all of them together are bounded.
const MOST_FIELDS: usize = LARGEST;

/// What is refused of a profile, and why.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Also of a deactivated account.
    #[error("User not found")]
    NoSuchUser,
    /// It is not set.
    #[error("Profile field not found")]
    NoSuchField,
    /// All fields together.
    #[error("Profile too large: at most 64 KiB are allowed")]
    TooLarge,
    /// A field's name.
    #[error("Profile field name too long: at most {LONGEST_KEY} bytes are allowed")]
    KeyTooLarge,
    /// A field's name.
    #[error("Invalid profile field name")]
    NotAName,
    /// The value of a field that rooms show.
    #[error("{0} must be a string")]
    NotAString(String),
    /// The value of a field that rooms show.
    #[error("{0} is too long: at most {LONGEST_SHOWN} bytes are allowed")]
    ValueTooLong(String),
    /// By a room.
    #[error(transparent)]
    Room(room::Refused),
    /// By the user's server.
    #[error(transparent)]
    Remote(remote::Refused),
}

/// Why a profile is not read or changed.
pub type Error = Failure<Refused>;
type Result<T, E = Error> = std::result::Result<T, E>;

impl Refusal for Refused {}

impl From<room::Error> for Error {
    fn from(error: room::Error) -> Self {
        error.map(Refused::Room)
    }
}

/// The name of a field that can be set: `avatar_url`, `displayname`, `m.tz`, or one of the Common
/// Namespaced Identifier Grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName(String);

impl FieldName {
    /// Checks a name.
    pub fn parse(name: String) -> Result<Self, Refused> {
        if name.len() > LONGEST_KEY {
            return Err(Refused::KeyTooLarge);
        }
        let namespaced = name.contains('.') && name.split('.').all(|part| part.starts_with(|first: char| first.is_ascii_lowercase()));
        let characters = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'));
        if SHOWN.contains(&name.as_str()) || (namespaced && characters) { Ok(Self(name)) } else { Err(Refused::NotAName) }
    }

    /// Whether it is the display name.
    pub fn is_display_name(&self) -> bool {
        self.0 == NAME
    }

    /// Whether member events repeat it.
    fn is_shown(&self) -> bool {
        SHOWN.contains(&self.0.as_str())
    }
}

/// The fields of a user of another server, as it tells them; `field`: that one alone.
pub async fn of_others(hs: &Homeserver, user: &UserId, field: Option<&str>) -> Result<BTreeMap<String, Box<RawValue>>> {
    let mut request = get_profile_information::v1::Request::new(user.to_owned());
    request.field = field.map(Into::into);
    let server = user.server_name();
    let answer = hs.ask_for(server, request, PATIENCE, 2 * LARGEST).await;
    answer.map_err(|error| {
        let refused = remote::Refused::Server { server: server.to_owned(), error };
        if refused.is_alone() { Refused::NoSuchUser.into() } else { Refused::Remote(refused).into() }
    })
}

/// The fields of a user who has an account here.
pub async fn fields(hs: &Homeserver, user: &UserId) -> Result<BTreeMap<String, Box<RawValue>>> {
    let user = known(hs, user).await?;
    Ok(fields_of(hs, user).await?)
}

/// One field of a user who has an account here.
pub async fn field(hs: &Homeserver, user: &UserId, field: &str) -> Result<Box<RawValue>> {
    let user = known(hs, user).await?;
    let value = tables::PROFILES.get(hs.store(), &(user, field.to_owned())).await?.ok_or(Refused::NoSuchField)?;
    Ok(raw(user, field, value)?)
}

/// Stages the display name that a new account begins with.
pub fn put_first_name(tx: &mut Tx, user: UserNid, name: &str) {
    let name = serde_json::to_string(name).expect("a string can be written as JSON");
    tables::PROFILES.put(tx, &(user, NAME.to_owned()), &Json(name));
}

/// What a member event says of a user of this server: the display name and the avatar, as far as
/// they are set.
pub async fn shown_in_rooms(hs: &Homeserver, user: UserNid) -> Result<CanonicalJsonObject, StoreError> {
    let keys = SHOWN.map(|field| (user, field.to_owned()));
    let stored = tables::PROFILES.get_many(hs.store(), &keys).await?;
    let mut shown = CanonicalJsonObject::new();
    for (field, value) in SHOWN.iter().zip(stored) {
        if let Some(Ok(CanonicalJsonValue::String(text))) = value.map(|value| serde_json::from_str(&value.0)) {
            shown.insert((*field).to_owned(), CanonicalJsonValue::String(text));
        }
    }
    Ok(shown)
}

/// Sets a field of a user's own profile, or takes it away where there is no value or an empty one,
/// and brings the user's rooms up to it.
pub async fn set(hs: &Homeserver, generation: u64, user: UserNid, field: FieldName, value: Option<Box<RawValue>>) -> Result<()> {
    let value = value.map(|value| acceptable_value(&field, value)).transpose()?.flatten();
    let user_id = hs.user_id(user).await?;
    // Held until all rooms show it: of two changes at once, each room ends with the later one.
    let _lock = hs.lock(LockKey::Profile(user_id.to_string())).await;
    let mut fields = fields_of(hs, user).await?;
    let is_shown = field.is_shown();
    let written = hs.transaction(generation, |tx| {
        let FieldName(field) = field;
        let Some(value) = value else {
            tables::PROFILES.delete(tx, &(user, field));
            return Ok(());
        };
        tables::PROFILES.put(tx, &(user, field.clone()), &Json(value.get().to_owned()));
        fields.insert(field, value);
        let all = serde_json::to_vec(&fields).expect("JSON can be written");
        if all.len() < LARGEST { Ok(()) } else { Err(Error::from(Refused::TooLarge)) }
    });
    written?.visible();
    if is_shown { show_in_rooms(hs, generation, user, &user_id).await } else { Ok(()) }
}

/// Brings the user's member events up to the profile as it is now. Also rooms are done that an
/// earlier, interrupted change has left out.
async fn show_in_rooms(hs: &Homeserver, generation: u64, user: UserNid, user_id: &UserId) -> Result<()> {
    let shown = shown_in_rooms(hs, user).await?;
    let memberships = tables::MEMBERSHIPS.scan(hs.store(), &user, Direction::Forward, usize::MAX).await?;
    let slice = TimeSlice::new(&*hs.host);
    for ((_, room), membership) in memberships {
        if membership.kind != MembershipKind::Join {
            continue;
        }
        let Some(room) = hs.room_by_nid(room).await.leave_out()? else { continue };
        let written = hs.write_room(&room, generation, |write| {
            let Some(membership) = write.member(user)?.filter(|membership| membership.kind == MembershipKind::Join) else { return Ok(()) };
            let event = write.event(membership.position)?;
            let before = event.pdu.content_object(&room.rules).map_err(|error| room::Error::from(event.damaged(&room.id, error)))?;
            let mut content = before.clone();
            content.retain(|field, _| !SHOWN.contains(&field.as_str()));
            content.extend(shown.clone());
            if content != before {
                // Who is in the room already needs nobody to vouch for them, nor a reason.
                content.retain(|field, _| field != "join_authorised_via_users_server" && field != "reason");
                write.send(Draft::state(user_id.to_owned(), StateEventType::RoomMember, user_id.as_str(), content))?;
            }
            Ok::<_, Stop>(())
        });
        match written.await {
            Ok(()) => {}
            // A room whose rules refuse it shows the old name; the others go on.
            Err(room::Error::Refused(error)) => tracing::debug!("could not update the profile in a room: {error}"),
            Err(error) => drop(Err::<(), _>(error).leave_out()?),
        }
        slice.end().await;
    }
    Ok(())
}

/// The number of a user who has an account here.
async fn known(hs: &Homeserver, user: &UserId) -> Result<UserNid> {
    let nid = if hs.is_local(user) { hs.find_user(user).await? } else { None };
    let nid = nid.ok_or(Refused::NoSuchUser)?;
    let account = tables::ACCOUNTS.get(hs.store(), &nid).await?.filter(|account| !account.deactivated);
    Ok(account.map(|_| nid).ok_or(Refused::NoSuchUser)?)
}

async fn fields_of(hs: &Homeserver, user: UserNid) -> Result<BTreeMap<String, Box<RawValue>>, StoreError> {
    let stored = tables::PROFILES.scan(hs.store(), &user, Direction::Forward, MOST_FIELDS).await?;
    let fields = stored.into_iter().map(|((_, field), value)| {
        let value = raw(user, &field, value)?;
        Ok((field, value))
    });
    Ok(readable(fields).inserted())
}

fn raw(user: UserNid, field: &str, stored: Json) -> Result<Box<RawValue>, Damaged> {
    RawValue::from_string(stored.0).map_err(|error| Damaged::new(format!("{field} in the profile of user number {user}"), error))
}

/// The value to keep; an empty display name or avatar is none.
fn acceptable_value(field: &FieldName, value: Box<RawValue>) -> Result<Option<Box<RawValue>>, Refused> {
    if !field.is_shown() {
        return Ok(Some(value));
    }
    let text = match serde_json::from_str(value.get()) {
        Ok(Value::String(text)) => text,
        Ok(Value::Null) => return Ok(None),
        _ => return Err(Refused::NotAString(field.0.clone())),
    };
    if text.len() > LONGEST_SHOWN {
        return Err(Refused::ValueTooLong(field.0.clone()));
    }
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(value))
}
