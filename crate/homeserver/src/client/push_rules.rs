//! Each user's push rules (Client-Server API, Push Rules: API).

use super::{
    answered,
    wire::{Json as Answer, Own, RulesOfKind, SetPushRule},
};
use crate::{
    error::{Error, Result},
    failure::Failure,
    push::{Refused, Rule, Rules, user_rules},
    router::UserCall,
    tables::UserNid,
};
use ruma::{
    UserId,
    api::client::push::{
        PushRule, delete_pushrule::v3 as delete_pushrule, get_pushrule::v3 as get_pushrule, get_pushrule_actions::v3 as get_pushrule_actions,
        get_pushrule_enabled::v3 as get_pushrule_enabled, get_pushrules_all::v3 as get_pushrules_all,
        get_pushrules_global_scope::v3 as get_pushrules_global_scope, set_pushrule::v3 as set_pushrule,
        set_pushrule_actions::v3 as set_pushrule_actions, set_pushrule_enabled::v3 as set_pushrule_enabled,
    },
    push::RuleKind,
};
use std::collections::BTreeMap;

/// `GET /_matrix/client/v3/pushrules/`
pub async fn get_all(call: UserCall, _: Own<get_pushrules_all::Request>) -> Result<Answer> {
    Ok(Answer::of(&BTreeMap::from([("global", own_rules(&call).await?)])))
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
    user_rules::set(&call.hs, call.raw.generation, own(&call), request.rule, request.after.as_deref(), request.before.as_deref()).await?;
    Ok(set_pushrule::Response::new())
}

/// `DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn delete(call: UserCall, request: delete_pushrule::Request) -> Result<delete_pushrule::Response> {
    let remember = |tx: &mut _| answered::remember(&call, tx, None);
    match user_rules::delete(&call.hs, call.raw.generation, own(&call), request.kind, &request.rule_id, remember).await {
        Err(Failure::Refused(Refused::NotFound)) if answered::is_repeated(&call).await? => {}
        deleted => deleted?,
    }
    Ok(delete_pushrule::Response::new())
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn set_enabled(call: UserCall, request: set_pushrule_enabled::Request) -> Result<set_pushrule_enabled::Response> {
    user_rules::set_enabled(&call.hs, call.raw.generation, own(&call), request.kind, &request.rule_id, request.enabled).await?;
    Ok(set_pushrule_enabled::Response::new())
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn set_actions(call: UserCall, request: set_pushrule_actions::Request) -> Result<set_pushrule_actions::Response> {
    user_rules::set_actions(&call.hs, call.raw.generation, own(&call), request.kind, &request.rule_id, request.actions).await?;
    Ok(set_pushrule_actions::Response::new())
}

fn own(call: &UserCall) -> (UserNid, &UserId) {
    (call.session.user, &call.session.user_id)
}

async fn own_rules(call: &UserCall) -> Result<Rules> {
    Ok(user_rules::rules_of(&call.hs, call.session.user, &call.session.user_id).await?)
}

fn find<'a>(rules: &'a Rules, kind: &RuleKind, id: &str) -> Result<Rule<'a>> {
    Ok(rules.get(kind, id).ok_or(Refused::NotFound)?)
}
