//! State resolution: what states of a room that differ become (rooms/v1.md, v2.md, v12.md "State
//! resolution").
//!
//! v2 and v2.1 are in `v2`, given only what the conflict touches: the entries in which the states
//! differ, the auth difference (`auth_chain`), and those entries of the rest that the rules read.
//! What comes out is what the full computation gives, which tests have from ruma. v1 is in `v1`.
//! The rules are ruma's, asked a few at a time (`judgements`).
//!
//! Nothing here reads a store: what is not [`Known`] is reported as [`Missing`], and the question
//! is asked again. Each round goes on where the last one stopped: rounds grow with the depth of the
//! conflict, so a caller bounds what it loads rather than the rounds.

mod auth_chain;
mod in_memory;
mod judgements;
mod known;
mod mainlines;
mod v1;
mod v2;

pub use in_memory::{conflicts, resolve_in_memory};
pub use known::{Citing, Known, Missing};

use crate::{Pdu, StateKey, create_of_room};
use auth_chain::Walks;
use judgements::Judgements;
use known::Gather;
use mainlines::Mainlines;
use ruma::{
    OwnedEventId,
    events::StateEventType,
    room_version_rules::{AuthorizationRules, RoomVersionRules, StateResolutionV2Rules, StateResolutionVersion},
    state_res::{StateMap, auth_types_for_event},
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The most states that are resolved at once: more than a room keeps extremities.
pub const MAX_STATES: usize = 128;

/// What resolving changes: for each place in which the states differ, and any other that changes,
/// the event that holds it from now on.
pub type Changes = BTreeMap<StateKey, Option<OwnedEventId>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// More must be loaded first.
    #[error("more must be loaded")]
    Missing(Missing),
    /// It is long: others have their turn before the question is asked again.
    #[error("others have their turn")]
    Unfinished,
    /// The states cannot be resolved; no accepted events lead to this.
    #[error("state resolution failed: {0}")]
    Failed(String),
}

/// Resolves states of a room. Of each state, `states` has what it holds of the places in which any
/// two of them differ (`state_tree::conflicts`), and no other.
pub fn resolve(rules: &RoomVersionRules, states: &[StateMap<OwnedEventId>], known: &Known) -> Result<Changes, Unresolved> {
    if states.len() > MAX_STATES {
        return Err(Unresolved::Failed(format!("{} states at once", states.len())));
    }
    let gather = Gather::new(known);
    match &rules.state_res {
        StateResolutionVersion::V1 => v1::resolve(&rules.authorization, states, &gather, &mut known.progress.borrow_mut().judgements),
        StateResolutionVersion::V2(v2) => resolve_v2(&rules.authorization, v2, states, known, &gather),
        _ => Err(Unresolved::Failed("unknown algorithm".to_owned())),
    }
}

/// How far a resolution has come. What is found is kept, so that a deep conflict, which takes many
/// rounds, is walked once.
#[derive(Default)]
struct Progress {
    conflicted: BTreeSet<OwnedEventId>,
    walks: Walks,
    sets: Option<Sets>,
    mainlines: Option<Mainlines>,
    judgements: Judgements,
}

/// What the definitions of the algorithm name.
struct Sets {
    full: BTreeSet<OwnedEventId>,
    unconflicted: StateMap<OwnedEventId>,
}

fn resolve_v2(
    rules: &AuthorizationRules,
    v2: &StateResolutionV2Rules,
    states: &[StateMap<OwnedEventId>],
    known: &Known,
    gather: &Gather<'_>,
) -> Result<Changes, Unresolved> {
    let progress = &mut *known.progress.borrow_mut();
    if progress.sets.is_none() {
        gather_sets(progress, rules, v2, states, gather);
        gather.complete()?;
    }
    let (Some(sets), Some(mainlines)) = (&progress.sets, &mut progress.mainlines) else {
        return Err(Unresolved::Failed("nothing is missing, but nothing found".to_owned()));
    };
    let cut = mainlines.meet(gather).unwrap_or_default();
    gather.complete()?;

    let start = if v2.begin_iterative_auth_checks_with_empty_state_map { StateMap::new() } else { sets.unconflicted.clone() };
    let mut resolution = v2::Resolution { rules, gather, cut, judgements: &mut progress.judgements };
    let resolved = resolution.resolve(&sets.full, start)?;
    Ok(changes(states, &sets.unconflicted, resolved))
}

/// Goes as far as what is known allows.
fn gather_sets(
    progress: &mut Progress,
    rules: &AuthorizationRules,
    v2: &StateResolutionV2Rules,
    states: &[StateMap<OwnedEventId>],
    gather: &Gather<'_>,
) {
    if progress.conflicted.is_empty() {
        progress.conflicted = states.iter().flat_map(HashMap::values).cloned().collect();
    }
    let conflicted = &progress.conflicted;
    let difference = auth_chain::auth_difference(&mut progress.walks, states, conflicted, gather);
    let subgraph = match v2.consider_conflicted_state_subgraph {
        true => auth_chain::conflicted_subgraph(&mut progress.walks, conflicted, gather),
        false => Ok(BTreeSet::new()),
    };
    let (Ok(difference), Ok(subgraph)) = (difference, subgraph) else { return };

    let ids: BTreeSet<OwnedEventId> = conflicted.iter().cloned().chain(difference).chain(subgraph).collect();
    let full: Vec<&Pdu> = ids.iter().filter_map(|id| gather.event(id)).collect();
    let reads_unconflicted = !v2.begin_iterative_auth_checks_with_empty_state_map;
    let unconflicted = unconflicted_read(&full, states, reads_unconflicted, rules, gather);
    load_auth_events(&full, rules, gather);
    let power_levels = unconflicted.get(&(StateEventType::RoomPowerLevels, String::new())).and_then(|id| gather.event(id));
    if gather.complete().is_ok() {
        progress.mainlines = Some(Mainlines::begin(&full, power_levels));
        progress.sets = Some(Sets { full: ids, unconflicted });
    }
}

/// The entries outside the conflict that the algorithm reads: where the events stand, and what
/// allows them.
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

/// Asks for all at once what would be missed one by one.
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
pub(crate) fn walk(
    states: &[StateMap<OwnedEventId>],
    conflicted: &BTreeSet<OwnedEventId>,
    known: &Known,
) -> Result<(BTreeSet<OwnedEventId>, BTreeSet<OwnedEventId>), Unresolved> {
    let gather = Gather::new(known);
    let walks = &mut known.progress.borrow_mut().walks;
    let difference = auth_chain::auth_difference(walks, states, conflicted, &gather);
    let subgraph = auth_chain::conflicted_subgraph(walks, conflicted, &gather);
    match (difference, subgraph) {
        (Ok(difference), Ok(subgraph)) => Ok((difference.difference(conflicted).cloned().collect(), subgraph)),
        _ => gather.complete().and_then(|()| Err(Unresolved::Failed("nothing is missing".to_owned()))),
    }
}

#[cfg(test)]
mod tests;
