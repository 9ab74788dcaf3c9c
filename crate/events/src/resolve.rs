//! State resolution: what states of a room that differ become (rooms/v1.md, v2.md, v12.md "State
//! resolution").
//!
//! A [`Resolution`] is given what the states hold of the places in which they differ, and asks for
//! what else it reads: the events themselves, their auth chains as far as these differ, and the
//! places outside of the conflict that the authorization rules look at. It says what is
//! [`Missing`], is given it, and goes on where it stopped. So the work follows the conflict, and
//! not the size of the room. What comes out is what the definitions of the specification give.
//!
//! The number of rounds grows with the depth of the conflict. Who must be bounded bounds what is
//! loaded, and not the rounds.
//!
//! [`resolve_in_memory`] does all of it at once, for those who have a room in memory.

// The files: v2 and v2.1 are in `v2`, over the auth difference from `auth_chain`; v1 is in `v1`.
// The rules are asked a few at a time (`judgements`).

mod auth_chain;
mod in_memory;
mod judgements;
mod known;
mod mainlines;
mod v1;
mod v2;

pub use in_memory::{conflicts, resolve_in_memory};
pub use known::Missing;

use crate::{Inserted, Pdu, StateKey, create_of_room};
use auth_chain::Walks;
use judgements::Judgements;
use known::{Gather, Known};
use mainlines::Mainlines;
use ruma::{
    OwnedEventId,
    events::StateEventType,
    room_version_rules::{AuthorizationRules, RoomVersionRules, StateResolutionV2Rules, StateResolutionVersion},
    state_res::{StateMap, auth_types_for_event},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

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
    /// It is long. The caller may let others go on before it asks again.
    #[error("it is not finished")]
    Unfinished,
    /// The states cannot be resolved; no accepted events lead to this.
    #[error("state resolution failed: {0}")]
    Failed(String),
}

/// A resolution of some states of a room, and how far it has come.
#[derive(Default)]
pub struct Resolution {
    states: Vec<StateMap<OwnedEventId>>,
    known: Known,
    progress: Progress,
}

impl Resolution {
    /// Begins. Of each state, `states` has what it holds of the places in which any two of them
    /// differ, and no other: see [`conflicts`].
    pub fn new(states: Vec<StateMap<OwnedEventId>>) -> Self {
        Self { states, ..Self::default() }
    }

    /// Goes on to the end, or to where something is missing.
    ///
    /// # Errors
    /// [`Unresolved`]: all but [`Unresolved::Failed`] ask to be called again.
    pub fn resolve(&mut self, rules: &RoomVersionRules) -> Result<Changes, Unresolved> {
        let Self { states, known, progress } = self;
        if states.len() > MAX_STATES {
            return Err(Unresolved::Failed(format!("{} states at once", states.len())));
        }
        let gather = Gather::new(known);
        match &rules.state_res {
            StateResolutionVersion::V1 => v1::resolve(&rules.authorization, states, &gather, &mut progress.judgements),
            StateResolutionVersion::V2(v2) => resolve_v2(&rules.authorization, v2, states, progress, &gather),
            _ => Err(Unresolved::Failed("unknown algorithm".to_owned())),
        }
    }

    /// Adds an event, accepted or rejected, with its [`Pdu::auth_depth`].
    pub fn add_event(&mut self, event: Arc<Pdu>) {
        self.known.events.insert(event.event_id.clone(), event);
    }

    /// Adds what all states hold of a place in which they agree.
    pub fn add_unconflicted(&mut self, key: StateKey, event: Option<OwnedEventId>) {
        self.known.unconflicted.insert(key, event);
    }

    /// Adds the next page of the accepted state events that name `event` in their `auth_events`,
    /// the newest first, and whether these are the last.
    pub fn add_authorized_by(&mut self, event: OwnedEventId, page: impl IntoIterator<Item = OwnedEventId>, is_last: bool) {
        let authorized_by = self.known.authorized_by.entry(event).or_default();
        authorized_by.events.extend(page);
        authorized_by.all = is_last;
    }

    /// What the walks of auth chains find, for tests that compare it with the definitions.
    #[cfg(test)]
    pub(crate) fn walk(&mut self) -> Result<(BTreeSet<OwnedEventId>, BTreeSet<OwnedEventId>), Unresolved> {
        let Self { states, known, progress } = self;
        let conflicted: BTreeSet<OwnedEventId> = states.iter().flat_map(HashMap::values).cloned().inserted();
        let gather = Gather::new(known);
        let difference = auth_chain::auth_difference(&mut progress.walks, states, &conflicted, &gather);
        let subgraph = auth_chain::conflicted_subgraph(&mut progress.walks, &conflicted, &gather);
        match (difference, subgraph) {
            (Ok(difference), Ok(subgraph)) => Ok((difference.difference(&conflicted).cloned().inserted(), subgraph)),
            _ => gather.complete().and_then(|()| Err(Unresolved::Failed("nothing is missing".to_owned()))),
        }
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
    progress: &mut Progress,
    gather: &Gather<'_>,
) -> Result<Changes, Unresolved> {
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
    let mut resolution = v2::Steps { rules, gather, cut, judgements: &mut progress.judgements };
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
        progress.conflicted = states.iter().flat_map(HashMap::values).cloned().inserted();
    }
    let conflicted = &progress.conflicted;
    let difference = auth_chain::auth_difference(&mut progress.walks, states, conflicted, gather);
    let subgraph = match v2.consider_conflicted_state_subgraph {
        true => auth_chain::conflicted_subgraph(&mut progress.walks, conflicted, gather),
        false => Ok(BTreeSet::new()),
    };
    let (Ok(difference), Ok(subgraph)) = (difference, subgraph) else { return };

    let ids: BTreeSet<OwnedEventId> = conflicted.iter().cloned().chain(difference).chain(subgraph).inserted();
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
    let mut changes: Changes = states.iter().flat_map(HashMap::keys).map(|key| (key.clone(), None)).inserted();
    // Also a place that no state holds, when the rules give it to an event of the auth difference.
    let decided = resolved.into_iter().filter(|(key, _)| !unconflicted.contains_key(key));
    changes.extend(decided.map(|(key, id)| (key, Some(id))));
    changes
}

#[cfg(test)]
mod tests;
