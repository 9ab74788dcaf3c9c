//! The Server-Server API: what is behind the peers' entrance, one file for each group of endpoints,
//! and what this server asks of others.

mod access;
pub mod acl;
pub mod authentication;
pub mod backfill;
pub mod client;
mod devices;
mod directory;
pub mod edus;
pub mod events;
mod fetch;
mod hierarchy;
mod history;
pub mod join_progress;
pub mod joining;
pub mod keys;
mod media;
mod membership;
pub mod missing;
pub mod multipart;
mod openid;
pub mod outbox;
mod passing;
pub mod policy;
mod query;
pub mod refused;
mod rescinded;
mod send;
mod sender;
mod server_keys;
mod streamed;
mod template;
mod third_party;
pub mod timestamps;
mod told_state;
mod v1;
mod version;
mod well_known;

use crate::{hierarchy::remote::Answers, keys::Fetching, router::Table, tables::RoomNid, transport::Transport};
use join_progress::{JoinStatus, Joins};
use keys::Keys;
use outbox::{DestinationStatus, Outbox};
use ruma::api::federation::transactions::send_transaction_message;
use serde::Serialize;
use std::{cell::RefCell, collections::HashSet, rc::Rc};

/// What the owner of a node sees of federation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FederationStatus {
    /// Joins that wait for another server.
    pub joins: Vec<JoinStatus>,
    /// Servers that something was sent to, or waits for, by name.
    pub destinations: Vec<DestinationStatus>,
}

/// What memory holds of other servers, and the way to them.
pub struct Federation {
    transport: Rc<dyn Transport>,
    keys: Keys,
    /// The rooms whose waiting events are worked on.
    fetching: RefCell<HashSet<RoomNid>>,
    pub(crate) hierarchies: Answers,
    pub(crate) outbox: Outbox,
    joins: Joins,
    /// Device lists that are being fetched.
    pub(crate) device_lists: Fetching,
}

impl Federation {
    pub(crate) fn new(transport: Rc<dyn Transport>, has_peers: bool) -> Self {
        Self {
            transport,
            keys: Keys::default(),
            fetching: RefCell::default(),
            hierarchies: Answers::default(),
            outbox: Outbox::new(has_peers),
            joins: Joins::default(),
            device_lists: Fetching::default(),
        }
    }
}

impl Federation {
    pub(crate) fn status(&self) -> FederationStatus {
        FederationStatus { joins: self.joins.status(), destinations: self.outbox.status() }
    }
}

/// Everything of this API that is implemented, and for whom.
pub fn routes(table: &mut Table) {
    table.public(well_known::server).public(version::version).public(server_keys::own);
    table.public(server_keys::notarized).public(server_keys::notarized_many);
    table.public(server_keys::own_with_key_id).public(server_keys::notarized_with_key_id);
    table.public(openid::userinfo);
    table.peer_raw::<send_transaction_message::v1::Request, _, _>(send::send);
    table.peer(membership::make_join).peer_stream(membership::send_join).peer_stream(membership::send_join_v1);
    table.peer(membership::make_leave).peer(membership::send_leave).peer(membership::send_leave_v1);
    table.peer(membership::make_knock).peer(membership::send_knock);
    table.peer(membership::invite).peer(membership::invite_v1);
    table.peer(third_party::exchange).public(third_party::bound);
    table.peer(query::profile).peer(query::directory).peer(query::other);
    table.peer(directory::rooms).peer(directory::filtered_rooms).peer(hierarchy::hierarchy);
    table.peer(devices::of_user).peer_many(devices::query_keys).peer_many(devices::claim_keys);
    table.peer_stream(history::state).peer_stream(history::state_ids).peer_stream(history::event_auth).peer(history::event);
    table.peer_stream(history::backfill).peer(history::missing_events).peer(history::at_time);
    table.peer_stream(media::download).peer_stream(media::thumbnail);
}
