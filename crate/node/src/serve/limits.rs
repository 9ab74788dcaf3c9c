//! What everything that is connected may take together: connections, by the system's limit and by
//! where they come from, and bytes of bodies.

use ephapse_homeserver::Entrance;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
    sync::Arc,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at a time. Past this, new ones wait in the listener's backlog.
const MOST_CONNECTIONS: usize = 4_096;

/// Connections to other servers at a time.
const MOST_OUTGOING: usize = 1_024;

/// Where there are few file descriptors, one part of so many is for connections to other servers.
const PART_OF_OUTGOING: u64 = 4;

/// File descriptors that are not connections: the database, the listeners, the runtime, the
/// standard streams.
const OTHER_DESCRIPTORS: u64 = 64;

/// One address may have one of so many parts of the connections.
const SHARE_PER_ADDRESS: usize = 8;

/// Bytes of a body that count for nothing, so that ordinary requests go on whatever large ones
/// there are.
const SMALL: usize = 64 << 10;

/// Bytes that are held of a body that is passed on as it comes: what is being stored, and what has
/// arrived after it.
const STREAMED: usize = 2 << 20;

/// Bytes of all large bodies at a time.
const MOST_BUFFERED: usize = 128 << 20;

/// Bytes of them that may be other servers': what they send is read before it is known whether it
/// is theirs, and clients are not to wait for that.
const MOST_BUFFERED_OF_PEERS: usize = MOST_BUFFERED / 2;

/// How many connections each address or network has.
type Counts = Rc<RefCell<HashMap<IpAddr, usize>>>;

/// Places for connections.
#[derive(Clone)]
pub struct Places {
    free: Arc<Semaphore>,
    most_of_one: usize,
    taken: Counts,
}

/// A connection's place, free again when it is dropped: the connection has ended, and so has what
/// its last request began.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    is_near: bool,
    taken: Option<(Counts, IpAddr)>,
}

impl Places {
    /// As many as the system has file descriptors for; the process asks it for what it may have.
    pub fn new() -> Self {
        Self::of(connections_within(raised_limit()).incoming)
    }

    /// So many.
    pub fn of(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), most_of_one: (most / SHARE_PER_ADDRESS).max(1), taken: Rc::default() }
    }

    /// Waits until there is a place for one more connection.
    pub async fn free(&self) -> OwnedSemaphorePermit {
        self.free.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// A place for a connection from `address`; none when it has its part already. Proxies and the
    /// machines of one's own network may have them all.
    pub fn take(&self, permit: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let network = network(address);
        if is_near(network) {
            return Some(Place { _permit: permit, is_near: true, taken: None });
        }
        let mut taken = self.taken.borrow_mut();
        let count = taken.entry(network).or_default();
        if *count >= self.most_of_one {
            return None;
        }
        *count += 1;
        Some(Place { _permit: permit, is_near: false, taken: Some((self.taken.clone(), network)) })
    }
}

impl Place {
    /// Whether the connection comes from this machine or its own network, as a proxy's does.
    pub fn is_near(&self) -> bool {
        self.is_near
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((taken, network)) = &self.taken else { return };
        let mut taken = taken.borrow_mut();
        if let Some(count) = taken.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                taken.remove(network);
            }
        }
    }
}

/// Raises the limit of open files as far as this process may, if more are wanted, and tells what it
/// is.
fn raised_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let wanted = ((MOST_CONNECTIONS + MOST_OUTGOING) as u64 + OTHER_DESCRIPTORS).min(limit.maximum.unwrap_or(u64::MAX));
    let raised = current < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).is_ok();
    if raised { wanted } else { current }
}

/// Connections to other servers at a time, as many as the system has file descriptors for.
pub fn outgoing() -> usize {
    connections_within(raised_limit()).outgoing
}

/// How many connections there may be at a time, of clients and other servers, and to others.
#[derive(Debug, PartialEq, Eq)]
struct MostConnections {
    incoming: usize,
    outgoing: usize,
}

fn connections_within(descriptors: u64) -> MostConnections {
    let bounded = |places: u64, most: usize| usize::try_from(places).unwrap_or(usize::MAX).clamp(1, most);
    let places = descriptors.saturating_sub(OTHER_DESCRIPTORS);
    let outgoing = bounded(places / PART_OF_OUTGOING, MOST_OUTGOING);
    MostConnections { incoming: bounded(places.saturating_sub(outgoing as u64), MOST_CONNECTIONS), outgoing }
}

/// The address, or of IPv6 the network that one customer is given, who may use any address in it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

/// Whether `network` is this machine or its own network.
fn is_near(network: IpAddr) -> bool {
    match network {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.to_bits() == 0 || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

/// Room for the large bodies of everybody's requests.
#[derive(Clone)]
pub struct Room(Rc<Free>);

/// Bytes that are free.
struct Free {
    /// For everybody together.
    all: Cell<usize>,
    /// For other servers.
    peers: Cell<usize>,
}

/// What one request has taken of it, given back when the request has been answered.
pub struct Share {
    room: Room,
    is_peers: bool,
    /// Bytes of it that are held at a time at most.
    most: usize,
    received: Cell<usize>,
    taken: Cell<usize>,
}

impl Room {
    /// All of it free.
    pub fn new() -> Self {
        Self(Rc::new(Free { all: Cell::new(MOST_BUFFERED), peers: Cell::new(MOST_BUFFERED_OF_PEERS) }))
    }

    /// What a new request takes whose body is gathered: nothing yet.
    pub fn share(&self, entrance: Entrance) -> Share {
        self.share_of(entrance, usize::MAX)
    }

    /// What a new request takes whose body is passed on as it comes.
    pub fn share_of_stream(&self, entrance: Entrance) -> Share {
        self.share_of(entrance, STREAMED)
    }

    fn share_of(&self, entrance: Entrance, most: usize) -> Share {
        Share { room: self.clone(), is_peers: entrance == Entrance::Peer, most, received: Cell::new(0), taken: Cell::new(0) }
    }
}

impl Share {
    /// Takes room for so many bytes more; `false` when there is none.
    pub fn take(&self, bytes: usize) -> bool {
        self.received.set(self.received.get().saturating_add(bytes).min(self.most));
        let more = self.received.get().saturating_sub(SMALL) - self.taken.get();
        let Free { all, peers } = &*self.room.0;
        let Some(left) = all.get().checked_sub(more) else { return false };
        let Some(left_for_peers) = peers.get().checked_sub(if self.is_peers { more } else { 0 }) else { return false };
        all.set(left);
        peers.set(left_for_peers);
        self.taken.set(self.taken.get() + more);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Free { all, peers } = &*self.room.0;
        all.set(all.get() + self.taken.get());
        if self.is_peers {
            peers.set(peers.get() + self.taken.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn take(places: &Places, from: &str) -> Option<Place> {
        places.take(places.free.clone().try_acquire_owned().ok()?, address(from))
    }

    #[test]
    fn one_address_may_use_an_eighth_of_the_connections() {
        let places = Places::of(32);
        let mut held: Vec<_> = (0..4).map(|_| take(&places, "203.0.113.5").expect("a place")).collect();
        assert!(take(&places, "203.0.113.5").is_none());
        assert!(take(&places, "::ffff:203.0.113.5").is_none(), "the same one");
        assert!(take(&places, "203.0.113.6").is_some());
        held.pop();
        assert!(take(&places, "203.0.113.5").is_some());
        let networks: Vec<_> = (0..4).map(|n| take(&places, &format!("2001:db8::{n}")).expect("a place")).collect();
        assert!(take(&places, "2001:db8::ffff").is_none(), "one network of IPv6 is one customer");
        assert!(take(&places, "2001:db8:0:1::1").is_some());
        drop((held, networks));
        assert!(places.taken.borrow().is_empty(), "nothing is kept of those that are gone");
    }

    #[test]
    fn a_proxy_on_this_machine_or_network_may_use_all_connections() {
        for near in ["127.0.0.1", "::1", "172.17.0.1", "192.168.1.9", "fd00::1"] {
            let places = Places::of(32);
            let held: Vec<_> = (0..32).map(|_| take(&places, near).expect("a place")).collect();
            assert!(take(&places, near).is_none(), "{}", held.len());
        }
    }

    #[test]
    fn there_are_no_more_connections_than_file_descriptors() {
        let within = |descriptors| {
            let MostConnections { incoming, outgoing } = connections_within(descriptors);
            (incoming, outgoing)
        };
        assert_eq!(within(1_024), (720, 240));
        assert_eq!(within(1 << 20), (4_096, 1_024));
        assert_eq!(within(u64::MAX), (4_096, 1_024));
        assert_eq!(within(10), (1, 1));
    }

    #[test]
    fn large_bodies_share_their_room_and_small_ones_need_none() {
        let room = Room::new();
        let large = 8 << 20;
        let shares = |entrance| std::iter::repeat_with(|| room.share(entrance)).take_while(|share| share.take(large)).collect::<Vec<_>>();
        let of_clients = shares(Entrance::Client);
        assert_eq!(of_clients.len(), MOST_BUFFERED / (large - SMALL));
        let small = room.share(Entrance::Client);
        assert!(small.take(SMALL / 2) && small.take(SMALL / 2));
        drop(of_clients);
        // Other servers leave half of it to clients.
        let of_peers = shares(Entrance::Peer);
        assert_eq!(of_peers.len(), MOST_BUFFERED_OF_PEERS / (large - SMALL));
        assert_eq!(shares(Entrance::Client).len(), (MOST_BUFFERED - of_peers.len() * (large - SMALL)) / (large - SMALL));
        drop(of_peers);
        assert_eq!((room.0.all.get(), room.0.peers.get()), (MOST_BUFFERED, MOST_BUFFERED_OF_PEERS));
        // Of what is passed on little is held, however long it is.
        let streams: Vec<_> =
            std::iter::repeat_with(|| room.share_of_stream(Entrance::Client)).take_while(|share| (0..100).all(|_| share.take(large))).collect();
        assert_eq!(streams.len(), MOST_BUFFERED / (STREAMED - SMALL));
    }
}
