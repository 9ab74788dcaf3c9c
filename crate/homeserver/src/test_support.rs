//! A server for one test, with the feature `test-support`: a fake clock that jumps to the next
//! timer whenever nothing else can run, seeded dice, and requests in one line. Several servers that
//! reach each other are in [`network`].

pub mod network;

use crate::{
    Body, Config, EndOfSlice, Entrance, Homeserver, Host, NoThumbnail, Registration, Store, Thumbnail, ThumbnailWanted, Transport,
    transport::NoTransport,
};
use ephapse_store::{LocalBoxFuture, MemoryStore};
use futures_channel::oneshot;
use futures_executor::LocalPool;
use futures_util::{
    FutureExt,
    future::{AbortHandle, abortable, poll_fn},
    task::LocalSpawnExt,
};
use icu_normalizer::ComposingNormalizerBorrowed;
use ruma::api::federation::authentication::{XMatrix, XMatrixSigningInput};
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
    task::Poll,
    time::Duration,
};

type Task = LocalBoxFuture<'static, ()>;

/// The one thread of a test, its clock and its timers: servers that reach each other share them.
pub struct World {
    now: Cell<u64>,
    timers: RefCell<Vec<(u64, oneshot::Sender<()>)>>,
    spawned: RefCell<Vec<Task>>,
    pool: RefCell<LocalPool>,
}

impl World {
    /// A new one, on a day in 2023.
    pub fn new() -> Rc<Self> {
        let pool = RefCell::new(LocalPool::new());
        Rc::new(Self { now: Cell::new(1_700_000_000_000), timers: RefCell::default(), spawned: RefCell::default(), pool })
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        let (sender, receiver) = oneshot::channel();
        self.timers.borrow_mut().push((self.now.get() + duration.as_millis() as u64, sender));
        Box::pin(async move {
            receiver.await.ok();
        })
    }

    fn spawn(&self, task: Task) {
        self.spawned.borrow_mut().push(task);
    }

    fn next_timer(&self) -> bool {
        let mut timers = self.timers.borrow_mut();
        timers.retain(|(_, timer)| !timer.is_canceled());
        let Some(first) = (0..timers.len()).min_by_key(|index| timers[*index].0) else { return false };
        let (deadline, timer) = timers.swap_remove(first);
        self.now.set(self.now.get().max(deadline));
        timer.send(()).ok();
        true
    }

    /// Runs a future and everything that was spawned, letting time jump whenever nothing else can
    /// run.
    #[track_caller]
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let mut pool = self.pool.borrow_mut();
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        pool.spawner().spawn_local(async move { *slot.borrow_mut() = Some(future.await) }).expect("the pool runs");
        loop {
            for task in self.spawned.take() {
                pool.spawner().spawn_local(task).expect("the pool runs");
            }
            pool.run_until_stalled();
            if let Some(done) = result.borrow_mut().take() {
                return done;
            }
            assert!(!self.spawned.borrow().is_empty() || self.next_timer(), "nothing can run, and nothing is waited for");
        }
    }
}

/// Makes a thumbnail of a file.
pub type Thumbnailer = Box<dyn Fn(&[u8], ThumbnailWanted) -> Result<Thumbnail, NoThumbnail>>;

/// Time and dice of a test.
pub struct TestHost {
    world: Rc<World>,
    dice: Cell<u64>,
    /// How far its clock is ahead of the world's, in ms.
    ahead: Cell<u64>,
    transport: RefCell<Option<Rc<dyn Transport>>>,
    /// What ends with the process.
    tasks: RefCell<Vec<AbortHandle>>,
    /// What makes thumbnails; none: nothing does.
    pub thumbnailer: RefCell<Option<Thumbnailer>>,
    /// How often something long was computed.
    pub computed: Cell<u32>,
    /// How often something long let others go on.
    pub yielded: Cell<u32>,
}

impl TestHost {
    /// A host whose dice have a seed, with a clock of its own.
    pub fn new(seed: u64) -> Rc<Self> {
        Self::in_world(World::new(), seed)
    }

    /// A host whose dice have a seed.
    pub fn in_world(world: Rc<World>, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            world,
            dice: Cell::new(seed),
            ahead: Cell::default(),
            transport: RefCell::default(),
            tasks: RefCell::default(),
            thumbnailer: RefCell::default(),
            computed: Cell::default(),
            yielded: Cell::default(),
        })
    }

    /// Lets time pass.
    pub fn advance(&self, duration: Duration) {
        self.world.now.set(self.world.now.get() + duration.as_millis() as u64);
    }
}

impl Host for TestHost {
    fn now(&self) -> u64 {
        self.world.now.get() + self.ahead.get()
    }

    /// SplitMix64.
    fn random(&self, bytes: &mut [u8]) {
        for byte in bytes {
            self.dice.set(self.dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
            let mut z = self.dice.get();
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (z ^ (z >> 31)) as u8;
        }
    }

    fn nfkc(&self, text: &str) -> String {
        ComposingNormalizerBorrowed::new_nfkc().normalize(text).into_owned()
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        self.world.sleep(duration)
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        let (task, handle) = abortable(task);
        self.tasks.borrow_mut().push(handle);
        self.world.spawn(Box::pin(task.map(drop)));
    }

    fn transport(&self) -> Rc<dyn Transport> {
        self.transport.borrow().clone().unwrap_or_else(|| Rc::new(NoTransport))
    }

    fn yield_now(&self, _: EndOfSlice) -> LocalBoxFuture<'static, ()> {
        self.yielded.set(self.yielded.get() + 1);
        Box::pin(turn())
    }

    fn thumbnail(&self, file: Vec<u8>, wanted: ThumbnailWanted) -> LocalBoxFuture<'static, Result<Thumbnail, NoThumbnail>> {
        let made = self.thumbnailer.borrow().as_ref().map_or(Err(NoThumbnail::Unsupported), |make| make(&file, wanted));
        Box::pin(turn().map(|()| made))
    }

    fn compute(&self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalBoxFuture<'static, Vec<u8>> {
        self.computed.set(self.computed.get() + 1);
        // As on another thread: whatever else can run goes on meanwhile.
        Box::pin(turn().map(|()| work()))
    }
}

/// A server and what a test needs around it.
pub struct TestServer {
    /// The server.
    pub hs: Rc<Homeserver>,
    /// Its time and dice.
    pub host: Rc<TestHost>,
    /// What it stands on.
    pub store: Rc<dyn Store>,
    config: Config,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; null where it is not JSON.
    pub body: Value,
    /// The headers.
    pub headers: http::HeaderMap,
}

impl Answer {
    /// The body of a 200; anything else fails the test.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// Asserts status and errcode.
    #[track_caller]
    pub fn fails(self, status: u16, errcode: &str) -> Value {
        assert_eq!((self.status, self.body["errcode"].as_str()), (status, Some(errcode)), "{}", self.body);
        self.body
    }
}

/// A logged-in user.
#[derive(Clone, Debug)]
pub struct TestUser {
    /// The user id.
    pub id: String,
    /// The access token.
    pub token: String,
    /// The device id.
    pub device: String,
}

impl Default for TestServer {
    fn default() -> Self {
        Self::with(Rc::new(MemoryStore::new()), config())
    }
}

impl TestServer {
    /// A new server named `test.example` where everybody may register.
    pub fn new() -> Self {
        Self::default()
    }

    /// A server on a store that may hold something already.
    pub fn with(store: Rc<dyn Store>, config: Config) -> Self {
        Self::on(TestHost::new(1), store, config)
    }

    fn on(host: Rc<TestHost>, store: Rc<dyn Store>, config: Config) -> Self {
        let opened = Homeserver::open(store.clone(), host.clone(), config.clone());
        let hs = host.world.run(opened).expect("the server opens");
        Self { hs, host, store, config }
    }

    /// The process ends: nothing that it had begun goes on.
    pub fn end(&self) {
        self.host.tasks.take().iter().for_each(AbortHandle::abort);
    }

    /// The same store after a restart: everything in memory is gone; time and dice go on.
    pub fn restart(self) -> Self {
        self.end();
        let transport = self.host.transport.take();
        let world = match transport {
            Some(_) => self.host.world.clone(),
            // What the former process had begun ends with it.
            None => {
                let world = World::new();
                world.now.set(self.host.world.now.get());
                world
            }
        };
        let host = TestHost::in_world(world, self.host.dice.get());
        host.ahead.set(self.host.ahead.get());
        host.transport.replace(transport);
        Self::on(host, self.store, self.config)
    }

    /// A new user, logged in; the password is [`PASSWORD`].
    #[track_caller]
    pub fn register(&self, name: &str) -> TestUser {
        let body = json!({ "username": name, "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
        logged_in(&self.request("POST", "/_matrix/client/v3/register", None, Some(body)).ok())
    }

    /// One more device of a user that [`Self::register`] made; `None` lets the server name it.
    #[track_caller]
    pub fn login(&self, name: &str, device: Option<&str>) -> TestUser {
        let mut body = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": name }, "password": PASSWORD });
        if let Some(device) = device {
            body["device_id"] = device.into();
        }
        logged_in(&self.request("POST", "/_matrix/client/v3/login", None, Some(body)).ok())
    }

    /// The time of the test's clock, in ms.
    pub fn now(&self) -> u64 {
        self.host.now()
    }

    /// Runs a future and everything the server spawned, letting time jump whenever nothing else can
    /// run.
    #[track_caller]
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        self.host.world.run(future)
    }

    /// The future of an answer, to run several requests at once.
    pub fn start(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> impl Future<Output = Answer> + use<> {
        self.start_raw(method, path, token, &body.map_or_else(String::new, |body| body.to_string()))
    }

    /// As [`Self::start`], with a body that need not be JSON.
    pub fn start_raw(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> impl Future<Output = Answer> + use<> {
        let mut request = http::Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.start_request(request.body(Body::from(body.to_owned())).expect("a request"))
    }

    /// As [`Self::start`], with any request.
    pub fn start_request(&self, request: http::Request<Body>) -> impl Future<Output = Answer> + use<> {
        self.start_at(Entrance::Client, request)
    }

    /// As [`Self::start_request`], at any entrance.
    pub fn start_at(&self, entrance: Entrance, request: http::Request<Body>) -> impl Future<Output = Answer> + use<> {
        let hs = self.hs.clone();
        async move {
            let response = hs.handle(entrance, request).await;
            let (parts, body) = response.into_parts();
            let body = body.read(usize::MAX).await.expect("an answer does not break off");
            Answer { status: parts.status.as_u16(), body: serde_json::from_slice(&body).unwrap_or(Value::Null), headers: parts.headers }
        }
    }

    /// What another server answers to this one, which signs the request.
    #[track_caller]
    pub fn ask(&self, other: &Self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        other.run(other.start_at(Entrance::Peer, self.signed(other, method, path, body)))
    }

    /// A request to another server, signed by this one.
    #[track_caller]
    pub fn signed(&self, other: &Self, method: &str, path: &str, body: Option<&Value>) -> http::Request<Body> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = http::Request::builder().method(method).uri(path).body(body.into_bytes()).expect("a request");
        let input = XMatrixSigningInput::new(self.hs.server_name().to_owned(), other.hs.server_name().to_owned(), self.hs.identity.key_pair());
        let authorization = XMatrix::sign_http_request(&request, input).expect("it is signed").to_string();
        request.headers_mut().insert(http::header::AUTHORIZATION, authorization.try_into().expect("a header"));
        request.map(Body::from)
    }

    /// One request, answered.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        self.run(self.start(method, path, token, body))
    }

    /// `GET` as `user`.
    #[track_caller]
    pub fn get(&self, user: &TestUser, path: &str) -> Answer {
        self.request("GET", path, Some(&user.token), None)
    }

    /// `PUT` as `user`.
    #[track_caller]
    pub fn put(&self, user: &TestUser, path: &str, body: Value) -> Answer {
        self.request("PUT", path, Some(&user.token), Some(body))
    }

    /// `POST` as `user`.
    #[track_caller]
    pub fn post(&self, user: &TestUser, path: &str, body: Value) -> Answer {
        self.request("POST", path, Some(&user.token), Some(body))
    }

    /// `DELETE` as `user`.
    #[track_caller]
    pub fn delete(&self, user: &TestUser, path: &str) -> Answer {
        self.request("DELETE", path, Some(&user.token), None)
    }
}

/// Everything else that can run runs first.
pub async fn turn() {
    let mut is_over = false;
    poll_fn(|context| {
        if is_over {
            return Poll::Ready(());
        }
        is_over = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The password of every user that a test registers.
pub const PASSWORD: &str = "correct horse battery staple";

fn logged_in(answer: &Value) -> TestUser {
    let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned();
    TestUser { id: text("user_id"), token: text("access_token"), device: text("device_id") }
}

/// The settings of test servers.
pub fn config() -> Config {
    Config {
        server_name: Some("test.example".try_into().expect("a name")),
        registration: Registration::Open,
        rate_limits: false,
        ..Config::default()
    }
}
