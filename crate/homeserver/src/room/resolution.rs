//! The state that several states become: `resolve` decides, this brings it what it asks for, and
//! makes a tree of the answer.

use super::{
    error::Error,
    state_tree::{self, Node, NodeId},
    stop::{Need, Stop},
    write::Write,
};
use crate::position::Position;
use ephapse_events::resolve::{self, Changes, Resolution, Unresolved};
use ruma::{OwnedEventId, state_res::StateMap};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// How many of those that an event authorizes are read at first; each further page doubles them.
const PAGE: usize = 32;

/// Resolutions begun and done for one decision, by the roots of their states: a decision that
/// begins anew goes on where it stopped.
#[derive(Default)]
pub(super) struct Resolutions {
    begun: RefCell<HashMap<Vec<NodeId>, Resolution>>,
    done: RefCell<HashMap<Vec<NodeId>, Resolved>>,
}

#[derive(Clone)]
struct Resolved {
    root: NodeId,
    new_nodes: Vec<(NodeId, Rc<Node>)>,
}

impl Write<'_> {
    /// The root of what `states` resolve to; equal states need no resolution.
    pub(super) fn resolve(&mut self, states: &[NodeId]) -> Result<NodeId, Stop> {
        let mut states = states.to_vec();
        states.sort_unstable();
        states.dedup();
        match states.as_slice() {
            [] => return Ok(NodeId::EMPTY),
            [only] => return Ok(*only),
            _ => {}
        }
        let done = self.resolutions().done.borrow().get(&states).cloned();
        let resolved = match done {
            Some(resolved) => resolved,
            None => self.resolve_anew(&states)?,
        };
        self.add_nodes(resolved.new_nodes);
        Ok(resolved.root)
    }

    fn resolve_anew(&self, states: &[NodeId]) -> Result<Resolved, Stop> {
        let begun = self.resolutions().begun.borrow_mut().remove(states);
        let mut resolution = match begun {
            Some(resolution) => resolution,
            None => Resolution::new(self.conflicting(states)?),
        };
        let answer = self.ask(states[0], &mut resolution);
        if matches!(answer, Err(Stop::Missing(_) | Stop::Unfinished)) {
            self.resolutions().begun.borrow_mut().insert(states.to_vec(), resolution);
        }
        let mut changes = Vec::new();
        let mut needs = Vec::new();
        for (key, id) in answer? {
            match id.map(|id| self.event_by_id(&id).map(|event| event.ok_or_else(|| absent(&id)))).transpose() {
                Ok(event) => changes.push((key, event.transpose()?.map(|event| event.state_position()))),
                Err(need) => needs.push(need),
            }
        }
        if !needs.is_empty() {
            return Err(Stop::Missing(needs));
        }
        let update = state_tree::update(states[0], changes, &|id| self.node(id))?;
        let resolved = Resolved { root: update.root, new_nodes: update.new_nodes };
        self.resolutions().done.borrow_mut().insert(states.to_vec(), resolved.clone());
        Ok(resolved)
    }

    /// What each state holds of the places in which any two differ.
    fn conflicting(&self, states: &[NodeId]) -> Result<Vec<StateMap<OwnedEventId>>, Stop> {
        let conflicts = state_tree::conflicts(states, &|id| self.node(id))?;
        let mut maps: Vec<StateMap<OwnedEventId>> = vec![StateMap::new(); states.len()];
        let mut needs = Vec::new();
        for (key, held) in conflicts {
            for (map, position) in maps.iter_mut().zip(held) {
                match position.map(|position| self.event(position)) {
                    Some(Ok(event)) => {
                        map.insert(key.clone(), event.pdu.event_id.clone());
                    }
                    Some(Err(need)) => needs.push(need),
                    None => {}
                }
            }
        }
        if needs.is_empty() { Ok(maps) } else { Err(Stop::Missing(needs)) }
    }

    /// Asks until there is an answer, or until what is asked for has to be read.
    fn ask(&self, state: NodeId, resolution: &mut Resolution) -> Result<Changes, Stop> {
        loop {
            match resolution.resolve(&self.room.rules) {
                Ok(changes) => return Ok(changes),
                Err(Unresolved::Missing(missing)) => self.tell(state, missing, resolution)?,
                Err(Unresolved::Unfinished) => return Err(Stop::Unfinished),
                Err(Unresolved::Failed(reason)) => return Err(Error::Internal(format!("in {}: {reason}", self.room.id)).into()),
            }
        }
    }

    fn tell(&self, state: NodeId, missing: resolve::Missing, resolution: &mut Resolution) -> Result<(), Stop> {
        let mut needs = Vec::new();
        for id in missing.events {
            match self.event_by_id(&id) {
                Ok(Some(event)) => resolution.add_event(event.pdu.clone()),
                Ok(None) => return Err(absent(&id).into()),
                Err(need) => needs.push(need),
            }
        }
        for key in missing.unconflicted {
            let found = self.state_get(state, std::slice::from_ref(&key)).map(|found| found[0].map(|position| self.event(position)));
            match found {
                Ok(None) => resolution.add_unconflicted(key, None),
                Ok(Some(Ok(event))) => resolution.add_unconflicted(key, Some(event.pdu.event_id.clone())),
                Ok(Some(Err(need))) => needs.push(need),
                Err(Stop::Missing(more)) => needs.extend(more),
                Err(refused) => return Err(refused),
            }
        }
        for (id, count) in missing.authorized_by {
            let Some(event) = self.event_by_id(&id)? else { return Err(absent(&id).into()) };
            match self.authorized_by(event.state_position(), (2 * count).max(PAGE)) {
                Ok((page, all)) => match self.ids_of(&page[count.min(page.len())..]) {
                    Ok(ids) => resolution.add_authorized_by(id, ids, all),
                    Err(more) => needs.extend(more),
                },
                Err(need) => needs.push(need),
            }
        }
        if needs.is_empty() { Ok(()) } else { Err(Stop::Missing(needs)) }
    }

    fn ids_of(&self, positions: &[Position]) -> Result<Vec<OwnedEventId>, Vec<Need>> {
        let mut ids = Vec::with_capacity(positions.len());
        let mut needs = Vec::new();
        for position in positions {
            match self.event(*position) {
                Ok(event) => ids.push(event.pdu.event_id.clone()),
                Err(need) => needs.push(need),
            }
        }
        if needs.is_empty() { Ok(ids) } else { Err(needs) }
    }
}

fn absent(id: &OwnedEventId) -> Error {
    Error::Internal(format!("{id} is part of a state or an auth chain, but missing"))
}
