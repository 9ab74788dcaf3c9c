//! Each user's push rules as they are kept: account data of type `m.push_rules`.

use super::{
    rules::PUSH_RULES,
    ruleset::{NewRule, Rules},
};
use crate::{
    account_data,
    damaged::{Damaged, LeaveOut, readable},
    failure::{Failure, Refusal},
    glob::LONGEST as LONGEST_PATTERN,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, Json, UserNid},
    transaction::{Submitted, Tx},
};
use ephapse_store::StoreError;
use ruma::{
    UserId,
    push::{Action, EventMatchConditionData, InsertPushRuleError, NewPushRule, PushCondition, RemovePushRuleError, RuleKind},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes that all of a user's rules may have.
const LARGEST: usize = 256 << 10;

/// What is refused of push rules, and why.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no rule of this kind and id.
    #[error("Push rule not found")]
    NotFound,
    /// All of them together.
    #[error("Too many push rules: at most {LARGEST} bytes are allowed")]
    TooLarge,
    /// A pattern of a rule.
    #[error("Pattern too long: at most {LONGEST_PATTERN} bytes are allowed")]
    PatternTooLong,
    /// An action of a rule.
    #[error("Invalid action: expected `notify` or an object with `set_tweak`")]
    NoAction,
    /// A rule cannot be put where it should.
    #[error(transparent)]
    Insertion(#[from] InsertPushRuleError),
    /// A rule of the server's is not deleted.
    #[error("{0}")]
    Removal(RemovePushRuleError),
}

/// Why push rules are not changed.
pub type Error = Failure<Refused>;
type Result<T, E = Error> = std::result::Result<T, E>;

impl Refusal for Refused {}

impl From<RemovePushRuleError> for Refused {
    fn from(error: RemovePushRuleError) -> Self {
        match error {
            RemovePushRuleError::NotFound => Self::NotFound,
            error => Self::Removal(error),
        }
    }
}

/// What the rules are kept and shown as.
#[derive(Deserialize, Serialize)]
struct Content {
    global: Rules,
}

/// The rules of a user: the stored ones, with the default rules as this version of the server knows
/// them.
pub async fn rules_of(hs: &Homeserver, user: UserNid, user_id: &UserId) -> Result<Rules, StoreError> {
    let stored = tables::ACCOUNT_DATA.get(hs.store(), &(user, 0, PUSH_RULES.to_owned())).await.leave_out()?.flatten();
    Ok(stored.map_or_else(|| Rules::server_default(user_id), |stored| read(&stored.content, user_id)))
}

/// The same of stored rules; the default ones where they are damaged.
fn read(stored: &Json, user_id: &UserId) -> Rules {
    let stored = serde_json::from_str::<Content>(&stored.0).map_err(|error| Damaged::new(format!("the push rules of {user_id}"), error));
    let Some(Content { global: mut rules }) = readable([stored]).next() else { return Rules::server_default(user_id) };
    rules.update_with_server_default(user_id);
    rules
}

/// Stored rules as this version of the server would store them; those that it cannot read as they
/// are.
pub fn up_to_date(stored: &Json, user_id: &UserId) -> Json {
    stored_as(read(stored, user_id))
}

/// The content that `rules` are kept as.
fn stored_as(rules: Rules) -> Json {
    Json(serde_json::to_string(&Content { global: rules }).expect("push rules can be written as JSON"))
}

/// Stages the rules that a new account begins with: clients see them in their first sync, as any
/// account data.
pub fn put_first(tx: &mut Tx, user: UserNid, user_id: &UserId) {
    account_data::put(tx, user, 0, PUSH_RULES.to_owned(), stored_as(Rules::server_default(user_id)));
}

/// Makes a rule, or changes it where it is known.
pub async fn set(hs: &Homeserver, generation: u64, user: (UserNid, &UserId), rule: NewRule, after: Option<&str>, before: Option<&str>) -> Result<()> {
    check(&rule)?;
    let set = |rules: &mut Rules, _: &mut Tx| {
        let (kind, id) = (rule.kind(), rule.rule_id().to_owned());
        let places = [before, after];
        if places.contains(&Some(&*id)) {
            return Err(InsertPushRuleError::UnknownRuleId.into());
        }
        // A known rule that is placed anew is taken out first: its place must not count among the
        // others', and ruma would panic where it does.
        let known = rules.get(&kind, &id).map(|rule| rule.enabled());
        if known.is_some() && places.iter().any(Option::is_some) {
            rules.remove(kind.clone(), &id)?;
        }
        rules.insert(rule, after, before)?;
        rules.set_enabled(kind, &id, known.unwrap_or(true)).ok_or(Refused::NotFound)
    };
    change(hs, generation, user, set).await
}

/// Deletes a rule that the user has made. What `beside` stages is written with it.
pub async fn delete(
    hs: &Homeserver,
    generation: u64,
    user: (UserNid, &UserId),
    kind: RuleKind,
    id: &str,
    beside: impl FnOnce(&mut Tx),
) -> Result<()> {
    let delete = |rules: &mut Rules, tx: &mut Tx| {
        rules.remove(kind, id)?;
        beside(tx);
        Ok(())
    };
    change(hs, generation, user, delete).await
}

/// Switches a rule on or off.
pub async fn set_enabled(hs: &Homeserver, generation: u64, user: (UserNid, &UserId), kind: RuleKind, id: &str, enabled: bool) -> Result<()> {
    change(hs, generation, user, |rules, _| rules.set_enabled(kind, id, enabled).ok_or(Refused::NotFound)).await
}

/// Sets what is done when a rule matches.
pub async fn set_actions(hs: &Homeserver, generation: u64, user: (UserNid, &UserId), kind: RuleKind, id: &str, actions: Vec<Action>) -> Result<()> {
    check_actions(&actions)?;
    change(hs, generation, user, |rules, _| rules.set_actions(kind, id, actions).ok_or(Refused::NotFound)).await
}

/// Changes the rules of a user; what is staged beside them is written with them.
async fn change(
    hs: &Homeserver,
    generation: u64,
    (user, user_id): (UserNid, &UserId),
    change: impl FnOnce(&mut Rules, &mut Tx) -> Result<(), Refused>,
) -> Result<()> {
    let _lock = hs.lock(LockKey::Account(user_id.to_string())).await;
    let mut rules = rules_of(hs, user, user_id).await?;
    let changed = hs.transaction(generation, |tx| {
        change(&mut rules, tx)?;
        let content = stored_as(rules);
        if content.0.len() > LARGEST {
            return Err(Refused::TooLarge.into());
        }
        account_data::put(tx, user, 0, PUSH_RULES.to_owned(), content);
        Ok(())
    });
    changed.map(Submitted::visible)
}

/// Patterns are asked of every event, and so are short.
fn check(rule: &NewRule) -> Result<(), Refused> {
    let rule = match rule {
        NewRule::Simple { actions, .. } => return check_actions(actions),
        NewRule::Other(rule) => rule,
    };
    check_actions(match rule {
        NewPushRule::Override(rule) | NewPushRule::Underride(rule) => &rule.actions,
        NewPushRule::Content(rule) => &rule.actions,
        NewPushRule::Room(rule) => &rule.actions,
        NewPushRule::Sender(rule) => &rule.actions,
        _ => &[],
    })?;
    let patterns: Vec<&str> = match rule {
        NewPushRule::Content(rule) => vec![&rule.pattern],
        NewPushRule::Override(rule) | NewPushRule::Underride(rule) => rule.conditions.iter().filter_map(pattern).collect(),
        _ => Vec::new(),
    };
    if patterns.iter().any(|pattern| pattern.len() > LONGEST_PATTERN) {
        return Err(Refused::PatternTooLong);
    }
    Ok(())
}

/// An action that is not known would do nothing, and its user would not learn why.
fn check_actions(actions: &[Action]) -> Result<(), Refused> {
    let is_known = |action: &Action| match serde_json::to_value(action) {
        // The last two did nothing for long and are no actions any more, but clients still send
        // them.
        Ok(Value::String(name)) => matches!(name.as_str(), "notify" | "dont_notify" | "coalesce"),
        Ok(Value::Object(fields)) => fields.contains_key("set_tweak"),
        _ => false,
    };
    match actions.iter().all(is_known) {
        true => Ok(()),
        false => Err(Refused::NoAction),
    }
}

fn pattern(condition: &PushCondition) -> Option<&str> {
    match condition {
        PushCondition::EventMatch(EventMatchConditionData { pattern, .. }) => Some(pattern),
        _ => None,
    }
}
