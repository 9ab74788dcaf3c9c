//! Power levels: who may do what in a state (rooms/v10 and v12, "m.room.power_levels").

use crate::{Inserted, Pdu};
use ruma::{
    OwnedUserId, UserId,
    events::TimelineEventType,
    room_version_rules::AuthorizationRules,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

/// What is one level each.
const INT_FIELDS: [RoomPowerLevelsIntField; 7] = [
    RoomPowerLevelsIntField::UsersDefault,
    RoomPowerLevelsIntField::EventsDefault,
    RoomPowerLevelsIntField::StateDefault,
    RoomPowerLevelsIntField::Ban,
    RoomPowerLevelsIntField::Kick,
    RoomPowerLevelsIntField::Redact,
    RoomPowerLevelsIntField::Invite,
];

/// What a room's create and power levels events say together: who has which level, and what takes
/// which.
pub struct PowerLevels<'a> {
    creators: HashSet<OwnedUserId>,
    levels: Option<RoomPowerLevelsEvent<Arc<Pdu>>>,
    rules: &'a AuthorizationRules,
}

impl<'a> PowerLevels<'a> {
    /// Levels by the two events; a room without power levels gives its creator 100.
    ///
    /// # Errors
    /// Why the events cannot be read.
    pub fn new(create: Arc<Pdu>, levels: Option<Arc<Pdu>>, rules: &'a AuthorizationRules) -> Result<Self, String> {
        let creators = RoomCreateEvent::new(create).creators(rules)?;
        Ok(Self { creators, levels: levels.map(RoomPowerLevelsEvent::new), rules })
    }

    /// A user's level; since v12 creators stand above all.
    pub fn user(&self, user: &UserId) -> Result<i64, String> {
        let creator = self.creators.contains(user);
        match &self.levels {
            _ if creator && self.rules.explicitly_privilege_room_creators => Ok(i64::MAX),
            Some(levels) => levels.user_power_level(user, self.rules).map(i64::from),
            None => Ok(if creator { 100 } else { 0 }),
        }
    }

    /// The creators, and those who have a level of their own.
    pub fn named(&self) -> Result<BTreeSet<OwnedUserId>, String> {
        let users = self.levels.as_ref().map(|levels| levels.users(self.rules)).transpose()?.flatten();
        Ok(self.creators.iter().chain(users.into_iter().flat_map(|users| users.keys())).cloned().inserted())
    }

    /// What sending an event of a type takes.
    pub fn event(&self, event_type: &TimelineEventType, state_key: Option<&str>) -> Result<i64, String> {
        match &self.levels {
            Some(levels) => levels.event_power_level(event_type, state_key, self.rules).map(i64::from),
            // "If [...] there is no m.room.power_levels event, the state_default is 50", and "the
            // events_default is 0".
            None if state_key.is_some() => self.field(RoomPowerLevelsIntField::StateDefault),
            None => self.field(RoomPowerLevelsIntField::EventsDefault),
        }
    }

    /// What redacting others' events takes.
    pub fn redact(&self) -> Result<i64, String> {
        self.field(RoomPowerLevelsIntField::Redact)
    }

    /// Whether a user's level is enough for it.
    pub fn may_redact_others(&self, user: &UserId) -> Result<bool, String> {
        Ok(self.user(user)? >= self.redact()?)
    }

    /// What inviting takes.
    pub fn invite(&self) -> Result<i64, String> {
        self.field(RoomPowerLevelsIntField::Invite)
    }

    fn field(&self, field: RoomPowerLevelsIntField) -> Result<i64, String> {
        match &self.levels {
            Some(levels) => levels.get_as_int_or_default(field, self.rules).map(i64::from),
            None => Ok(field.default_value().into()),
        }
    }
}

/// Checks that an `m.room.power_levels` event can be read at all: levels are integers, and `users`
/// has users of whom none is a creator since v12.
///
/// # Errors
/// What cannot be read.
pub fn check_power_levels(create: Arc<Pdu>, levels: &Pdu, rules: &AuthorizationRules) -> Result<(), String> {
    let levels = RoomPowerLevelsEvent::new(Arc::new(levels.clone()));
    for field in INT_FIELDS {
        levels.get_as_int(field, rules)?;
    }
    levels.events(rules)?;
    levels.notifications(rules)?;
    let Some(users) = levels.users(rules)? else { return Ok(()) };
    if rules.explicitly_privilege_room_creators
        && let Some(creator) = RoomCreateEvent::new(create).creators(rules)?.iter().find(|creator| users.contains_key(*creator))
    {
        return Err(format!("{creator} is a creator of the room, and has no power level"));
    }
    Ok(())
}
