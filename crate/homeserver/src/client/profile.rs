//! Profiles of this server's users (Client-Server API, Profiles): fields of any name, two of which
//! are shown in every room the user is in.

use super::wire::{Json as Answer, Own, SetProfileField};
use crate::{
    damaged::{Damaged, LeaveOut, readable},
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    room::{self, Draft, Stop},
    router::{Call, UserCall},
    tables::{self, Json, MembershipKind, UserNid},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use http::StatusCode;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, UserId,
    api::{
        client::profile::{
            delete_profile_field::v3 as delete_profile_field, get_profile::v3 as get_profile, get_profile_field::v3 as get_profile_field,
            set_profile_field::v3 as set_profile_field,
        },
        error::ErrorKind,
    },
    events::StateEventType,
};
use serde_json::{Value, value::RawValue};
use std::collections::BTreeMap;

/// "The total profile MUST be under 64 KiB."
const LARGEST: usize = 64 << 10;

/// Bytes of a field's name.
const LONGEST_KEY: usize = 255;

/// Bytes of a display name or an avatar's URI: they are in every member event.
const LONGEST_SHOWN: usize = 1024;

/// The field that everybody begins with, and the only one that guests have.
pub const NAME: &str = "displayname";

/// The fields that member events repeat.
const SHOWN: [&str; 2] = [NAME, "avatar_url"];

/// Fields of one user; few enough, since all of them together are bounded.
const MOST_FIELDS: usize = LARGEST;

/// `GET /_matrix/client/v3/profile/{userId}`
pub async fn get(call: Call, Own(request): Own<get_profile::Request>) -> Result<Answer> {
    let user = known(&call.hs, &request.user_id).await?;
    Ok(Answer::of(&fields_of(&call.hs, user).await?))
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn get_field(call: Call, Own(request): Own<get_profile_field::Request>) -> Result<Answer> {
    let user = known(&call.hs, &request.user_id).await?;
    let field = request.field.to_string();
    let stored = tables::PROFILES.get(call.hs.store(), &(user, field.clone())).await?;
    let value = stored.ok_or_else(|| Error::not_found("Profile field not found"))?;
    let value = raw(user, &field, value)?;
    Ok(Answer::of(&BTreeMap::from([(field, value)])))
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn set_field(call: UserCall, request: SetProfileField) -> Result<set_profile_field::Response> {
    own(&call, &request.user_id)?;
    acceptable_key(&request.field)?;
    open_to(&call, &request.field).await?;
    let value = request.value.ok_or_else(|| Error::missing_param(format!("Missing parameter {}", request.field)))?;
    let value = acceptable_value(&request.field, value)?;
    write(&call, request.field, value).await?;
    Ok(set_profile_field::Response::new())
}

/// `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn delete_field(call: UserCall, request: delete_profile_field::Request) -> Result<delete_profile_field::Response> {
    own(&call, &request.user_id)?;
    let field = request.field.to_string();
    acceptable_key(&field)?;
    open_to(&call, &field).await?;
    write(&call, field, None).await?;
    Ok(delete_profile_field::Response::new())
}

/// What a member event says of a user of this server: the display name and the avatar, as far as
/// they are set.
pub async fn shown_in_rooms(hs: &Homeserver, user: UserNid) -> Result<CanonicalJsonObject> {
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

async fn write(call: &UserCall, field: String, value: Option<Box<RawValue>>) -> Result<()> {
    let (hs, user) = (&call.hs, call.session.user);
    // Held until all rooms show it: of two changes at once, each room ends with the later one.
    let _lock = hs.lock(LockKey::Profile(call.session.user_id.to_string())).await;
    let mut fields = fields_of(hs, user).await?;
    let is_shown = SHOWN.contains(&field.as_str());
    let written = hs.transaction(call.raw.generation, |tx| {
        let Some(value) = value else {
            tables::PROFILES.delete(tx, &(user, field));
            return Ok(());
        };
        tables::PROFILES.put(tx, &(user, field.clone()), &Json(value.get().to_owned()));
        fields.insert(field, value);
        let all = serde_json::to_vec(&fields).map_err(|error| Error::bad_json(error.to_string()))?;
        match all.len() < LARGEST {
            true => Ok(()),
            false => Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::ProfileTooLarge, "Profile too large: at most 64 KiB are allowed")),
        }
    });
    written?.visible();
    if is_shown { show_in_rooms(call).await } else { Ok(()) }
}

/// Brings the user's member events up to the profile as it is now. Also rooms are done that an
/// earlier, interrupted change has left out.
async fn show_in_rooms(call: &UserCall) -> Result<()> {
    let (hs, session) = (&call.hs, &call.session);
    let shown = shown_in_rooms(hs, session.user).await?;
    let slice = TimeSlice::new(&*hs.host);
    let memberships = tables::MEMBERSHIPS.scan(hs.store(), &session.user, Direction::Forward, usize::MAX).await?;
    for ((_, room), membership) in memberships {
        if membership.kind != MembershipKind::Join {
            continue;
        }
        let Some(room) = hs.room_by_nid(room).await.leave_out()? else { continue };
        let written = hs.write_room(&room, call.raw.generation, |write| {
            let Some(membership) = write.member(session.user)?.filter(|membership| membership.kind == MembershipKind::Join) else { return Ok(()) };
            let event = write.event(membership.position)?;
            let before = event.pdu.content_object(&room.rules).map_err(|error| room::Error::from(event.damaged(&room.id, error)))?;
            let mut content = before.clone();
            content.retain(|field, _| !SHOWN.contains(&field.as_str()));
            content.extend(shown.clone());
            if content != before {
                // Who is in the room already needs nobody to vouch for them, nor a reason.
                content.retain(|field, _| field != "join_authorised_via_users_server" && field != "reason");
                write.send(Draft::state(session.user_id.clone(), StateEventType::RoomMember, session.user_id.as_str(), content))?;
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
    let unknown = || Error::not_found("User not found");
    let nid = if hs.is_local(user) { hs.find_user(user).await? } else { None };
    let nid = nid.ok_or_else(unknown)?;
    tables::ACCOUNTS.get(hs.store(), &nid).await?.filter(|account| !account.deactivated).map(|_| nid).ok_or_else(unknown)
}

async fn fields_of(hs: &Homeserver, user: UserNid) -> Result<BTreeMap<String, Box<RawValue>>> {
    let stored = tables::PROFILES.scan(hs.store(), &user, Direction::Forward, MOST_FIELDS).await?;
    let fields = stored.into_iter().map(|((_, field), value)| {
        let value = raw(user, &field, value)?;
        Ok((field, value))
    });
    Ok(readable(fields).collect())
}

fn raw(user: UserNid, field: &str, stored: Json) -> Result<Box<RawValue>, Damaged> {
    RawValue::from_string(stored.0).map_err(|error| Damaged::new(format!("{field} in the profile of user number {user}"), error))
}

fn own(call: &UserCall, user: &UserId) -> Result<()> {
    if user == call.session.user_id { Ok(()) } else { Err(Error::forbidden("You can only change your own profile")) }
}

/// "Guest users may only modify their display name."
async fn open_to(call: &UserCall, field: &str) -> Result<()> {
    if field != NAME && call.hs.is_guest(call.session.user).await? {
        return Err(Error::guest_access_forbidden("Guests can only set a display name"));
    }
    Ok(())
}

/// `avatar_url`, `displayname`, `m.tz`, or a name of the Common Namespaced Identifier Grammar.
fn acceptable_key(field: &str) -> Result<()> {
    if field.len() > LONGEST_KEY {
        let message = format!("Profile field name too long: at most {LONGEST_KEY} bytes are allowed");
        return Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::KeyTooLarge, message));
    }
    let namespaced = field.contains('.') && field.split('.').all(|part| part.starts_with(|first: char| first.is_ascii_lowercase()));
    let characters = field.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'));
    if SHOWN.contains(&field) || (namespaced && characters) { Ok(()) } else { Err(Error::invalid_param("Invalid profile field name")) }
}

/// The value to keep; an empty display name or avatar is none.
fn acceptable_value(field: &str, value: Box<RawValue>) -> Result<Option<Box<RawValue>>> {
    if !SHOWN.contains(&field) {
        return Ok(Some(value));
    }
    let text = match serde_json::from_str(value.get()) {
        Ok(Value::String(text)) => text,
        Ok(Value::Null) => return Ok(None),
        _ => return Err(Error::bad_json(format!("{field} must be a string"))),
    };
    if text.len() > LONGEST_SHOWN {
        return Err(Error::invalid_param(format!("{field} is too long: at most {LONGEST_SHOWN} bytes are allowed")));
    }
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(value))
}
