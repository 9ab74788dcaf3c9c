//! Local events: from what a client wants to say to a signed PDU that the auth rules allow.

use super::{
    append::Verdict,
    error::{Error, Refused},
    event::Event,
    state_tree::NodeId,
    stop::Stop,
    write::Write,
};
use crate::tables::Extremity;
use ephapse_events::{JsonObject, MAX_PREV_EVENTS, NewPdu, Pdu, auth, max_depth};
use ruma::{
    CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedDeviceId, OwnedEventId, OwnedUserId, UInt,
    events::{StateEventType, TimelineEventType},
};
use serde_json::value::RawValue;
use std::rc::Rc;

/// Says in a member event on whose word its user has joined a restricted room. That user's server
/// signs it; here it is said by [`Draft::authorised_via`] alone.
const AUTHORISED_VIA: &str = "join_authorised_via_users_server";

/// What a local user wants to say in a room.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who.
    pub sender: OwnedUserId,
    /// The event's type.
    pub event_type: TimelineEventType,
    /// Makes it a state event.
    pub state_key: Option<String>,
    /// The content.
    pub content: JsonObject,
    /// What an `m.room.redaction` redacts.
    pub redacts: Option<OwnedEventId>,
    /// The user of this server on whose word the sender may join a restricted room. Of member
    /// events the content never says so by itself.
    pub authorised_via: Option<OwnedUserId>,
    /// The device and transaction id it came with.
    pub txn_id: Option<(OwnedDeviceId, String)>,
}

impl Draft {
    /// A message-like event.
    pub fn message(sender: OwnedUserId, event_type: TimelineEventType, content: impl Into<JsonObject>) -> Self {
        let content = content.into();
        Self { sender, event_type, state_key: None, content, redacts: None, authorised_via: None, txn_id: None }
    }

    /// A state event.
    pub fn state(sender: OwnedUserId, event_type: StateEventType, state_key: impl Into<String>, content: impl Into<JsonObject>) -> Self {
        Self { state_key: Some(state_key.into()), ..Self::message(sender, event_type.into(), content) }
    }

    /// Whether its sender joins by it.
    pub fn is_join(&self) -> bool {
        self.event_type == TimelineEventType::RoomMember
            && self.state_key.as_deref() == Some(self.sender.as_str())
            && self.content.get("membership").and_then(CanonicalJsonValue::as_str) == Some("join")
    }

    /// Whom it invites.
    pub fn invited(&self) -> Option<OwnedUserId> {
        let is_invite =
            self.event_type == TimelineEventType::RoomMember && self.content.get("membership").and_then(CanonicalJsonValue::as_str) == Some("invite");
        self.state_key.as_deref().filter(|_| is_invite).and_then(|user| OwnedUserId::try_from(user).ok())
    }

    /// The content as a client may give it: what this server vouches for is not the client's to
    /// say.
    pub fn without_vouching(event_type: &TimelineEventType, mut content: JsonObject) -> JsonObject {
        if *event_type == TimelineEventType::RoomMember {
            content.remove(AUTHORISED_VIA);
        }
        content
    }
}

impl Write<'_> {
    /// Builds, hashes, signs and authorizes an event at the end of the room, and appends it.
    ///
    /// # Errors
    /// [`Refused::NotAllowed`] with the rule's reason, [`Refused::Guest`], [`Refused::TooLarge`],
    /// [`Refused::Malformed`] also for power levels of the wrong shape, and what
    /// [`Self::relation_refused`] and [`Self::invite_refused`] say.
    pub fn send(&mut self, mut draft: Draft) -> Result<Rc<Event>, Stop> {
        let txn_id = draft.txn_id.take();
        if let Some(user) = draft.invited().filter(|user| !self.hs.is_local(user)) {
            // Its server has to agree first.
            return Err(Refused::OutOfReach(user).into());
        }
        let (pdu, before) = self.prepare(draft)?;
        let servers = self.servers_told()?;
        let event = self.append(pdu, before, Verdict::default(), txn_id)?;
        self.send_to_servers(&event, servers)?;
        Ok(event)
    }

    /// An event as [`Self::send`] appends it, and the root of the state before it, for what another
    /// server has to sign before it counts.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn prepare(&mut self, mut draft: Draft) -> Result<(Pdu, NodeId), Stop> {
        let before = self.state_at_end()?;
        // Asked before anything is signed, so that what has to be read for it is; said only to
        // those who may send the event at all.
        let refused = self.relation_refused(&draft)?.or(self.invite_refused(&draft)?).or(self.guest_refused(&draft, before)?);
        draft.content = Draft::without_vouching(&draft.event_type, draft.content);
        if let Some(user) = draft.authorised_via.take() {
            draft.content.insert(AUTHORISED_VIA.to_owned(), CanonicalJsonValue::String(user.to_string()));
        }
        let pdu = self.build(draft, before)?;
        if pdu.event_type == TimelineEventType::RoomPowerLevels {
            self.check_levels(&pdu, before)?;
        }
        if let Err(reason) = self.check_by_auth_events(&pdu)? {
            return Err(Refused::NotAllowed(reason).into());
        }
        if let Err(reason) = self.check_in_state(&pdu, before)? {
            return Err(Refused::NotAllowed(reason).into());
        }
        // As for a received event: where the room has many ends, the state of a few parents is not
        // all of its state.
        if before != self.state()
            && let Err(reason) = self.check_in_state(&pdu, self.state())?
        {
            return Err(Refused::NotAllowed(reason).into());
        }
        if let Some(refused) = refused {
            return Err(refused.into());
        }
        self.recommended(pdu, before)
    }

    /// A member event of a user of another server, at the end of the room, as that server may sign
    /// it.
    ///
    /// # Errors
    /// [`Refused::NotAllowed`] with the rule's reason.
    pub fn template(&mut self, mut draft: Draft) -> Result<NewPdu, Stop> {
        let before = self.state_at_end()?;
        if let Some(user) = draft.authorised_via.take() {
            draft.content.insert(AUTHORISED_VIA.to_owned(), CanonicalJsonValue::String(user.to_string()));
        }
        let new = self.new_pdu(draft, before)?;
        // Signed for the rules' eyes only.
        let pdu = new.clone().sign(self.hs.server_name(), self.hs.identity.key_pair(), &self.room.rules).map_err(Refused::from)?;
        for checked in [self.check_by_auth_events(&pdu)?, self.check_in_state(&pdu, before)?] {
            checked.map_err(Refused::NotAllowed)?;
        }
        Ok(new)
    }

    /// Power levels of the wrong shape are the client's mistake, and not a matter of what its user
    /// may do.
    fn check_levels(&self, levels: &Pdu, before: NodeId) -> Result<(), Stop> {
        let create = self.state_get(before, &[(StateEventType::RoomCreate, String::new())])?.first().copied().flatten();
        let create = create.map(|position| self.event(position)).transpose()?;
        let create = create.ok_or_else(|| Error::Internal(format!("{} has no create event", self.room.id)))?;
        Ok(auth::check_power_levels(create.pdu.clone(), levels, &self.room.rules.authorization).map_err(Refused::Malformed)?)
    }

    /// What a new event is built on: the newest extremities.
    fn parents(&self) -> Vec<Extremity> {
        self.head.extremities.iter().rev().take(MAX_PREV_EVENTS).cloned().collect()
    }

    /// The state that its parents give a new event.
    fn state_at_end(&mut self) -> Result<NodeId, Stop> {
        let states: Vec<NodeId> = self.parents().iter().map(|parent| NodeId(parent.state)).collect();
        self.resolve(&states)
    }

    fn build(&self, draft: Draft, before: NodeId) -> Result<Pdu, Stop> {
        let new = self.new_pdu(draft, before)?;
        Ok(new.sign(self.hs.server_name(), self.hs.identity.key_pair(), &self.room.rules).map_err(Refused::from)?)
    }

    fn new_pdu(&self, draft: Draft, before: NodeId) -> Result<NewPdu, Stop> {
        let rules = &self.room.rules;
        let is_create = draft.event_type == TimelineEventType::RoomCreate;
        let mut prev_events = Vec::new();
        let mut depth = 0;
        for parent in self.parents() {
            depth = depth.max(parent.depth);
            prev_events.push(self.event(parent.position)?.pdu.reference(rules).map_err(Refused::from)?);
        }
        let mut auth_events = Vec::new();
        for position in self.auth_positions(&draft, before)? {
            auth_events.push(self.event(position)?.pdu.reference(rules).map_err(Refused::from)?);
        }
        let without_id = is_create && rules.authorization.room_create_event_id_as_room_id;
        Ok(NewPdu {
            room_id: (!without_id).then(|| self.room.id.clone()),
            sender: draft.sender,
            event_type: draft.event_type,
            state_key: draft.state_key,
            content: draft.content,
            prev_events,
            auth_events,
            depth: (depth + 1).min(max_depth(rules)),
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.hs.host.now())),
            redacts: draft.redacts,
            event_localpart: format!("{}-{:08x}", self.next_position(), self.hs.identity.instance),
        })
    }

    /// Where the state events stand that authorize an event ("Auth events selection").
    fn auth_positions(&self, draft: &Draft, before: NodeId) -> Result<Vec<crate::position::Position>, Stop> {
        // Only a membership's content says which events it needs.
        let content = match draft.event_type {
            TimelineEventType::RoomMember => {
                serde_json::value::to_raw_value(&*draft.content).map_err(|error| Refused::Malformed(error.to_string()))?
            }
            _ => RawValue::from_string("{}".to_owned()).expect("an empty object is JSON"),
        };
        let keys = auth::auth_events_of(&draft.event_type, &draft.sender, draft.state_key.as_deref(), &content, &self.room.rules.authorization)
            .map_err(Refused::Malformed)?;
        Ok(self.state_get(before, &keys)?.into_iter().flatten().collect())
    }
}
