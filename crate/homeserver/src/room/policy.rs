//! Which server recommends what is said in a room (Server-Server API, "Policy Servers"). Asking it
//! is in `federation/policy.rs`.

use super::{error::Refused, event::Event, rooms::RoomInfo, state_tree::NodeId, stop::Stop, write::Write};
use crate::{failure::Failure, homeserver::Homeserver};
use ephapse_events::{Pdu, StateKey};
use ruma::{OwnedServerName, events::StateEventType, room_version_rules::RoomVersionRules, serde::Base64};
use serde::Deserialize;

/// The type of the event that names it.
const POLICY: &str = "m.room.policy";
/// The id of its key, always.
const KEY_ID: &str = "ed25519:policy_server";

/// The policy server of a room, with the key that it signs by.
#[derive(Clone, Debug)]
pub struct PolicyServer {
    /// Who is asked.
    pub via: OwnedServerName,
    key: Vec<u8>,
}

/// An event of this server that its room's policy server has not signed yet.
#[derive(Debug)]
pub struct Unsigned {
    /// The event.
    pub pdu: Box<Pdu>,
    /// What it says, whatever is before it.
    pub(super) says: String,
    /// Who has to sign it.
    pub by: PolicyServer,
}

impl PolicyServer {
    /// The one that an event names, if it names one.
    fn of(event: &Event) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: OwnedServerName,
            public_keys: Keys,
        }
        #[derive(Deserialize)]
        struct Keys {
            ed25519: Base64,
        }
        let Content { via, public_keys } = serde_json::from_str(event.pdu.content.get()).ok()?;
        Some(Self { via, key: public_keys.ed25519.as_bytes().to_vec() })
    }

    /// Whether it is asked about an event: not about the one that names it.
    pub fn concerns(&self, event: &Pdu) -> bool {
        !event.is_at(&POLICY.into(), "")
    }

    /// Whether it has signed an event.
    pub fn has_signed(&self, event: &Pdu, rules: &RoomVersionRules) -> bool {
        event.is_signed_by(self.via.as_str(), KEY_ID, &self.key, rules)
    }

    /// The event with the signature that it has given; none where that is not good.
    pub fn with_signature(&self, event: &Pdu, signature: &str, rules: &RoomVersionRules) -> Option<Pdu> {
        let signed = event.with_signature(self.via.as_str(), KEY_ID, signature, rules).ok()?;
        self.has_signed(&signed, rules).then_some(signed)
    }
}

fn key() -> StateKey {
    (StateEventType::from(POLICY), String::new())
}

impl Homeserver {
    /// The policy server of a room, "determined by the current state of the room".
    pub(crate) async fn policy_server(&self, room: &RoomInfo) -> Result<Option<PolicyServer>, super::Error> {
        let state = NodeId(self.room_head(room.nid).await?.state);
        let Some(event) = self.state_event(room.nid, state, key()).await? else { return Ok(None) };
        let Some(policy) = PolicyServer::of(&event) else { return Ok(None) };
        // This server is none itself.
        Ok(self.servers_in(room.nid).await?.contains_key(&policy.via).then_some(policy))
    }
}

impl Write<'_> {
    fn policy_server(&self) -> Result<Option<PolicyServer>, Stop> {
        let Some(position) = self.state_get(self.state(), &[key()])?.first().copied().flatten() else { return Ok(None) };
        let Some(policy) = PolicyServer::of(&*self.event(position)?) else { return Ok(None) };
        Ok(self.servers()?.contains_key(&policy.via).then_some(policy))
    }

    /// An event of this server as it is sent: with the signature of the policy server, where the
    /// room has one, and the state before it then.
    ///
    /// # Errors
    /// [`Stop::Unsigned`] until it has one.
    pub(super) fn recommended(&mut self, pdu: Pdu, before: NodeId) -> Result<(Pdu, NodeId), Stop> {
        let Some(policy) = self.policy_server()?.filter(|policy| policy.concerns(&pdu)) else { return Ok((pdu, before)) };
        let says = format!("{} {} {:?} {:?} {}", pdu.sender, pdu.event_type, pdu.state_key, pdu.redacts, pdu.content);
        let mut signed = None;
        for (said, event) in self.signed() {
            if *said == says && self.event_by_id(&event.event_id)?.is_none() {
                signed = Some(event.clone());
                break;
            }
        }
        let Some(signed) = signed else { return Err(Stop::Unsigned(Box::new(Unsigned { pdu: Box::new(pdu), says, by: policy }))) };
        // Others may have changed the room meanwhile.
        let before = self.state_after_all(&signed)?;
        if let Some(reason) = self.rejected(&signed, before)? {
            return Err(Refused::NotAllowed(reason).into());
        }
        if let Err(reason) = self.check_in_state(&signed, self.state())? {
            return Err(Refused::NotAllowed(reason).into());
        }
        Ok((signed, before))
    }
}

impl Unsigned {
    /// What the policy server says no with.
    pub fn refused(message: String) -> super::Error {
        Failure::Refused(Refused::NotAllowed(message))
    }
}
