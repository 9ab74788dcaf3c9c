//! A user's push rules, and what they make of an event.

use super::{
    conditions::{Conditions, Context, Judge},
    user_rules,
};
use crate::{
    damaged::LeaveOut,
    error::Result,
    homeserver::Homeserver,
    room::{Event, RoomInfo},
    rows::Rows,
    tables::{Change, RoomHead, UserNid},
};
use ephapse_store::Reader;
use ruma::{
    OwnedUserId, UInt, UserId,
    events::{
        StateEventType,
        room::power_levels::{RoomPowerLevels, RoomPowerLevelsSource},
    },
    state_res::events::RoomCreateEvent,
};
use serde::Deserialize;
use std::rc::Rc;

/// The type of the account data that holds a user's rules.
pub const PUSH_RULES: &str = "m.push_rules";

/// Bytes of rules in memory.
const CACHED_BYTES: usize = 4 << 20;

/// Rules lately used.
pub struct RuleSets(Rows<UserNid, Rc<Conditions>>);

impl RuleSets {
    /// Of what `reader` reads.
    pub fn new(reader: &Reader) -> Self {
        Self(Rows::new(reader, CACHED_BYTES))
    }

    /// Forgets the rules of users who changed them.
    pub fn changed(&self, changes: &[Change]) {
        for change in changes {
            if let Change::AccountData { user, room: 0, kind } = change
                && kind == PUSH_RULES
            {
                self.0.forget(user);
            }
        }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.clear();
    }

    /// Bytes that they take in memory, roughly.
    pub fn cached_bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// What an event does to a user's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// It notifies.
    pub notify: bool,
    /// It is highlighted.
    pub highlight: bool,
}

/// A user's rules in a room.
pub struct Evaluation<'a> {
    rules: Rc<Conditions>,
    judge: Judge<'a>,
}

impl Evaluation<'_> {
    /// What an event of somebody else's does to the user's counts.
    pub async fn of(&self, event: &Event) -> Effect {
        self.judge.judge(&self.rules, &event.pdu).await
    }
}

impl Homeserver {
    /// A user's rules: their own, or the default ones.
    async fn push_rules(&self, user: UserNid, user_id: &UserId) -> Result<Rc<Conditions>> {
        if let Some(rules) = self.sync.rules.0.get(&user) {
            return Ok(rules);
        }
        let since = self.sync.rules.0.read_since();
        let rules = Rc::new(Conditions::of(&user_rules::rules_of(self, user, user_id).await?));
        let weight = rules.weight();
        Ok(self.sync.rules.0.found(since, user, rules, weight))
    }

    /// A user's rules in a room as it is now.
    pub(crate) async fn push_evaluation(&self, room: &RoomInfo, head: &RoomHead, user: UserNid, user_id: &OwnedUserId) -> Result<Evaluation<'_>> {
        let rules = self.push_rules(user, user_id).await?;
        let key = (StateEventType::RoomMember, user_id.to_string());
        let member = self.state_event(room.nid, crate::room::NodeId(head.state), key).await.leave_out()?.flatten();
        let context = Context {
            room: room.id.clone(),
            members: UInt::from(head.joined),
            display_name: member.and_then(|member| display_name(&member)).unwrap_or_else(|| user_id.localpart().to_owned()),
            power_levels: self.power_levels(room, head).await?.map(Into::into),
        };
        Ok(Evaluation { rules, judge: Judge::in_room(context, &*self.host) })
    }

    async fn power_levels(&self, room: &RoomInfo, head: &RoomHead) -> Result<Option<RoomPowerLevels>> {
        let rules = &room.rules.authorization;
        let Some(create) = head.create else { return Ok(None) };
        let positions: Vec<_> = [Some(create), head.power_levels].into_iter().flatten().collect();
        let events = self.events_at(room.nid, &positions).await?;
        let mut events = events.into_iter();
        let Some(create) = events.next().flatten() else { return Ok(None) };
        let Ok(creators) = RoomCreateEvent::new(create.pdu.clone()).creators(rules) else { return Ok(None) };
        let levels = events.next().flatten().and_then(|event| serde_json::from_str(event.pdu.content.get()).ok());
        let source = levels.map_or(RoomPowerLevelsSource::None, RoomPowerLevelsSource::Original);
        Ok(Some(RoomPowerLevels::new(source, rules, creators.iter().cloned().collect::<Vec<_>>())))
    }
}

fn display_name(member: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        displayname: Option<String>,
    }
    serde_json::from_str::<Content>(member.pdu.content.get()).ok()?.displayname
}
