//! State resolution: what states of a room that differ become (rooms/v1.md, v2.md, v12.md "State resolution").
//!
//! v2 and v2.1 are ruma's, given only what the conflict touches: the entries in which the states differ, the auth difference (`auth_chain`), and those entries
//! of the rest that the rules read. What comes out is what the full computation gives. v1 is in `v1`.
//!
//! Nothing here reads a store: what is not [`Known`] is reported as [`Missing`], and the question is asked again. Each round gets further: rounds grow with the
//! depth of the conflict, so a caller bounds what it loads rather than the rounds.

mod auth_chain;
mod known;
mod v1;
mod view;

pub use known::{Citing, Known, Missing};

use super::pdu::{Pdu, StateKey, create_of_room};
use known::Gather;
use ruma::{
    OwnedEventId,
    room_version_rules::{AuthorizationRules, RoomVersionRules, StateResolutionV2Rules, StateResolutionVersion},
    state_res::{self, StateMap, auth_types_for_event, utils::event_id_set::EventIdSet},
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use view::View;

/// The most states that are resolved at once: more than a room keeps extremities.
pub const MAX_STATES: usize = 128;

/// What resolving changes: for each place in which the states differ, and any other that changes, the event that holds it from now on.
pub type Changes = BTreeMap<StateKey, Option<OwnedEventId>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// More must be loaded first.
    #[error("more must be loaded")]
    Missing(Missing),
    /// The states cannot be resolved; no accepted events lead to this.
    #[error("state resolution failed: {0}")]
    Failed(String),
}

/// Resolves states of a room. Of each state, `states` has what it holds of the places in which any two of them differ (`state_tree::conflicts`), and no other.
pub fn resolve(rules: &RoomVersionRules, states: &[StateMap<OwnedEventId>], known: &Known) -> Result<Changes, Unresolved> {
    if states.len() > MAX_STATES {
        return Err(Unresolved::Failed(format!("{} states at once", states.len())));
    }
    let gather = Gather::new(known);
    match &rules.state_res {
        StateResolutionVersion::V1 => v1::resolve(&rules.authorization, states, &gather),
        StateResolutionVersion::V2(v2) => resolve_v2(&rules.authorization, v2, states, &gather),
        _ => Err(Unresolved::Failed("unknown algorithm".to_owned())),
    }
}

fn resolve_v2(
    rules: &AuthorizationRules,
    v2: &StateResolutionV2Rules,
    states: &[StateMap<OwnedEventId>],
    gather: &Gather<'_>,
) -> Result<Changes, Unresolved> {
    let conflicted: BTreeSet<OwnedEventId> = states.iter().flat_map(HashMap::values).cloned().collect();
    let difference = auth_chain::auth_difference(states, &conflicted, gather);
    let subgraph = match v2.consider_conflicted_state_subgraph {
        true => auth_chain::conflicted_subgraph(&conflicted, gather),
        false => BTreeSet::new(),
    };
    gather.complete()?;

    let full: BTreeSet<&OwnedEventId> = conflicted.iter().chain(&difference).chain(&subgraph).collect();
    let full: Vec<&Pdu> = full.into_iter().filter_map(|id| gather.event(id)).collect();
    let reads_unconflicted = !v2.begin_iterative_auth_checks_with_empty_state_map;
    let unconflicted = unconflicted_read(&full, states, reads_unconflicted, rules, gather);
    load_auth_events(&full, rules, gather);
    let cut = view::mainline_cut(&full, unconflicted.values(), gather);
    gather.complete()?;

    let mut maps = states.to_vec();
    for map in &mut maps {
        map.extend(unconflicted.iter().map(|(key, id)| (key.clone(), id.clone())));
    }
    // The difference of these two chains is the auth difference.
    let chains = vec![difference.into_iter().collect::<EventIdSet<_>>(), EventIdSet::new()];
    let subgraph: EventIdSet<OwnedEventId> = subgraph.into_iter().collect();
    let resolved =
        state_res::resolve(rules, v2, &maps, chains, |id| gather.event(id).map(|event| View::new(event, cut.as_ref())), |_| Some(subgraph.clone()));
    // Misses first: what ruma did not find it leaves out or fails on.
    gather.complete()?;
    let resolved = resolved.map_err(|error| Unresolved::Failed(error.to_string()))?;
    Ok(changes(states, &unconflicted, resolved))
}

/// The entries outside the conflict that the algorithm reads: where the events stand, and what allows them.
fn unconflicted_read(
    full: &[&Pdu],
    states: &[StateMap<OwnedEventId>],
    reads_auth_state: bool,
    rules: &AuthorizationRules,
    gather: &Gather<'_>,
) -> StateMap<OwnedEventId> {
    let mut keys = BTreeSet::new();
    for event in full {
        keys.extend(event.key());
        if reads_auth_state {
            keys.extend(auth_keys(event, rules));
        }
    }
    let conflicts = |key: &StateKey| states.iter().any(|state| state.contains_key(key));
    let read = keys.into_iter().filter(|key| !conflicts(key));
    read.filter_map(|key| gather.unconflicted(&key).map(|id| (key, id.clone()))).collect()
}

/// What the rules read for an event; nothing for a malformed one, which the algorithm passes over.
fn auth_keys(event: &Pdu, rules: &AuthorizationRules) -> Vec<StateKey> {
    auth_types_for_event(&event.event_type, &event.sender, event.state_key.as_deref(), &event.content, rules).unwrap_or_default()
}

/// Asks for all at once what ruma would miss one by one.
fn load_auth_events(full: &[&Pdu], rules: &AuthorizationRules, gather: &Gather<'_>) {
    for id in full.iter().flat_map(|event| &event.auth_events) {
        gather.event(id);
    }
    if let (true, Some(event)) = (rules.room_create_event_id_as_room_id, full.first())
        && let Some(create) = create_of_room(&event.room_id)
    {
        gather.event(&create);
    }
}

fn changes(states: &[StateMap<OwnedEventId>], unconflicted: &StateMap<OwnedEventId>, resolved: StateMap<OwnedEventId>) -> Changes {
    let mut changes: Changes = states.iter().flat_map(HashMap::keys).map(|key| (key.clone(), None)).collect();
    // Also a place that no state holds, when the rules give it to an event of the auth difference.
    let decided = resolved.into_iter().filter(|(key, _)| !unconflicted.contains_key(key));
    changes.extend(decided.map(|(key, id)| (key, Some(id))));
    changes
}

/// What the walks of auth chains find, for tests that compare it with the definitions.
#[cfg(test)]
pub(super) fn walk(
    states: &[StateMap<OwnedEventId>],
    conflicted: &BTreeSet<OwnedEventId>,
    known: &Known,
) -> Result<(BTreeSet<OwnedEventId>, BTreeSet<OwnedEventId>), Unresolved> {
    let gather = Gather::new(known);
    let difference = auth_chain::auth_difference(states, conflicted, &gather);
    let subgraph = auth_chain::conflicted_subgraph(conflicted, &gather);
    gather.complete()?;
    Ok((difference.difference(conflicted).cloned().collect(), subgraph))
}

#[cfg(test)]
mod tests;
