//! The state of a room as an immutable, content-addressed tree: (type, state_key) -> the position
//! of the event that holds the place. Equal states have equal roots, whatever led to them; two
//! states share every subtree in which they agree.
//!
//! A trie: the root divides members from all other state (so that the rules' events and the state
//! without members stay small and near), below it each level divides by 4 bits of a hash of the
//! key. A subtree that fits is one leaf. The shape is a function of the entries alone. Keys that
//! collide in all 64 bits share a leaf of any size, so a hostile choice of keys bounds the depth at
//! 17.
//!
//! Nothing here reads a store: a function is given the nodes at hand, and answers [`Missing`]
//! with the nodes to load before it is called again, each time as many as are known to be needed.

use crate::position::Position;
use ephapse_events::{Inserted, StateKey};
use ruma::events::StateEventType;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt, rc::Rc};

mod encoding;

pub use encoding::NodeError;

/// A place of the state and the event that holds it.
pub type Entry = (StateKey, Position);

/// The first 16 bytes of the SHA-256 of a node's encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

impl NodeId {
    /// The root of a state without entries. There is no such node to load.
    pub const EMPTY: Self = Self([0; 16]);
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The subtrees by their digit, at least one, in order.
    Branch(Vec<(u8, NodeId)>),
    /// The entries of a subtree that is small enough, sorted by place.
    Leaf(Vec<(Rc<Place>, Position)>),
}

/// A place of the state as leaves share it, with its encoding: a leaf is written anew whenever one
/// of its places changes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    key: StateKey,
    encoded: Vec<u8>,
}

impl Node {
    /// Bytes it takes in memory, roughly.
    pub fn weight(&self) -> usize {
        let entry = |(place, _): &(Rc<Place>, Position)| 96 + place.key.1.len() + place.encoded.len();
        match self {
            Self::Branch(children) => 64 + 32 * children.len(),
            Self::Leaf(entries) => 64 + entries.iter().map(entry).sum::<usize>(),
        }
    }
}

/// Nodes that must be loaded before the question can be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} nodes of the state tree must be loaded", .0.len())]
pub struct Missing(pub Vec<NodeId>);

/// The nodes at hand. The nodes that an [`Update`] made must be among them as soon as its root is
/// used.
pub type Nodes<'a> = &'a dyn Fn(NodeId) -> Option<Rc<Node>>;

/// A state after changes.
#[derive(Clone, Debug)]
pub struct Update {
    /// Its root.
    pub root: NodeId,
    /// The nodes to store. Some may have been stored before.
    pub new_nodes: Vec<(NodeId, Rc<Node>)>,
}

/// A place where two states differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The place.
    pub key: StateKey,
    /// What holds it in the first state.
    pub before: Option<Position>,
    /// What holds it in the second state.
    pub after: Option<Position>,
}

/// A part of the state that can be read without the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything.
    All,
    /// The `m.room.member` events.
    Members,
    /// Everything else.
    WithoutMembers,
}

/// What holds each of `keys`.
pub fn get(root: NodeId, keys: &[StateKey], nodes: Nodes<'_>) -> Result<Vec<Option<Position>>, Missing> {
    let mut walk = Walk::new(nodes);
    let found = keys.iter().map(|key| walk.get(root, key)).collect();
    walk.answer(found)
}

/// The state after `changes`, in which None removes an entry. Of two changes of a key the last
/// counts.
pub fn update(root: NodeId, changes: impl IntoIterator<Item = (StateKey, Option<Position>)>, nodes: Nodes<'_>) -> Result<Update, Missing> {
    let changes: BTreeMap<StateKey, Option<Position>> = changes.into_iter().inserted();
    let changes: Vec<Change> = changes.into_iter().map(|(key, to)| Change { path: Path::of(&key), key, to }).collect();
    if changes.is_empty() {
        return Ok(Update { root, new_nodes: Vec::new() });
    }
    let mut walk = Walk::new(nodes);
    let mut new_nodes = Vec::new();
    let root = walk.update(root, 0, changes, &mut new_nodes);
    walk.answer(Update { root, new_nodes })
}

/// Where two states differ, sorted by part and key; costs what the difference is long.
pub fn diff(a: NodeId, b: NodeId, nodes: Nodes<'_>) -> Result<Vec<Difference>, Missing> {
    let mut walk = Walk::new(nodes);
    let mut differences = Vec::new();
    walk.diff(a, b, &mut differences);
    walk.answer(differences)
}

/// The places in which any two of several states differ, with what each state holds there, in the
/// order of `roots`.
pub fn conflicts(roots: &[NodeId], nodes: Nodes<'_>) -> Result<BTreeMap<StateKey, Vec<Option<Position>>>, Missing> {
    let Some((first, others)) = roots.split_first() else { return Ok(BTreeMap::new()) };
    let mut walk = Walk::new(nodes);
    let mut conflicts: BTreeMap<StateKey, Vec<Option<Position>>> = BTreeMap::new();
    for (at, other) in (1..).zip(others) {
        let mut differences = Vec::new();
        walk.diff(*first, *other, &mut differences);
        for Difference { key, before, after } in differences {
            conflicts.entry(key).or_insert_with(|| vec![before; roots.len()])[at] = after;
        }
    }
    walk.answer(conflicts)
}

/// Every entry of a part of the state, in no particular order.
pub fn entries(root: NodeId, part: Part, nodes: Nodes<'_>) -> Result<Vec<Entry>, Missing> {
    let mut walk = Walk::new(nodes);
    let mut entries = Vec::new();
    let wanted = |digit| match part {
        Part::All => true,
        Part::Members => digit == MEMBERS,
        Part::WithoutMembers => digit != MEMBERS,
    };
    if let Some(Node::Branch(parts)) = walk.load(root).as_deref() {
        for (_, id) in parts.iter().filter(|(digit, _)| wanted(*digit)) {
            walk.collect(*id, &mut entries);
        }
    }
    walk.answer(entries.into_iter().map(|(place, position)| (place.key.clone(), position)).collect())
}

const WITHOUT_MEMBERS: u8 = 0;
const MEMBERS: u8 = 1;
/// The root's digit and the 16 of the hash: here no digit is left to divide by.
const MAX_DEPTH: usize = 17;
/// Members' keys are long and change often: few in a leaf make a join cheap to write. The rest is
/// short, read together, and changes rarely.
const MEMBERS_IN_A_LEAF: usize = 8;
const OTHERS_IN_A_LEAF: usize = 32;

/// The way from the root to a key, a digit a level.
#[derive(Clone, Copy)]
struct Path {
    part: u8,
    hash: u64,
}

impl Path {
    fn of((event_type, state_key): &StateKey) -> Self {
        let part = match event_type {
            StateEventType::RoomMember => MEMBERS,
            _ => WITHOUT_MEMBERS,
        };
        let digest = Sha256::new().chain_update(event_type.to_string().as_bytes()).chain_update([0]).chain_update(state_key).finalize();
        let hash = digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        Self { part, hash }
    }

    fn digit(self, depth: usize) -> u8 {
        if depth == 0 { self.part } else { (self.hash >> (64 - 4 * depth)) as u8 & 15 }
    }
}

fn fits_in_a_leaf(len: usize, depth: usize, path: Path) -> bool {
    let limit = if path.part == MEMBERS { MEMBERS_IN_A_LEAF } else { OTHERS_IN_A_LEAF };
    depth > 0 && (len <= limit || depth == MAX_DEPTH)
}

struct Change {
    path: Path,
    key: StateKey,
    to: Option<Position>,
}

type NewNodes = Vec<(NodeId, Rc<Node>)>;

/// One question to the tree, and the nodes it lacked so far.
struct Walk<'a> {
    nodes: Nodes<'a>,
    missing: Vec<NodeId>,
}

impl<'a> Walk<'a> {
    fn new(nodes: Nodes<'a>) -> Self {
        Self { nodes, missing: Vec::new() }
    }

    fn answer<T>(mut self, answer: T) -> Result<T, Missing> {
        if self.missing.is_empty() {
            return Ok(answer);
        }
        self.missing.sort_unstable();
        self.missing.dedup();
        Err(Missing(self.missing))
    }

    fn load(&mut self, id: NodeId) -> Option<Rc<Node>> {
        if id == NodeId::EMPTY {
            return None;
        }
        let node = (self.nodes)(id);
        if node.is_none() {
            self.missing.push(id);
        }
        node
    }

    fn get(&mut self, root: NodeId, key: &StateKey) -> Option<Position> {
        let path = Path::of(key);
        let mut id = root;
        for depth in 0.. {
            match &*self.load(id)? {
                Node::Branch(children) => id = child(children, path.digit(depth)),
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(place, _)| place.key.cmp(key)).ok()?;
                    return Some(entries[at].1);
                }
            }
        }
        None
    }

    fn collect(&mut self, id: NodeId, into: &mut Vec<(Rc<Place>, Position)>) {
        match self.load(id).as_deref() {
            None => {}
            Some(Node::Leaf(entries)) => into.extend_from_slice(entries),
            Some(Node::Branch(children)) => {
                for (_, id) in children {
                    self.collect(*id, into);
                }
            }
        }
    }

    fn diff(&mut self, a: NodeId, b: NodeId, into: &mut Vec<Difference>) {
        if a == b {
            return;
        }
        match (self.load(a).as_deref(), self.load(b).as_deref()) {
            (Some(Node::Branch(of_a)), Some(Node::Branch(of_b))) => {
                for digit in 0..16 {
                    self.diff(child(of_a, digit), child(of_b, digit), into);
                }
            }
            // One side is a leaf or empty: all but a leaf's worth of the other is difference.
            _ => {
                let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
                self.collect(a, &mut of_a);
                self.collect(b, &mut of_b);
                compare(of_a, of_b, into);
            }
        }
    }

    /// The subtree at `id` after `changes`, all of which lead into it.
    fn update(&mut self, id: NodeId, depth: usize, changes: Vec<Change>, new_nodes: &mut NewNodes) -> NodeId {
        let Some(path) = changes.first().map(|change| change.path) else {
            return id;
        };
        let node = self.load(id);
        match node.as_deref() {
            // Missing: the answer will not be used.
            None if id != NodeId::EMPTY => id,
            Some(Node::Branch(children)) => {
                let mark = new_nodes.len();
                let removes = changes.iter().any(|change| change.to.is_none());
                let children = self.update_children(children, depth, changes, new_nodes);
                if removes && let Some(mut entries) = self.entries_that_fit(&children, depth, path, new_nodes) {
                    new_nodes.truncate(mark);
                    entries.sort_unstable();
                    return build(entries, depth, new_nodes);
                }
                if children.is_empty() {
                    return NodeId::EMPTY;
                }
                store_unless(id, Node::Branch(children), new_nodes)
            }
            Some(Node::Leaf(entries)) => {
                let changed = changed_entries(entries, changes);
                if changed == *entries { id } else { build(changed, depth, new_nodes) }
            }
            None => build(changed_entries(&[], changes), depth, new_nodes),
        }
    }

    fn update_children(&mut self, children: &[(u8, NodeId)], depth: usize, changes: Vec<Change>, new_nodes: &mut NewNodes) -> Vec<(u8, NodeId)> {
        let mut updated = children.to_vec();
        for (digit, changes) in by_digit(changes, depth, |change| change.path) {
            let id = self.update(child(children, digit), depth + 1, changes, new_nodes);
            match updated.binary_search_by_key(&digit, |(digit, _)| *digit) {
                Ok(at) => updated[at].1 = id,
                Err(at) => updated.insert(at, (digit, id)),
            }
        }
        updated.retain(|(_, id)| *id != NodeId::EMPTY);
        updated
    }

    /// What lies below `children`, if a leaf can hold it.
    fn entries_that_fit(&mut self, children: &[(u8, NodeId)], depth: usize, path: Path, new_nodes: &NewNodes) -> Option<Vec<(Rc<Place>, Position)>> {
        if !fits_in_a_leaf(children.len(), depth, path) {
            return None;
        }
        let mut entries = Vec::new();
        let mut is_missing = false;
        for (_, id) in children {
            let new = new_nodes.iter().rev().find(|(new, _)| new == id);
            match new.map(|(_, node)| node.clone()).or_else(|| self.load(*id)).as_deref() {
                Some(Node::Leaf(of_child)) => entries.extend_from_slice(of_child),
                // It is a branch because a leaf could not hold it.
                Some(Node::Branch(_)) => return None,
                None => is_missing = true,
            }
        }
        (!is_missing && fits_in_a_leaf(entries.len(), depth, path)).then_some(entries)
    }
}

fn child(children: &[(u8, NodeId)], digit: u8) -> NodeId {
    children.iter().find(|(d, _)| *d == digit).map_or(NodeId::EMPTY, |(_, id)| *id)
}

fn changed_entries(entries: &[(Rc<Place>, Position)], changes: Vec<Change>) -> Vec<(Rc<Place>, Position)> {
    let mut changed = entries.to_vec();
    for Change { key, to, .. } in changes {
        match (changed.binary_search_by(|(place, _)| place.key.cmp(&key)), to) {
            (Ok(at), Some(position)) => changed[at].1 = position,
            (Ok(at), None) => drop(changed.remove(at)),
            (Err(at), Some(position)) => changed.insert(at, (Rc::new(Place::new(key)), position)),
            (Err(_), None) => {}
        }
    }
    changed
}

/// The subtree that holds `entries`, which are sorted.
fn build(entries: Vec<(Rc<Place>, Position)>, depth: usize, new_nodes: &mut NewNodes) -> NodeId {
    let Some((first, _)) = entries.first() else {
        return NodeId::EMPTY;
    };
    if fits_in_a_leaf(entries.len(), depth, Path::of(&first.key)) {
        return store(Node::Leaf(entries), new_nodes);
    }
    let children = by_digit(entries, depth, |(place, _)| Path::of(&place.key))
        .into_iter()
        .map(|(digit, entries)| (digit, build(entries, depth + 1, new_nodes)))
        .collect();
    store(Node::Branch(children), new_nodes)
}

fn by_digit<T>(items: Vec<T>, depth: usize, path: impl Fn(&T) -> Path) -> Vec<(u8, Vec<T>)> {
    let mut groups: Vec<(u8, Vec<T>)> = Vec::new();
    for item in items {
        let digit = path(&item).digit(depth);
        match groups.binary_search_by_key(&digit, |(digit, _)| *digit) {
            Ok(at) => groups[at].1.push(item),
            Err(at) => groups.insert(at, (digit, vec![item])),
        }
    }
    groups
}

fn store(node: Node, new_nodes: &mut NewNodes) -> NodeId {
    store_unless(NodeId::EMPTY, node, new_nodes)
}

fn store_unless(old: NodeId, node: Node, new_nodes: &mut NewNodes) -> NodeId {
    let id = node.id();
    if id != old {
        new_nodes.push((id, Rc::new(node)));
    }
    id
}

fn compare(a: Vec<(Rc<Place>, Position)>, b: Vec<(Rc<Place>, Position)>, into: &mut Vec<Difference>) {
    let mut places: BTreeMap<Rc<Place>, (Option<Position>, Option<Position>)> = BTreeMap::new();
    for (place, position) in a {
        places.entry(place).or_default().0 = Some(position);
    }
    for (place, position) in b {
        places.entry(place).or_default().1 = Some(position);
    }
    let differ = places.into_iter().filter(|(_, (before, after))| before != after);
    into.extend(differ.map(|(place, (before, after))| Difference { key: place.key.clone(), before, after }));
}

#[cfg(test)]
mod tests;
