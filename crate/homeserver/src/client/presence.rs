//! `/presence/{userId}/status` (Client-Server API, Presence).

use crate::{
    error::{Error, Result},
    router::UserCall,
    tables::{self, PresenceKind},
};
use ruma::{
    api::client::presence::{get_presence::v3 as get_presence, set_presence::v3 as set_presence},
    presence::PresenceState,
};

/// Bytes of a status message.
const LONGEST_STATUS: usize = 1024;

/// `PUT /presence/{userId}/status`
pub async fn set(call: UserCall, request: set_presence::Request) -> Result<set_presence::Response> {
    if request.user_id != call.session.user_id {
        return Err(Error::forbidden("You can only set your own presence"));
    }
    let says = kind_of(&request.presence)?;
    let status_msg = request.status_msg.filter(|message| !message.is_empty());
    if status_msg.as_ref().is_some_and(|message| message.len() > LONGEST_STATUS) {
        return Err(Error::invalid_param(format!("Status message too long: at most {LONGEST_STATUS} bytes are allowed")));
    }
    // Where there is no presence, clients that set it go on all the same.
    if call.hs.config.presence {
        call.hs.set_presence(&call.session, says, status_msg).await?;
    }
    Ok(set_presence::Response::new())
}

/// `GET /presence/{userId}/status`
pub async fn get(call: UserCall, request: get_presence::Request) -> Result<get_presence::Response> {
    let hs = &call.hs;
    if !hs.config.presence {
        return Ok(get_presence::Response::new(PresenceState::Offline));
    }
    let unknown = || Error::not_found("No presence is known for this user");
    let user = if hs.is_local(&request.user_id) { hs.find_user(&request.user_id).await? } else { None };
    let user = user.ok_or_else(unknown)?;
    tables::ACCOUNTS.get(hs.store(), &user).await?.filter(|account| !account.deactivated).ok_or_else(unknown)?;
    if user != call.session.user {
        let (own, theirs) = (hs.user_rooms(call.session.user).await?, hs.user_rooms(user).await?);
        if !own.shares(&theirs) {
            return Err(Error::forbidden("You are not allowed to see the presence of this user: you share no room"));
        }
    }
    let shown = hs.presence_of(&[user]).await?.pop().ok_or_else(unknown)?;
    let mut response = get_presence::Response::new(shown.state.into());
    response.currently_active = shown.currently_active();
    response.last_active_ago = shown.last_active_ago(hs.host.now());
    response.status_msg = shown.status_msg;
    Ok(response)
}

/// What a client says; anything but the three states of the specification is refused.
pub fn kind_of(state: &PresenceState) -> Result<PresenceKind> {
    match state {
        PresenceState::Online => Ok(PresenceKind::Online),
        PresenceState::Unavailable => Ok(PresenceKind::Unavailable),
        PresenceState::Offline => Ok(PresenceKind::Offline),
        other => Err(Error::invalid_param(format!("Invalid presence {other}: expected online, unavailable or offline"))),
    }
}
