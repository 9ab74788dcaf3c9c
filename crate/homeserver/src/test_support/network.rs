//! Several servers in one process that share nothing but the requests they send each other, signed
//! and verified as over HTTPS.

use super::{TestHost, TestServer, World, config};
use crate::{Body, Config, Entrance, Transport, TransportError};
use bytes::Bytes;
use ephapse_store::{LocalBoxFuture, MemoryStore, Store};
use futures_channel::oneshot;
use futures_util::future::pending;
use http::{Request, Response};
use ruma::OwnedServerName;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::{Rc, Weak},
    time::Duration,
};

/// A request that one server sent to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Who sent it.
    pub from: OwnedServerName,
    /// Whom to.
    pub to: OwnedServerName,
    /// `GET` and the like.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The body.
    pub body: Bytes,
}

type Played = Rc<dyn Fn(Request<Bytes>) -> Response<Body>>;

/// What a request was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The request.
    pub request: Sent,
    /// The HTTP status.
    pub status: u16,
    /// All of the body.
    pub body: Bytes,
}

/// The wires between servers.
struct Wires {
    world: Rc<World>,
    servers: RefCell<BTreeMap<OwnedServerName, Rc<crate::Homeserver>>>,
    /// How often each was started.
    starts: RefCell<BTreeMap<OwnedServerName, u64>>,
    /// How far their clocks are ahead.
    ahead: RefCell<BTreeMap<OwnedServerName, Duration>>,
    /// Pairs that do not reach each other, and servers that nobody reaches.
    cut: RefCell<BTreeSet<(OwnedServerName, OwnedServerName)>>,
    down: RefCell<BTreeSet<OwnedServerName>>,
    /// Servers that a test plays itself.
    played: RefCell<BTreeMap<OwnedServerName, Played>>,
    latency: Cell<Duration>,
    faults: RefCell<Faults>,
    sent: RefCell<Vec<Sent>>,
    /// The answers since they are listened to.
    answered: RefCell<Option<Vec<Answered>>>,
}

/// What goes wrong on the way, at random.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Where the randomness comes from.
    pub seed: u64,
    /// How many of a hundred requests, or answers, are lost.
    pub loss: u64,
    /// How many of a hundred requests arrive twice.
    pub duplication: u64,
    /// How much longer a request or an answer takes at most, so that they overtake each other.
    pub latency: Duration,
}

impl Faults {
    fn dice(&mut self) -> u64 {
        // SplitMix64.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, percent: u64) -> bool {
        percent > 0 && self.dice() % 100 < percent
    }

    fn delay(&mut self) -> Duration {
        match self.latency.as_millis() as u64 {
            0 => Duration::ZERO,
            most => Duration::from_millis(self.dice() % most),
        }
    }
}

/// Servers that reach each other.
pub struct Network {
    wires: Rc<Wires>,
}

struct Wire {
    from: OwnedServerName,
    /// Which start of the server it belongs to: an ended process sends nothing.
    start: u64,
    wires: Weak<Wires>,
}

impl Transport for Wire {
    fn send(&self, destination: OwnedServerName, request: Request<Bytes>) -> LocalBoxFuture<'static, Result<Response<Body>, TransportError>> {
        let (from, start, wires) = (self.from.clone(), self.start, self.wires.upgrade());
        Box::pin(async move {
            let wires = wires.ok_or(TransportError::NoFederation)?;
            if wires.starts.borrow().get(&from) != Some(&start) {
                return pending().await;
            }
            let (method, path) = (request.method().to_string(), request.uri().to_string());
            let body = request.body().clone();
            let sent = Sent { from: from.clone(), to: destination.clone(), method, path, body };
            wires.sent.borrow_mut().push(sent.clone());
            let lost = || TransportError::Unreachable("it broke off".to_owned());
            wires.on_its_way().await;
            let played = wires.played.borrow().get(&destination).cloned();
            if let Some(answer) = played {
                return Ok(answer(request));
            }
            let hs = wires.reached(&from, &destination)?;
            let (is_lost, is_doubled) = {
                let mut faults = wires.faults.borrow_mut();
                let (loss, duplication) = (faults.loss, faults.duplication);
                (faults.chance(loss), faults.chance(duplication))
            };
            if is_lost {
                return Err(lost());
            }
            if is_doubled {
                let (hs, request) = (hs.clone(), copy(&request));
                let later = wires.on_its_way();
                wires.world.spawn(Box::pin(async move {
                    later.await;
                    hs.handle(Entrance::Peer, request.map(Body::Whole)).await;
                }));
            }
            // The other server works on a task of its own, as another process would.
            let (sender, receiver) = oneshot::channel();
            let request = request.map(Body::Whole);
            wires.world.spawn(Box::pin(async move {
                sender.send(hs.handle(Entrance::Peer, request).await).ok();
            }));
            let answer = receiver.await;
            let answer = match answer {
                Ok(answer) => Ok(wires.overheard(sent, answer).await),
                lost => lost,
            };
            wires.on_its_way().await;
            wires.reached(&from, &destination)?;
            let loss = wires.faults.borrow().loss;
            if wires.faults.borrow_mut().chance(loss) {
                return Err(lost());
            }
            answer.map_err(|_| lost())
        })
    }
}

fn copy(request: &Request<Bytes>) -> Request<Bytes> {
    let mut copy = Request::builder().method(request.method()).uri(request.uri()).body(request.body().clone()).expect("it was one before");
    copy.headers_mut().clone_from(request.headers());
    copy
}

impl Wires {
    /// An answer, which is taken down where answers are.
    async fn overheard(&self, request: Sent, answer: Response<Body>) -> Response<Body> {
        if self.answered.borrow().is_none() {
            return answer;
        }
        let (parts, body) = answer.into_parts();
        let body = body.read(usize::MAX).await.expect("an answer does not break off");
        let answered = Answered { request, status: parts.status.as_u16(), body: body.clone() };
        self.answered.borrow_mut().iter_mut().for_each(|list| list.push(answered.clone()));
        Response::from_parts(parts, Body::Whole(body))
    }

    fn on_its_way(&self) -> LocalBoxFuture<'static, ()> {
        self.world.sleep(self.latency.get() + self.faults.borrow_mut().delay())
    }

    fn reached(&self, from: &OwnedServerName, to: &OwnedServerName) -> Result<Rc<crate::Homeserver>, TransportError> {
        let is_cut = self.cut.borrow().contains(&pair(from, to)) || self.down.borrow().contains(to);
        let server = self.servers.borrow().get(to).cloned().filter(|_| !is_cut);
        server.ok_or_else(|| TransportError::Unreachable("connection refused".to_owned()))
    }
}

fn pair(one: &OwnedServerName, other: &OwnedServerName) -> (OwnedServerName, OwnedServerName) {
    if one < other { (one.clone(), other.clone()) } else { (other.clone(), one.clone()) }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Network {
    /// A network without servers.
    pub fn new() -> Self {
        let wires = Wires {
            world: World::new(),
            servers: RefCell::default(),
            starts: RefCell::default(),
            ahead: RefCell::default(),
            cut: RefCell::default(),
            down: RefCell::default(),
            played: RefCell::default(),
            latency: Cell::new(Duration::from_millis(5)),
            faults: RefCell::default(),
            sent: RefCell::default(),
            answered: RefCell::default(),
        };
        Self { wires: Rc::new(wires) }
    }

    /// A new server of this name, with the settings of test servers.
    pub fn server(&self, name: &str) -> TestServer {
        self.server_with(name, Rc::new(MemoryStore::new()), config())
    }

    /// A server on a store that may hold something already.
    pub fn server_with(&self, name: &str, store: Rc<dyn Store>, config: Config) -> TestServer {
        let name = OwnedServerName::try_from(name).expect("a name");
        let seed = name.as_str().bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let host = TestHost::in_world(self.wires.world.clone(), seed);
        host.ahead.set(self.wires.ahead.borrow().get(&name).copied().unwrap_or_default().as_millis() as u64);
        let start = self.wires.starts.borrow().get(&name).map_or(1, |start| start + 1);
        self.wires.starts.borrow_mut().insert(name.clone(), start);
        host.transport.replace(Some(Rc::new(Wire { from: name.clone(), start, wires: Rc::downgrade(&self.wires) })));
        let server = TestServer::on(host, store, Config { server_name: Some(name.clone()), ..config });
        self.wires.servers.borrow_mut().insert(name, server.hs.clone());
        server
    }

    /// The same store after a restart; others reach it again.
    pub fn restart(&self, server: TestServer) -> TestServer {
        let server = server.restart();
        self.wires.servers.borrow_mut().insert(server.hs.server_name().to_owned(), server.hs.clone());
        server
    }

    /// How far the clock of a server will be ahead of the others', whenever it starts.
    pub fn set_clock_ahead(&self, name: &str, ahead: Duration) {
        self.wires.ahead.borrow_mut().insert(name.try_into().expect("a name"), ahead);
    }

    /// A server that the test plays itself: what it answers, whoever asks.
    pub fn play(&self, name: &str, answer: impl Fn(Request<Bytes>) -> Response<Body> + 'static) {
        self.wires.played.borrow_mut().insert(name.try_into().expect("a name"), Rc::new(answer));
    }

    /// Two servers do not reach each other any more, or do again.
    pub fn set_cut(&self, one: &TestServer, other: &TestServer, is_cut: bool) {
        let pair = pair(&one.hs.server_name().to_owned(), &other.hs.server_name().to_owned());
        let mut cut = self.wires.cut.borrow_mut();
        if is_cut {
            cut.insert(pair)
        } else {
            cut.remove(&pair)
        };
    }

    /// Nobody reaches a server any more, or everybody does again. It goes on by itself.
    pub fn set_down(&self, server: &TestServer, is_down: bool) {
        let name = server.hs.server_name().to_owned();
        let mut down = self.wires.down.borrow_mut();
        if is_down {
            down.insert(name)
        } else {
            down.remove(&name)
        };
    }

    /// How long a request, and an answer, takes on its way.
    pub fn set_latency(&self, latency: Duration) {
        self.wires.latency.set(latency);
    }

    /// What goes wrong on the way from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.wires.faults.replace(faults);
    }

    /// Lets the servers work for some time of the test's clock.
    pub fn pass(&self, duration: Duration) {
        let sleep = self.wires.world.sleep(duration);
        self.wires.world.run(sleep);
    }

    /// Takes down what requests are answered from now on. Answers are there as a whole then.
    pub fn listen(&self) {
        self.wires.answered.replace(Some(Vec::new()));
    }

    /// What was answered since the last time that this was asked.
    pub fn answered(&self) -> Vec<Answered> {
        self.wires.answered.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What was sent since this was last asked.
    pub fn sent(&self) -> Vec<Sent> {
        self.wires.sent.take()
    }
}
