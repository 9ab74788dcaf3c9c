//! `PUT /rooms/{roomId}/typing/{userId}` (Client-Server API, Typing Notifications).

use crate::{
    client::wire::SetTyping,
    error::{Error, Result},
    locks::LockKey,
    router::UserCall,
};
use ruma::api::client::typing::create_typing_event::v3::{Response, Typing};

/// Says that the user types, or no more.
pub async fn create_typing_event(call: UserCall, SetTyping(request): SetTyping) -> Result<Response> {
    if request.user_id != call.session.user_id {
        return Err(Error::forbidden("You can only set your own typing state"));
    }
    // Nobody leaves between the look and the notice, which would outlive it.
    let room = call.hs.known_room(&request.room_id).await?;
    let _guard = call.hs.lock(LockKey::Room(room.nid)).await;
    call.hs.joined_room(call.session.user, &request.room_id).await?;
    let duration = match request.state {
        Typing::Yes(info) => Some(info.timeout),
        Typing::No => None,
    };
    if duration.is_some() {
        call.hs.note_activity(&call.session).await?;
    }
    call.hs.set_typing(room.nid, call.session.user, duration)?;
    Ok(Response::new())
}
