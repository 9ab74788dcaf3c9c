//! A node as bytes. Branch: 1, the digits as 16 bits, the children's ids. Leaf: 0, the number of
//! entries, each as type (a number for the well-known ones), state key and position. Numbers are
//! LEB128, positions zigzag. The encoding is part of a node's identity: it never changes, and the
//! list of types only grows at its end.

use super::{Node, NodeId, Place, StateKey};
use crate::position::Position;
use ruma::events::StateEventType;
use sha2::{Digest, Sha256};
use std::rc::Rc;

/// Stored bytes that are no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a node of a state tree")]
pub struct NodeError;

/// A type's number is its place here plus one; 0 is followed by the type itself.
const TYPES: [&str; 24] = [
    "m.room.member",
    "m.room.create",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.encryption",
    "m.room.canonical_alias",
    "m.room.aliases",
    "m.room.third_party_invite",
    "m.room.pinned_events",
    "m.room.server_acl",
    "m.room.tombstone",
    "m.room.policy",
    "m.space.child",
    "m.space.parent",
    "m.policy.rule.user",
    "m.policy.rule.room",
    "m.policy.rule.server",
    "org.matrix.msc3401.call.member",
    "m.call.member",
];

const LEAF: u8 = 0;
const BRANCH: u8 = 1;

impl Node {
    /// The id: a hash of the encoding.
    pub fn id(&self) -> NodeId {
        let digest = Sha256::digest(self.encode());
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        NodeId(id)
    }

    /// The bytes to store under [`Node::id`].
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Branch(children) => encode_branch(children),
            Self::Leaf(entries) => encode_leaf(entries),
        }
    }

    /// Reads what [`Node::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeError> {
        let mut bytes = Reader(bytes);
        let node = match bytes.byte()? {
            LEAF => Self::Leaf(bytes.leaf()?),
            BRANCH => Self::Branch(bytes.branch()?),
            _ => return Err(NodeError),
        };
        if bytes.0.is_empty() { Ok(node) } else { Err(NodeError) }
    }
}

fn encode_branch(children: &[(u8, NodeId)]) -> Vec<u8> {
    let digits = children.iter().fold(0u16, |digits, (digit, _)| digits | 1 << digit);
    let mut out = Vec::with_capacity(3 + 16 * children.len());
    out.push(BRANCH);
    out.extend_from_slice(&digits.to_le_bytes());
    for (_, id) in children {
        out.extend_from_slice(&id.0);
    }
    out
}

fn encode_leaf(entries: &[(Rc<Place>, Position)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + entries.iter().map(|(place, _)| place.encoded.len() + 5).sum::<usize>());
    out.push(LEAF);
    write_number(&mut out, entries.len() as u64);
    for (place, position) in entries {
        out.extend_from_slice(&place.encoded);
        write_number(&mut out, zigzag(*position));
    }
    out
}

impl Place {
    pub(super) fn new(key: StateKey) -> Self {
        let mut encoded = Vec::new();
        let event_type = key.0.to_string();
        match TYPES.iter().position(|known| **known == *event_type) {
            Some(at) => write_number(&mut encoded, at as u64 + 1),
            None => {
                write_number(&mut encoded, 0);
                write_text(&mut encoded, &event_type);
            }
        }
        write_text(&mut encoded, &key.1);
        Self { key, encoded }
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    write_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn zigzag(Position(position): Position) -> u64 {
    ((position << 1) ^ (position >> 63)) as u64
}

fn unzigzag(number: u64) -> Position {
    Position((number >> 1) as i64 ^ -((number & 1) as i64))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], NodeError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(NodeError)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, NodeError> {
        Ok(self.bytes(1)?[0])
    }

    fn number(&mut self) -> Result<u64, NodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(NodeError)
    }

    fn text(&mut self) -> Result<&'a str, NodeError> {
        let len = usize::try_from(self.number()?).map_err(|_| NodeError)?;
        std::str::from_utf8(self.bytes(len)?).map_err(|_| NodeError)
    }

    fn event_type(&mut self) -> Result<StateEventType, NodeError> {
        let name = match usize::try_from(self.number()?).map_err(|_| NodeError)? {
            0 => self.text()?,
            number => TYPES.get(number - 1).ok_or(NodeError)?,
        };
        Ok(name.into())
    }

    fn leaf(&mut self) -> Result<Vec<(Rc<Place>, Position)>, NodeError> {
        let len = self.number()?;
        let mut entries = Vec::new();
        for _ in 0..len {
            let encoded = self.0;
            let key = (self.event_type()?, self.text()?.to_owned());
            let encoded = encoded[..encoded.len() - self.0.len()].to_vec();
            entries.push((Rc::new(Place { key, encoded }), unzigzag(self.number()?)));
        }
        Ok(entries)
    }

    fn branch(&mut self) -> Result<Vec<(u8, NodeId)>, NodeError> {
        let digits = u16::from_le_bytes([self.byte()?, self.byte()?]);
        let mut children = Vec::with_capacity(16);
        for digit in (0..16).filter(|digit| digits >> digit & 1 == 1) {
            let id = self.bytes(16)?.try_into().map_err(|_| NodeError)?;
            children.push((digit, NodeId(id)));
        }
        Ok(children)
    }
}
