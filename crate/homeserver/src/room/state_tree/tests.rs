//! The tree against a BTreeMap: same entries, same root; what differs, and only that, is reported.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
};

/// Nodes as a store keeps them: bytes by id. What a question loads is counted.
#[derive(Default)]
struct Stored {
    nodes: RefCell<HashMap<NodeId, Vec<u8>>>,
    loaded: Cell<usize>,
    written: Cell<usize>,
}

impl Stored {
    fn ask<T>(&self, question: impl Fn(Nodes<'_>) -> Result<T, Missing>) -> T {
        let mut at_hand: HashMap<NodeId, Rc<Node>> = HashMap::new();
        self.loaded.set(0);
        loop {
            match question(&|id| at_hand.get(&id).cloned()) {
                Ok(answer) => return answer,
                Err(Missing(ids)) => {
                    assert!(!ids.is_empty());
                    for id in ids {
                        let node = Node::decode(&self.nodes.borrow()[&id]).expect("stored node");
                        assert!(at_hand.insert(id, Rc::new(node)).is_none(), "asked twice");
                        self.loaded.set(self.loaded.get() + 1);
                    }
                }
            }
        }
    }

    fn update(&self, root: NodeId, changes: &[(StateKey, Option<Position>)]) -> NodeId {
        let Update { root, new_nodes } = self.ask(|nodes| update(root, changes.to_vec(), nodes));
        self.written.set(0);
        for (id, node) in new_nodes {
            assert_eq!(node.id(), id);
            let bytes = node.encode();
            self.written.set(self.written.get() + bytes.len());
            self.nodes.borrow_mut().insert(id, bytes);
        }
        root
    }

    fn build(&self, state: &BTreeMap<StateKey, Position>) -> NodeId {
        let all: Vec<_> = state.iter().map(|(key, at)| (key.clone(), Some(*at))).collect();
        self.update(NodeId::EMPTY, &all)
    }
}

fn key(event_type: &str, state_key: &str) -> StateKey {
    (event_type.into(), state_key.to_owned())
}

fn any_key() -> impl Strategy<Value = StateKey> {
    prop_oneof![
        (0..60u32).prop_map(|n| key("m.room.member", &format!("@u{n}:example.org"))),
        (0..60u32).prop_map(|n| key("org.example.thing", &n.to_string())),
        Just(key("m.room.name", "")),
        Just(key("", "")),
    ]
}

fn any_changes(len: usize) -> impl Strategy<Value = Vec<(StateKey, Option<Position>)>> {
    let to = prop_oneof![3 => (-9..9i64).prop_map(|at| Some(Position(at))), 2 => Just(None)];
    prop::collection::vec((any_key(), to), 0..len)
}

fn apply(state: &mut BTreeMap<StateKey, Position>, changes: &[(StateKey, Option<Position>)]) {
    for (key, to) in changes {
        match to {
            Some(position) => state.insert(key.clone(), *position),
            None => state.remove(key),
        };
    }
}

proptest! {
    #[test]
    fn behaves_as_a_map_with_one_root_per_state(
        steps in prop::collection::vec(any_changes(80), 1..8),
    ) {
        let stored = Stored::default();
        let (mut root, mut state) = (NodeId::EMPTY, BTreeMap::new());
        for changes in &steps {
            root = stored.update(root, changes);
            apply(&mut state, changes);
        }
        prop_assert_eq!(root, stored.build(&state));

        let mut all = stored.ask(|nodes| entries(root, Part::All, nodes));
        all.sort();
        prop_assert_eq!(&all, &state.clone().into_iter().collect::<Vec<_>>());
        let (members, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|((t, _), _)| *t == StateEventType::RoomMember);
        let mut found = stored.ask(|nodes| entries(root, Part::Members, nodes));
        found.sort();
        prop_assert_eq!(found, members);
        let mut found = stored.ask(|nodes| entries(root, Part::WithoutMembers, nodes));
        found.sort();
        prop_assert_eq!(found, others);

        let keys: Vec<_> = steps.iter().flatten().map(|(key, _)| key.clone()).collect();
        let found = stored.ask(|nodes| get(root, &keys, nodes));
        let expected: Vec<_> = keys.iter().map(|key| state.get(key).copied()).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn reports_what_differs(base in any_changes(200), a in any_changes(40), b in any_changes(40)) {
        let stored = Stored::default();
        let mut of_a = BTreeMap::new();
        apply(&mut of_a, &base);
        let mut of_b = of_a.clone();
        apply(&mut of_a, &a);
        apply(&mut of_b, &b);
        let (root_a, root_b) = (stored.build(&of_a), stored.build(&of_b));
        let found = stored.ask(|nodes| diff(root_a, root_b, nodes));

        let keys: BTreeSet<_> = of_a.keys().chain(of_b.keys()).cloned().collect();
        let mut expected = Vec::new();
        for key in keys {
            let (before, after) = (of_a.get(&key).copied(), of_b.get(&key).copied());
            if before != after {
                expected.push(Difference { key, before, after });
            }
        }
        let mut found = found;
        found.sort_by(|x, y| x.key.cmp(&y.key));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn bytes_that_are_no_node_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(node) = Node::decode(&bytes) {
            let _ = node.encode();
        }
    }
}

/// Members with names as long as those of servers named by a key.
fn room_of(members: u32) -> BTreeMap<StateKey, Position> {
    let server = "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r";
    let mut state = BTreeMap::new();
    for event_type in ["create", "power_levels", "join_rules", "history_visibility", "name"] {
        state.insert(key(&format!("m.room.{event_type}"), ""), Position(state.len() as i64));
    }
    for n in 0..members {
        state.insert(key("m.room.member", &format!("@user{n}:{server}")), Position(100_000 + i64::from(n)));
    }
    state
}

#[test]
fn a_join_writes_and_reads_little_in_a_room_of_any_size() {
    let stored = Stored::default();
    // The event itself and its indexes, as a join writes them in any room.
    let beside = 1_500;
    let cost = |members| {
        let root = stored.build(&room_of(members));
        let (mut written, mut loaded) = (0, 0);
        let joins = 40;
        for n in 0..joins {
            stored.update(root, &[(key("m.room.member", &format!("@new{n}:example.org")), Some(Position(1)))]);
            written += stored.written.get();
            loaded = loaded.max(stored.loaded.get());
        }
        (written / joins, loaded)
    };
    let (small, _) = cost(5);
    for members in [30, 100, 1_000, 10_000] {
        let (large, loaded) = cost(members);
        println!("a join among {members}: {large} bytes of nodes, {loaded} loaded; among 5: {small}");
        assert!((beside + large) * 10 <= (beside + small) * 15);
        assert!(loaded <= 6);
    }
}

#[test]
fn the_events_that_rules_read_are_near_in_a_room_of_any_size() {
    let stored = Stored::default();
    let root = stored.build(&room_of(10_000));
    let (name, _) = room_of(1).into_iter().find(|(k, _)| k.0 == StateEventType::RoomMember).unwrap();
    let keys = [key("m.room.create", ""), key("m.room.power_levels", ""), key("m.room.join_rules", ""), name];
    let found = stored.ask(|nodes| get(root, &keys, nodes));
    assert!(found.iter().all(Option::is_some));
    assert!(stored.loaded.get() <= 6, "{} nodes", stored.loaded.get());
}

#[test]
fn the_cost_of_a_state_difference_does_not_grow_with_the_room() {
    let stored = Stored::default();
    let root = stored.build(&room_of(10_000));
    let other = stored.update(root, &[(key("m.room.member", "@new:example.org"), Some(Position(1)))]);
    let found = stored.ask(|nodes| diff(root, other, nodes));
    assert_eq!(found.len(), 1);
    assert!(stored.loaded.get() <= 12, "{} nodes", stored.loaded.get());
}

#[test]
fn an_update_that_changes_nothing_writes_nothing() {
    let stored = Stored::default();
    let state = room_of(200);
    let root = stored.build(&state);
    let (same, at) = state.into_iter().next_back().unwrap();
    assert_eq!(stored.update(root, &[(same, Some(at))]), root);
    assert_eq!(stored.written.get(), 0);
    assert_eq!(stored.update(root, &[(key("m.room.member", "@nobody:x"), None)]), root);
    assert_eq!(stored.written.get(), 0);
    assert_eq!(stored.update(NodeId::EMPTY, &[(key("m.room.topic", ""), None)]), NodeId::EMPTY);
}

#[test]
fn keys_whose_hashes_collide_share_a_leaf() {
    let path = Path { part: MEMBERS, hash: 7 };
    assert!(fits_in_a_leaf(10_000, MAX_DEPTH, path));
    assert!(!fits_in_a_leaf(MEMBERS_IN_A_LEAF + 1, MAX_DEPTH - 1, path));
}
