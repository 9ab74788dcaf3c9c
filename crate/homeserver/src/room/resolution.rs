//! The state that several states resolve to (rooms/v1, v2 and v12, "State resolution").

use super::{
    state_tree::NodeId,
    write::{Stop, Write},
};
use crate::error::Error;

impl Write<'_> {
    /// The root of what `states` resolve to; equal states need no resolution.
    pub(super) fn resolve(&mut self, states: &[NodeId]) -> Result<NodeId, Stop> {
        let mut states = states.to_vec();
        states.sort_unstable();
        states.dedup();
        match states.as_slice() {
            [] => Ok(NodeId::EMPTY),
            [only] => Ok(*only),
            _ => Err(Error::Internal("forks".to_owned()).into()),
        }
    }
}
