//! Each user's push rules (Client-Server API, Push Rules: API), kept as account data of type
//! `m.push_rules`.

use super::{
    account_data, transaction,
    wire::{Json as Answer, Own, RulesOfKind, SetPushRule},
};
use crate::{
    damaged::{Damaged, LeaveOut, readable},
    error::{Error, Result},
    homeserver::Homeserver,
    locks::LockKey,
    push::{LONGEST_PATTERN, NewRule, Rule, Rules},
    router::UserCall,
    tables::{self, Json, UserNid},
    transaction::{Submitted, Tx},
};
use http::StatusCode;
use ruma::{
    UserId,
    api::{
        client::push::{
            PushRule, delete_pushrule::v3 as delete_pushrule, get_pushrule::v3 as get_pushrule, get_pushrule_actions::v3 as get_pushrule_actions,
            get_pushrule_enabled::v3 as get_pushrule_enabled, get_pushrules_all::v3 as get_pushrules_all,
            get_pushrules_global_scope::v3 as get_pushrules_global_scope, set_pushrule::v3 as set_pushrule,
            set_pushrule_actions::v3 as set_pushrule_actions, set_pushrule_enabled::v3 as set_pushrule_enabled,
        },
        error::ErrorKind,
    },
    push::{Action, EventMatchConditionData, InsertPushRuleError, NewPushRule, PushCondition, RemovePushRuleError, RuleKind, Ruleset},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The type that the rules are kept as.
pub const TYPE: &str = crate::push::PUSH_RULES;

/// Bytes that all of a user's rules may have.
const LARGEST: usize = 256 << 10;

/// `GET /_matrix/client/v3/pushrules/`
pub async fn get_all(call: UserCall, _: Own<get_pushrules_all::Request>) -> Result<Answer> {
    Ok(Answer::of(&Content { global: own_rules(&call).await? }))
}

/// `GET /_matrix/client/v3/pushrules/global/`
pub async fn get_global(call: UserCall, _: Own<get_pushrules_global_scope::Request>) -> Result<Answer> {
    Ok(Answer::of(&own_rules(&call).await?))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/`, which the specification lost on the way from
/// r0.
pub async fn get_kind(call: UserCall, request: RulesOfKind) -> Result<Answer> {
    let rules = own_rules(&call).await?;
    let rules = rules.of_kind(&request.kind).ok_or_else(Error::unrecognized_part)?;
    Ok(Answer::of(&rules.into_iter().map(PushRule::from).collect::<Vec<_>>()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn get(call: UserCall, request: get_pushrule::Request) -> Result<get_pushrule::Response> {
    let rules = own_rules(&call).await?;
    Ok(get_pushrule::Response::new(find(&rules, &request.kind, &request.rule_id)?.into()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn get_enabled(call: UserCall, request: get_pushrule_enabled::Request) -> Result<get_pushrule_enabled::Response> {
    let rules = own_rules(&call).await?;
    Ok(get_pushrule_enabled::Response::new(find(&rules, &request.kind, &request.rule_id)?.enabled()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn get_actions(call: UserCall, request: get_pushrule_actions::Request) -> Result<get_pushrule_actions::Response> {
    let rules = own_rules(&call).await?;
    Ok(get_pushrule_actions::Response::new(find(&rules, &request.kind, &request.rule_id)?.actions().to_vec()))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn set(call: UserCall, request: SetPushRule) -> Result<set_pushrule::Response> {
    check(&request.rule)?;
    change(&call, |rules, _| {
        let (kind, id) = (request.rule.kind(), request.rule.rule_id().to_owned());
        let places = [request.before.as_deref(), request.after.as_deref()];
        if places.contains(&Some(&*id)) {
            return Err(refused_insertion(InsertPushRuleError::UnknownRuleId));
        }
        // A known rule that is placed anew is taken out first: its place must not count among the
        // others', and ruma would panic where it does.
        let known = rules.get(&kind, &id).map(|rule| rule.enabled());
        if known.is_some() && places.iter().any(Option::is_some) {
            rules.remove(kind.clone(), &id).map_err(refused_removal)?;
        }
        rules.insert(request.rule, request.after.as_deref(), request.before.as_deref()).map_err(refused_insertion)?;
        rules.set_enabled(kind, &id, known.unwrap_or(true)).ok_or_else(no_such_rule)
    })
    .await?;
    Ok(set_pushrule::Response::new())
}

/// `DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn delete(call: UserCall, request: delete_pushrule::Request) -> Result<delete_pushrule::Response> {
    let removed = change(&call, |rules, tx| {
        rules.remove(request.kind, &request.rule_id).map_err(refused_removal)?;
        transaction::remember(&call, tx, None);
        Ok(())
    });
    match removed.await {
        Err(Error::Matrix(error)) if error.status_code == StatusCode::NOT_FOUND && transaction::is_repeated(&call).await? => {}
        removed => removed?,
    }
    Ok(delete_pushrule::Response::new())
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn set_enabled(call: UserCall, request: set_pushrule_enabled::Request) -> Result<set_pushrule_enabled::Response> {
    change(&call, |rules, _| rules.set_enabled(request.kind, &request.rule_id, request.enabled).ok_or_else(no_such_rule)).await?;
    Ok(set_pushrule_enabled::Response::new())
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn set_actions(call: UserCall, request: set_pushrule_actions::Request) -> Result<set_pushrule_actions::Response> {
    check_actions(&request.actions)?;
    change(&call, |rules, _| rules.set_actions(request.kind, &request.rule_id, request.actions).ok_or_else(no_such_rule)).await?;
    Ok(set_pushrule_actions::Response::new())
}

/// What the rules are kept and shown as.
#[derive(Deserialize, Serialize)]
struct Content {
    global: Rules,
}

/// The rules of a user: the stored ones, with the default rules as this version of the server knows
/// them.
pub async fn rules_of(hs: &Homeserver, user: UserNid, user_id: &UserId) -> Result<Rules> {
    let stored = tables::ACCOUNT_DATA.get(hs.store(), &(user, 0, TYPE.to_owned())).await.leave_out()?.flatten();
    Ok(stored.map_or_else(|| Rules::server_default(user_id), |stored| read(&stored.content, user_id)))
}

/// The same of stored rules; the default ones where they are damaged.
fn read(stored: &Json, user_id: &UserId) -> Rules {
    let stored = serde_json::from_str::<Content>(&stored.0).map_err(|error| Damaged::new(format!("the push rules of {user_id}"), error));
    let Some(Content { global: mut rules }) = readable([stored]).next() else { return Rules::server_default(user_id) };
    rules.update_with_server_default(Ruleset::server_default(user_id));
    rules
}

/// Stored rules as this version of the server would store them; those that it cannot read as they
/// are.
pub fn up_to_date(stored: &Json, user_id: &UserId) -> Json {
    stored_as(read(stored, user_id))
}

/// The content that `rules` are kept as.
pub fn stored_as(rules: Rules) -> Json {
    Json(serde_json::to_string(&Content { global: rules }).expect("push rules can be written as JSON"))
}

async fn own_rules(call: &UserCall) -> Result<Rules> {
    rules_of(&call.hs, call.session.user, &call.session.user_id).await
}

/// Changes the rules of the caller; what is staged beside them is written with them.
async fn change(call: &UserCall, change: impl FnOnce(&mut Rules, &mut Tx) -> Result<()>) -> Result<()> {
    let hs = &call.hs;
    let _lock = hs.lock(LockKey::Account(call.session.user_id.to_string())).await;
    let mut rules = own_rules(call).await?;
    let changed = hs.transaction(call.raw.generation, |tx| {
        change(&mut rules, tx)?;
        let content = stored_as(rules);
        if content.0.len() > LARGEST {
            return Err(Error::too_large(format!("Too many push rules: at most {LARGEST} bytes are allowed")));
        }
        account_data::put(tx, call.session.user, 0, TYPE.to_owned(), content);
        Ok(())
    });
    changed.map(Submitted::visible)
}

/// Patterns are asked of every event, and so are short.
fn check(rule: &NewRule) -> Result<()> {
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
        return Err(Error::too_large(format!("Pattern too long: at most {LONGEST_PATTERN} bytes are allowed")));
    }
    Ok(())
}

/// An action that is not known would do nothing, and its user would not learn why.
fn check_actions(actions: &[Action]) -> Result<()> {
    let is_known = |action: &Action| match serde_json::to_value(action) {
        // The last two did nothing for long and are no actions any more, but clients still send
        // them.
        Ok(Value::String(name)) => matches!(name.as_str(), "notify" | "dont_notify" | "coalesce"),
        Ok(Value::Object(fields)) => fields.contains_key("set_tweak"),
        _ => false,
    };
    match actions.iter().all(is_known) {
        true => Ok(()),
        false => Err(Error::invalid_param("Invalid action: expected `notify` or an object with `set_tweak`")),
    }
}

fn pattern(condition: &PushCondition) -> Option<&str> {
    match condition {
        PushCondition::EventMatch(EventMatchConditionData { pattern, .. }) => Some(pattern),
        _ => None,
    }
}

fn find<'a>(rules: &'a Rules, kind: &RuleKind, id: &str) -> Result<Rule<'a>> {
    rules.get(kind, id).ok_or_else(no_such_rule)
}

fn no_such_rule() -> Error {
    Error::not_found("Push rule not found")
}

fn refused_insertion(error: InsertPushRuleError) -> Error {
    let kind = match error {
        InsertPushRuleError::UnknownRuleId | InsertPushRuleError::BeforeHigherThanAfter => ErrorKind::Unknown,
        _ => ErrorKind::InvalidParam,
    };
    Error::new(StatusCode::BAD_REQUEST, kind, error.to_string())
}

fn refused_removal(error: RemovePushRuleError) -> Error {
    match error {
        RemovePushRuleError::NotFound => no_such_rule(),
        _ => Error::invalid_param(error.to_string()),
    }
}
