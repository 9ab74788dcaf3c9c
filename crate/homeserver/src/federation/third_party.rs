//! Invitations by an e-mail address that turn into invitations of users (Server-Server API,
//! "Third-party invites"). Whether the signature of the identity server is good is for the auth
//! rules to say, by the keys in the room's `m.room.third_party_invite` event.

use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    room::Draft,
    router::{Call, PeerCall},
};
use ephapse_events::JsonObject;
use ruma::{
    CanonicalJsonValue, RoomId, UserId,
    api::federation::thirdparty::{bind_callback, exchange_invite},
    events::StateEventType,
    serde::Raw,
};
use serde_json::json;
use std::rc::Rc;

/// How many invitations of one address are looked at.
const MOST_INVITES: usize = 20;

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`: a user of this server has
/// invited an address, and now it is known whose it is.
pub async fn exchange(call: PeerCall, request: exchange_invite::v1::Request) -> Result<exchange_invite::v1::Response> {
    let hs = &call.hs;
    hs.room_for(&call.origin, &request.room_id).await?;
    if request.kind != StateEventType::RoomMember || !hs.is_local(&request.sender) {
        return Err(Error::invalid_param(format!("The event is not an invitation by a user of {}", hs.server_name())));
    }
    invite(hs, &request.room_id, &request.sender, &request.state_key, request.content.json().get()).await?;
    Ok(exchange_invite::v1::Response::new())
}

/// `PUT /_matrix/federation/v1/3pid/onbind`: an identity server says that an address is a local
/// user's, whom others have invited by it.
pub async fn bound(call: Call, request: bind_callback::v1::Request) -> Result<bind_callback::v1::Response> {
    let hs = &call.hs;
    if hs.find_account(&request.mxid).await?.is_none() {
        return Err(Error::not_found(format!("{} does not exist on this server", request.mxid)));
    }
    for bound in request.invites.into_iter().take(MOST_INVITES).filter(|bound| bound.mxid == request.mxid) {
        let content = json!({ "membership": "invite", "third_party_invite": { "display_name": bound.address, "signed": bound.signed } });
        let told = match hs.is_local(&bound.sender) {
            true => invite(hs, &bound.room_id, &bound.sender, &bound.mxid, &content.to_string()).await,
            false => {
                let content = serde_json::value::to_raw_value(&content).map_err(|error| Error::bad_json(error.to_string()))?;
                let request = exchange_invite::v1::Request::new(bound.room_id.clone(), bound.sender.clone(), bound.mxid, Raw::from_json(content));
                let asked = hs.ask(bound.sender.server_name(), request).await;
                asked.map(drop).map_err(|error| Error::not_found(error.to_string()))
            }
        };
        // One that does not work out takes nothing from the others.
        if let Err(error) = told {
            tracing::info!("an invitation by address to {} was not exchanged: {error:?}", bound.room_id);
        }
    }
    Ok(bind_callback::v1::Response::new())
}

/// Invites a user who was invited by an address.
async fn invite(hs: &Rc<Homeserver>, room: &RoomId, sender: &UserId, user: &UserId, content: &str) -> Result<()> {
    let room = hs.known_room(room).await?;
    let strict = room.rules.authorization.strict_canonical_json;
    let mut content = JsonObject::read(content, strict).map_err(|error| Error::unreadable(&error))?;
    if !matches!(content.get("third_party_invite"), Some(CanonicalJsonValue::Object(_))) {
        // Else it would be an invitation in the sender's name that the sender never made.
        return Err(Error::invalid_param("The event does not say which invitation by address it is of"));
    }
    content.insert("membership".to_owned(), CanonicalJsonValue::String("invite".to_owned()));
    let draft = Draft::state(sender.to_owned(), StateEventType::RoomMember, user.as_str(), content);
    let generation = hs.begin_reading();
    if hs.is_local(user) {
        hs.write_room(&room, generation, |write: &mut crate::room::Write<'_>| write.send(draft.clone())).await?;
    } else {
        hs.invite_through(&room, generation, draft, user).await?;
    }
    Ok(())
}
