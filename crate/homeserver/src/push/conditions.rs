//! A user's push rules as they are asked of events (Client-Server API, Push Rules and Conditions):
//! each rule's conditions, read once.
//!
//! ruma's own evaluation writes out the path of every property of an event and makes a regular
//! expression of every pattern: a message could be made that takes thousands of times its size, and
//! a rule that panics.

use super::{
    rules::Effect,
    ruleset::{self, Rules},
};
use crate::{
    glob::{self, Glob},
    host::Host,
    property_paths::Paths,
    time_slice::TimeSlice,
};
use ephapse_events::Pdu;
use ruma::{
    OwnedRoomId, OwnedUserId, UInt,
    power_levels::NotificationPowerLevelsKey,
    push::{Action, EventMatchConditionData, FlattenedJsonValue, PushCondition, PushConditionPowerLevelsCtx, RoomMemberCountIs, ScalarJsonValue},
};
use std::{cell::OnceCell, ops::RangeBounds};

/// The property in which words are matched.
const BODY: &str = "content.body";
/// So many bytes are compared before others have their turn.
const SLICE: usize = 4 << 20;

/// The rules of a user that are enabled, as they are checked.
#[derive(Debug, Default)]
pub struct Conditions {
    rules: Vec<Rule>,
    paths: Paths,
}

#[derive(Debug)]
struct Rule {
    conditions: Vec<Condition>,
    effect: Effect,
}

/// A condition; properties by the number of their path.
#[derive(Debug)]
enum Condition {
    RoomMatches(Glob),
    Matches(usize, Glob),
    HasWords(usize, Glob),
    HasDisplayName(usize),
    Is(usize, ScalarJsonValue),
    Contains(usize, ScalarJsonValue),
    MemberCount(RoomMemberCountIs),
    SenderMayNotify(NotificationPowerLevelsKey),
    Room(OwnedRoomId),
    Sender(OwnedUserId),
}

/// What conditions look at beside the event.
pub struct Context {
    /// The room.
    pub room: OwnedRoomId,
    /// How many are in it.
    pub members: UInt,
    /// What the user is called there.
    pub display_name: String,
    /// Who may notify whom.
    pub power_levels: Option<PushConditionPowerLevelsCtx>,
}

impl Conditions {
    /// Those of a user's rules.
    pub fn of(rules: &Rules) -> Self {
        let mut conditions = Self::default();
        for rule in rules.iter().filter(|rule| rule.enabled()) {
            // "Unrecognised conditions MUST NOT match any events, effectively making the push rule
            // disabled."
            if let Some(read) = conditions.read(rule) {
                let notify = rule.actions().iter().any(Action::should_notify);
                let effect = Effect { notify, highlight: notify && rule.actions().iter().any(Action::is_highlight) };
                conditions.rules.push(Rule { conditions: read, effect });
            }
        }
        conditions
    }

    fn read(&mut self, rule: ruleset::Rule<'_>) -> Option<Vec<Condition>> {
        match rule {
            ruleset::Rule::Conditional(rule) => rule.conditions.iter().map(|condition| self.condition(condition)).collect(),
            ruleset::Rule::Patterned(rule) => Some(vec![Condition::HasWords(self.paths.add(BODY)?, Glob::new(&rule.pattern)?)]),
            // What is no id of a room or a user is that of no event.
            ruleset::Rule::Room(rule) => Some(vec![Condition::Room(rule.rule_id.as_str().try_into().ok()?)]),
            ruleset::Rule::Sender(rule) => Some(vec![Condition::Sender(rule.rule_id.as_str().try_into().ok()?)]),
        }
    }

    fn condition(&mut self, condition: &PushCondition) -> Option<Condition> {
        Some(match condition {
            PushCondition::EventMatch(EventMatchConditionData { key, pattern, .. }) => match key.as_str() {
                // Not every event says it itself.
                "room_id" => Condition::RoomMatches(Glob::new(pattern)?),
                BODY => Condition::HasWords(self.paths.add(key)?, Glob::new(pattern)?),
                _ => Condition::Matches(self.paths.add(key)?, Glob::new(pattern)?),
            },
            #[expect(deprecated, reason = "rules of before have it")]
            PushCondition::ContainsDisplayName => Condition::HasDisplayName(self.paths.add(BODY)?),
            PushCondition::RoomMemberCount(data) => Condition::MemberCount(data.is),
            PushCondition::SenderNotificationPermission(data) => Condition::SenderMayNotify(data.key.clone()),
            PushCondition::EventPropertyIs(data) => Condition::Is(self.paths.add(&data.key)?, data.value.clone()),
            PushCondition::EventPropertyContains(data) => Condition::Contains(self.paths.add(&data.key)?, data.value.clone()),
            _ => return None,
        })
    }

    /// Bytes that they take in memory, roughly.
    pub fn weight(&self) -> usize {
        let conditions = self.rules.iter().flat_map(|rule| &rule.conditions);
        self.paths.weight() + size_of::<Rule>() * self.rules.len() + conditions.map(Condition::weight).sum::<usize>()
    }
}

impl Condition {
    fn weight(&self) -> usize {
        let scalar = |value: &ScalarJsonValue| value.as_str().map_or(0, str::len);
        size_of::<Self>()
            + match self {
                Self::RoomMatches(glob) | Self::Matches(_, glob) | Self::HasWords(_, glob) => glob.weight(),
                Self::Is(_, value) | Self::Contains(_, value) => scalar(value),
                Self::SenderMayNotify(key) => key.as_str().len(),
                Self::Room(id) => id.as_str().len(),
                Self::Sender(id) => id.as_str().len(),
                Self::HasDisplayName(_) | Self::MemberCount(_) => 0,
            }
    }
}

/// What a user's rules make of the events of a room.
pub struct Judge<'a> {
    room_id: String,
    context: Context,
    /// `None`: the display name is too long for a pattern, or empty, and so in nobody's words.
    display_name: Option<Glob>,
    /// Of bytes compared.
    slice: TimeSlice<'a>,
}

impl<'a> Judge<'a> {
    /// One for a room.
    pub fn in_room(context: Context, host: &'a dyn Host) -> Self {
        let display_name = Some(&*context.display_name).filter(|name| !name.is_empty()).and_then(Glob::literal);
        Self { room_id: glob::folded(context.room.as_str()), display_name, context, slice: TimeSlice::of(host, SLICE) }
    }

    /// What the first rule that applies to an event of somebody else's does. An event that is no
    /// JSON does nothing.
    pub async fn judge(&self, conditions: &Conditions, event: &Pdu) -> Effect {
        let Ok(found) = conditions.paths.find(&event.json) else { return Effect::default() };
        let facts = Facts { event, folded: found.iter().map(|_| OnceCell::new()).collect(), found };
        for rule in &conditions.rules {
            if self.all_apply(&rule.conditions, &facts).await {
                return rule.effect;
            }
        }
        Effect::default()
    }

    async fn all_apply(&self, conditions: &[Condition], facts: &Facts<'_>) -> bool {
        for condition in conditions {
            self.slice.check().await;
            if !self.applies(condition, facts) {
                return false;
            }
        }
        true
    }

    fn applies(&self, condition: &Condition, facts: &Facts<'_>) -> bool {
        match condition {
            Condition::RoomMatches(glob) => glob.matches(&self.room_id),
            Condition::Matches(at, glob) => facts.folded(*at).is_some_and(|text| self.compares(glob, text).matches(text)),
            Condition::HasWords(at, glob) => facts.folded(*at).is_some_and(|text| self.compares(glob, text).occurs_in(text)),
            Condition::HasDisplayName(at) => {
                let name = self.display_name.as_ref().zip(facts.folded(*at));
                name.is_some_and(|(name, text)| self.compares(name, text).occurs_in(text))
            }
            Condition::Is(at, value) => facts.found[*at].as_ref().is_some_and(|found| found == value),
            Condition::Contains(at, value) => {
                facts.found[*at].as_ref().and_then(FlattenedJsonValue::as_array).is_some_and(|found| found.contains(value))
            }
            Condition::MemberCount(is) => is.contains(&self.context.members),
            Condition::SenderMayNotify(key) => {
                let levels = self.context.power_levels.as_ref();
                levels.is_some_and(|levels| levels.has_sender_notification_permission(&facts.event.sender, key))
            }
            Condition::Room(id) => *id == self.context.room,
            Condition::Sender(id) => *id == facts.event.sender,
        }
    }

    fn compares<'g>(&self, glob: &'g Glob, text: &str) -> &'g Glob {
        self.slice.spend(text.len() * glob.effort());
        glob
    }
}

/// An event, as far as conditions look at it.
struct Facts<'a> {
    event: &'a Pdu,
    found: Vec<Option<FlattenedJsonValue>>,
    folded: Vec<OnceCell<String>>,
}

impl Facts<'_> {
    fn folded(&self, at: usize) -> Option<&str> {
        let text = self.found[at].as_ref()?.as_str()?;
        Some(self.folded[at].get_or_init(|| glob::folded(text)))
    }
}
