//! The Server-Server API: what is behind the peers' entrance, one file for each group of endpoints,
//! and what this server asks of others.

mod access;
pub mod acl;
pub mod authentication;
pub mod backfill;
pub mod client;
pub mod edus;
pub mod events;
mod fetch;
pub mod joining;
pub mod keys;
mod media;
mod membership;
pub mod missing;
pub mod multipart;
mod openid;
mod query;
pub mod refused;
mod send;
mod server_keys;
pub mod template;
mod third_party;
mod version;
mod well_known;

use crate::{router::Table, tables::RoomNid, transport::Transport};
use keys::Keys;
use ruma::api::federation::transactions::send_transaction_message;
use std::{cell::RefCell, collections::HashSet, rc::Rc};

/// What memory holds of other servers, and the way to them.
pub struct Federation {
    transport: Rc<dyn Transport>,
    keys: Keys,
    /// The rooms whose waiting events are worked on.
    fetching: RefCell<HashSet<RoomNid>>,
}

impl Federation {
    pub(crate) fn new(transport: Rc<dyn Transport>) -> Self {
        Self { transport, keys: Keys::default(), fetching: RefCell::default() }
    }
}

/// Everything of this API that is implemented, and for whom.
pub fn routes(table: &mut Table) {
    table.public(well_known::server).public(version::version).public(server_keys::own);
    table.public(server_keys::notarized).public(server_keys::notarized_many);
    table.public(openid::userinfo);
    table.peer_raw::<send_transaction_message::v1::Request, _, _>(send::send);
    table.peer(query::profile).peer(query::directory);
    table.peer(membership::make_join).peer_stream(membership::send_join).peer_stream(membership::send_join_v1);
    table.peer(membership::make_leave).peer(membership::send_leave).peer(membership::send_leave_v1);
    table.peer(membership::make_knock).peer(membership::send_knock);
    table.peer(membership::invite).peer(membership::invite_v1);
    table.peer_stream(media::download);
    table.peer(third_party::exchange).public(third_party::bound);
}
