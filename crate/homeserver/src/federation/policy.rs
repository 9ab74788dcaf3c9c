//! Asking policy servers for their signatures (Server-Server API, "Policy Servers").

use super::client::AskError;
use crate::{
    homeserver::Homeserver,
    room::{self, PolicyServer, RoomInfo},
};
use ephapse_events::Pdu;
use futures_util::{StreamExt, stream};
use ruma::{OwnedEventId, api::federation::policy::sign_event, room_version_rules::RoomVersionRules};
use serde_json::value::RawValue;
use std::{cell::Cell, collections::HashSet, pin::pin, time::Duration};

/// How long a policy server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of its answer.
const LARGEST_ANSWER: usize = 64 << 10;
/// Events that it is asked about at once.
const ASKED_AT_ONCE: usize = 8;

/// An event with the signature of a policy server.
///
/// # Errors
/// It does not sign it, and why, in its own words where it has some.
pub async fn signed(hs: &Homeserver, policy: &PolicyServer, event: &Pdu, rules: &RoomVersionRules) -> Result<Pdu, AskError> {
    let json = str::from_utf8(&event.json).ok().and_then(|json| RawValue::from_string(json.to_owned()).ok());
    let json = json.ok_or_else(|| AskError::Malformed("the event is no JSON".to_owned()))?;
    let answer = hs.ask_within(&policy.via, sign_event::v1::Request::new(json), PATIENCE, LARGEST_ANSWER).await?;
    let signature = answer.ed25519_signature(&policy.via).ok_or_else(|| AskError::Malformed("it has no signature".to_owned()))?;
    let signed = policy.with_signature(event, signature, rules);
    signed.ok_or_else(|| AskError::Malformed("its signature is not good".to_owned()))
}

/// Received events with the signature of the room's policy server, where it has one, and those of
/// them that it does not recommend.
pub async fn recommended(hs: &Homeserver, room: &RoomInfo, events: &[Pdu]) -> Result<Option<(Vec<Pdu>, HashSet<OwnedEventId>)>, room::Error> {
    let Some(policy) = hs.policy_server(room).await? else { return Ok(None) };
    // Who does not answer is not asked about each.
    let is_away = Cell::new(false);
    let asked = stream::iter(events).map(|event| async {
        if !policy.concerns(event) || policy.has_signed(event, &room.rules) {
            return (event.clone(), true);
        }
        if is_away.get() {
            return (event.clone(), false);
        }
        match signed(hs, &policy, event, &room.rules).await {
            Ok(signed) => (signed, true),
            Err(error) => {
                is_away.set(is_away.get() || !error.is_refusal());
                tracing::info!("{} of {} is not recommended by {}: {error}", event.event_id, room.id, policy.via);
                (event.clone(), false)
            }
        }
    });
    let mut asked = pin!(asked.buffered(ASKED_AT_ONCE));
    let (mut all, mut refused) = (Vec::with_capacity(events.len()), HashSet::new());
    while let Some((event, is_recommended)) = asked.next().await {
        if !is_recommended {
            refused.insert(event.event_id.clone());
        }
        all.push(event);
    }
    Ok(Some((all, refused)))
}
