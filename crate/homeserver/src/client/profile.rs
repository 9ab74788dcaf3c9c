//! Profiles of this server's users (Client-Server API, Profiles).

use super::wire::{Json as Answer, Own, SetProfileField};
use crate::{
    error::{Error, Result},
    profiles::{self, FieldName},
    router::{Call, UserCall},
};
use ruma::{
    UserId,
    api::client::profile::{
        delete_profile_field::v3 as delete_profile_field, get_profile::v3 as get_profile, get_profile_field::v3 as get_profile_field,
        set_profile_field::v3 as set_profile_field,
    },
};
use std::collections::BTreeMap;

/// `GET /_matrix/client/v3/profile/{userId}`
pub async fn get(call: Call, Own(request): Own<get_profile::Request>) -> Result<Answer> {
    let (hs, user) = (&call.hs, &request.user_id);
    let fields = if hs.is_local(user) { profiles::fields(hs, user).await? } else { profiles::of_others(hs, user, None).await? };
    Ok(Answer::of(&fields))
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn get_field(call: Call, Own(request): Own<get_profile_field::Request>) -> Result<Answer> {
    let (hs, user) = (&call.hs, &request.user_id);
    let field = request.field.to_string();
    let value = if hs.is_local(user) {
        profiles::field(hs, user, &field).await?
    } else {
        profiles::of_others(hs, user, Some(&field)).await?.remove(&field).ok_or(profiles::Refused::NoSuchField)?
    };
    Ok(Answer::of(&BTreeMap::from([(field, value)])))
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn set_field(call: UserCall, request: SetProfileField) -> Result<set_profile_field::Response> {
    let field = own_field(&call, &request.user_id, request.field.clone())?;
    let value = request.value.ok_or_else(|| Error::missing_param(format!("Missing parameter {}", request.field)))?;
    profiles::set(&call.hs, call.raw.generation, call.session.user, field, Some(value)).await?;
    Ok(set_profile_field::Response::new())
}

/// `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn delete_field(call: UserCall, request: delete_profile_field::Request) -> Result<delete_profile_field::Response> {
    let field = own_field(&call, &request.user_id, request.field.to_string())?;
    profiles::set(&call.hs, call.raw.generation, call.session.user, field, None).await?;
    Ok(delete_profile_field::Response::new())
}

/// A field that the caller may change: one of their own. "Guest users may only modify their display
/// name."
fn own_field(call: &UserCall, user: &UserId, field: String) -> Result<FieldName> {
    if user != call.session.user_id {
        return Err(Error::forbidden("You can only change your own profile"));
    }
    let field = FieldName::parse(field)?;
    if !field.is_display_name() && call.is_guest() {
        return Err(Error::guest_access_forbidden("Guests can only set a display name"));
    }
    Ok(field)
}
