//! A user's push rules as they are kept and answered.
//!
//! ruma's [`Ruleset`] does most of it. But rules of rooms and senders may have any id
//! (Client-Server API, Push Rules: `ruleId` is a string), and ruma's only ids of rooms and users;
//! and of a kind without rules ruma writes nothing, where clients look for a list.

use ruma::{
    UserId,
    api::client::push::PushRule,
    push::{
        Action, ConditionalPushRule, InsertPushRuleError, NewPushRule, PatternedPushRule, RemovePushRuleError, RuleKind, Ruleset, SimplePushRule,
        SimplePushRuleInit,
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A rule of a room or a sender.
pub type SimpleRule = SimplePushRule<String>;

/// A user's rules.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Those of the other kinds; of rooms and senders it has none.
    others: Ruleset,
    room: Vec<SimpleRule>,
    sender: Vec<SimpleRule>,
}

/// A rule of any kind.
#[derive(Clone, Copy, Debug)]
pub enum Rule<'a> {
    /// `override` or `underride`.
    Conditional(&'a ConditionalPushRule),
    /// `content`
    Patterned(&'a PatternedPushRule),
    /// `room`
    Room(&'a SimpleRule),
    /// `sender`
    Sender(&'a SimpleRule),
}

/// A rule that a user makes.
pub enum NewRule {
    /// Of a room or a sender.
    Simple {
        /// Which of the two.
        kind: RuleKind,
        /// The rule's id.
        rule_id: String,
        /// What is done when it matches.
        actions: Vec<Action>,
    },
    /// Of another kind.
    Other(NewPushRule),
}

/// The default rules of this version of the server: ruma's.
fn defaults(user: &UserId) -> Ruleset {
    Ruleset::server_default(user)
}

impl Rules {
    /// What everybody begins with.
    pub fn server_default(user: &UserId) -> Self {
        Self { others: defaults(user), ..Self::default() }
    }

    /// Brings the default rules up to those of this version of the server.
    pub fn update_with_server_default(&mut self, user: &UserId) {
        self.others.update_with_server_default(defaults(user));
    }

    /// All of them, those that decide first in front.
    pub fn iter(&self) -> impl Iterator<Item = Rule<'_>> {
        let Self { others, room, sender } = self;
        let first = others.override_.iter().map(Rule::Conditional).chain(others.content.iter().map(Rule::Patterned));
        let then = room.iter().map(Rule::Room).chain(sender.iter().map(Rule::Sender));
        first.chain(then).chain(others.underride.iter().map(Rule::Conditional))
    }

    /// Those of a kind; `None` where there is no such kind.
    pub fn of_kind(&self, kind: &RuleKind) -> Option<Vec<Rule<'_>>> {
        Some(match kind {
            RuleKind::Override => self.others.override_.iter().map(Rule::Conditional).collect(),
            RuleKind::Underride => self.others.underride.iter().map(Rule::Conditional).collect(),
            RuleKind::Content => self.others.content.iter().map(Rule::Patterned).collect(),
            RuleKind::Room => self.room.iter().map(Rule::Room).collect(),
            RuleKind::Sender => self.sender.iter().map(Rule::Sender).collect(),
            _ => return None,
        })
    }

    /// One of them.
    pub fn get(&self, kind: &RuleKind, id: &str) -> Option<Rule<'_>> {
        self.of_kind(kind)?.into_iter().find(|rule| rule.id() == id)
    }

    /// As ruma's: without `after` and `before` a new rule comes in front, and a known one stays
    /// where it is.
    pub fn insert(&mut self, rule: NewRule, after: Option<&str>, before: Option<&str>) -> Result<(), InsertPushRuleError> {
        let (kind, rule_id, actions) = match rule {
            NewRule::Simple { kind, rule_id, actions } => (kind, rule_id, actions),
            NewRule::Other(rule) => return self.others.insert(rule, after, before),
        };
        if rule_id.starts_with('.') {
            return Err(InsertPushRuleError::ServerDefaultRuleId);
        }
        if rule_id.contains(['/', '\\']) {
            return Err(InsertPushRuleError::InvalidRuleId);
        }
        if after.into_iter().chain(before).any(|id| id.starts_with('.')) {
            return Err(InsertPushRuleError::RelativeToServerDefaultRule);
        }
        let rules = self.simple(&kind).ok_or(InsertPushRuleError::InvalidRuleId)?;
        if let Some(known) = rules.iter_mut().find(|known| known.rule_id == rule_id)
            && after.is_none()
            && before.is_none()
        {
            known.actions = actions;
            return Ok(());
        }
        rules.retain(|known| known.rule_id != rule_id);
        let place = |id: &str| rules.iter().position(|rule| rule.rule_id == id).ok_or(InsertPushRuleError::UnknownRuleId);
        let lowest = after.map(place).transpose()?.map_or(0, |after| after + 1);
        let at = before.map(place).transpose()?.unwrap_or(lowest);
        if at < lowest {
            return Err(InsertPushRuleError::BeforeHigherThanAfter);
        }
        rules.insert(at, SimplePushRuleInit { actions, default: false, enabled: true, rule_id }.into());
        Ok(())
    }

    /// Removes a rule that a user has made.
    pub fn remove(&mut self, kind: RuleKind, id: &str) -> Result<(), RemovePushRuleError> {
        let Some(rules) = self.simple(&kind) else { return self.others.remove(kind, id) };
        let at = rules.iter().position(|rule| rule.rule_id == id).ok_or(RemovePushRuleError::NotFound)?;
        rules.remove(at);
        Ok(())
    }

    /// Switches a rule on or off; `None` where there is no such rule.
    pub fn set_enabled(&mut self, kind: RuleKind, id: &str, enabled: bool) -> Option<()> {
        let Some(rules) = self.simple(&kind) else { return self.others.set_enabled(kind, id, enabled).ok() };
        rules.iter_mut().find(|rule| rule.rule_id == id)?.enabled = enabled;
        Some(())
    }

    /// Sets what is done when a rule matches; `None` where there is no such rule.
    pub fn set_actions(&mut self, kind: RuleKind, id: &str, actions: Vec<Action>) -> Option<()> {
        let Some(rules) = self.simple(&kind) else { return self.others.set_actions(kind, id, actions).ok() };
        rules.iter_mut().find(|rule| rule.rule_id == id)?.actions = actions;
        Some(())
    }

    fn simple(&mut self, kind: &RuleKind) -> Option<&mut Vec<SimpleRule>> {
        match kind {
            RuleKind::Room => Some(&mut self.room),
            RuleKind::Sender => Some(&mut self.sender),
            _ => None,
        }
    }
}

impl Rule<'_> {
    /// The rule's id.
    pub fn id(&self) -> &str {
        match self {
            Self::Conditional(rule) => &rule.rule_id,
            Self::Patterned(rule) => &rule.rule_id,
            Self::Room(rule) | Self::Sender(rule) => &rule.rule_id,
        }
    }

    /// Whether it counts.
    pub fn enabled(&self) -> bool {
        match self {
            Self::Conditional(rule) => rule.enabled,
            Self::Patterned(rule) => rule.enabled,
            Self::Room(rule) | Self::Sender(rule) => rule.enabled,
        }
    }

    /// What is done when it matches.
    pub fn actions(&self) -> &[Action] {
        match self {
            Self::Conditional(rule) => &rule.actions,
            Self::Patterned(rule) => &rule.actions,
            Self::Room(rule) | Self::Sender(rule) => &rule.actions,
        }
    }
}

impl From<Rule<'_>> for PushRule {
    fn from(rule: Rule<'_>) -> Self {
        match rule {
            Rule::Conditional(rule) => rule.clone().into(),
            Rule::Patterned(rule) => rule.clone().into(),
            Rule::Room(rule) | Rule::Sender(rule) => rule.clone().into(),
        }
    }
}

impl NewRule {
    /// The rule's kind.
    pub fn kind(&self) -> RuleKind {
        match self {
            Self::Simple { kind, .. } => kind.clone(),
            Self::Other(rule) => rule.kind(),
        }
    }

    /// The rule's id.
    pub fn rule_id(&self) -> &str {
        match self {
            Self::Simple { rule_id, .. } => rule_id,
            Self::Other(rule) => rule.rule_id(),
        }
    }
}

impl Serialize for Rules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = |rules: Vec<Rule<'_>>| rules.into_iter().map(PushRule::from).collect();
        let of_kind = |kind| self.of_kind(&kind).map(written).unwrap_or_default();
        let written = Written {
            content: of_kind(RuleKind::Content),
            override_: of_kind(RuleKind::Override),
            room: of_kind(RuleKind::Room),
            sender: of_kind(RuleKind::Sender),
            underride: of_kind(RuleKind::Underride),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Read { content, override_, room, sender, underride } = Read::deserialize(deserializer)?;
        let mut rules = Self { others: Ruleset::new(), room, sender };
        rules.others.content = content.into_iter().collect();
        rules.others.override_ = override_.into_iter().collect();
        rules.others.underride = underride.into_iter().collect();
        Ok(rules)
    }
}

#[derive(Serialize)]
struct Written {
    content: Vec<PushRule>,
    #[serde(rename = "override")]
    override_: Vec<PushRule>,
    room: Vec<PushRule>,
    sender: Vec<PushRule>,
    underride: Vec<PushRule>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Read {
    content: Vec<PatternedPushRule>,
    #[serde(rename = "override")]
    override_: Vec<ConditionalPushRule>,
    room: Vec<SimpleRule>,
    sender: Vec<SimpleRule>,
    underride: Vec<ConditionalPushRule>,
}
