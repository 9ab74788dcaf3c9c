//! The table endpoint -> handler, and what every request goes through before its handler: method,
//! access token, parsing.
//!
//! Paths, methods and request types are ruma's. `client::routes` and `federation::routes` read as
//! the tables of contents of what is implemented behind each [`Entrance`].

use crate::{
    accounts::token_hash,
    body::Body,
    client, devices,
    error::{self, Error, Result},
    federation,
    homeserver::Homeserver,
    request_log::RequestLog,
    requester::Requester,
    schema,
    tables::{self, Session},
};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{
    HeaderMap, Method, Request, Response, Uri,
    request::Parts,
    uri::{Authority, Scheme},
};
use ruma::{
    OwnedRoomId, OwnedServerName,
    api::{
        IncomingRequest, IncomingRequestExt, OutgoingResponseExt,
        error::{DeserializationError, FromHttpRequestError, IntoHttpError},
        path_builder::PathBuilder,
    },
};
use std::{borrow::Cow, collections::HashMap, future::Future, rc::Rc};

/// Bytes that a body may have where anybody may send it: what logs in or registers is small.
pub const MAX_ANONYMOUS_BODY: usize = 64 << 10;

/// Bytes that the body of a logged-in user may have, but for endpoints that say otherwise: an event
/// of 64 KiB with all that is not ASCII escaped.
const MAX_USER_BODY: usize = 256 << 10;

/// Bytes that the body of another server may have where it holds events: 50 of the largest, and 100
/// messages beside them.
const MAX_PEER_BODY: usize = 16 << 20;

/// Values and names that a larger body may have where each of them is made into something: more
/// would take longer than others can wait.
const MOST_PARTS: usize = 1 << 16;

/// Which door a request came through: pages reach client paths only, peers reach federation and key
/// paths only. The host says which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// A page of the node's own origin, or a client on a TCP port.
    Client,
    /// Another server.
    Peer,
}

impl Entrance {
    /// Which entrance has a path, for a host that takes requests of both kinds on one port.
    pub fn of_path(path: &str) -> Self {
        let is_peers =
            path == "/.well-known/matrix/server" || ["/_matrix/federation/", "/_matrix/key/"].iter().any(|prefix| path.starts_with(prefix));
        if is_peers { Self::Peer } else { Self::Client }
    }
}

/// An extension of a request: the host knows that a page of its own origin sent it. What such a
/// page shows, as in an `<img>`, is asked for without an access token.
#[derive(Clone, Copy, Debug)]
pub struct OwnPage;

/// A request without authentication.
pub struct Call {
    /// The server.
    pub hs: Rc<Homeserver>,
    /// The request as it came: for what ruma's types leave out.
    pub raw: RawRequest,
}

/// A request of another server.
pub struct PeerCall {
    /// The server.
    pub hs: Rc<Homeserver>,
    /// Who asks.
    pub origin: OwnedServerName,
    /// The request as it came.
    pub raw: RawRequest,
}

impl PeerCall {
    /// Who asks.
    pub fn requester(&self) -> Requester<'_> {
        Requester::Server(&self.origin)
    }
}

/// A request of a logged-in user.
pub struct UserCall {
    /// The server.
    pub hs: Rc<Homeserver>,
    /// Who asks, from which device.
    pub session: Session,
    /// The hash of the access token that says so.
    pub token: [u8; 32],
    /// The request as it came.
    pub raw: RawRequest,
    is_guest: bool,
}

impl UserCall {
    /// Who asks.
    pub fn requester(&self) -> Requester<'_> {
        Requester::local(&self.session, self.is_guest)
    }

    /// Whether it is a guest who asks.
    pub fn is_guest(&self) -> bool {
        self.is_guest
    }
}

/// A request that everybody may send, of a user where they are logged in.
pub struct OptionalCall {
    /// The server.
    pub hs: Rc<Homeserver>,
    user: Option<LoggedIn>,
}

impl OptionalCall {
    /// Who asks, where they are logged in.
    pub fn requester(&self) -> Option<Requester<'_>> {
        self.user.as_ref().map(|user| Requester::local(&user.session, user.is_guest))
    }
}

/// The parts of a request that handlers look at beside ruma's type.
#[derive(Clone)]
pub struct RawRequest {
    /// The method.
    pub method: Method,
    /// The path as sent.
    pub path: String,
    /// The query as sent.
    pub query: Option<String>,
    /// Where the request was sent to, where the host has made that a part of its URI.
    pub origin: Option<(Scheme, Authority)>,
    /// The headers.
    pub headers: HeaderMap,
    /// Whether a page of the server's own origin sent it ([`OwnPage`]).
    pub is_own_page: bool,
    /// The body.
    pub body: Bytes,
    /// The store's generation when this attempt of the handler began: what is written for it stands
    /// on its reads.
    pub generation: u64,
    /// Whether the handler has run before, and what it had read was lost.
    pub is_repeated: bool,
}

/// Whose an access token is.
struct LoggedIn {
    session: Session,
    is_guest: bool,
    /// The token's hash.
    token: [u8; 32],
}

type Answer = LocalBoxFuture<'static, Result<Response<Body>>>;

type Handler = Rc<dyn Fn(Incoming) -> Result<Answer>>;

/// A handler that takes the request's body as it comes, which can be read once; so the handler runs
/// once.
type StreamHandler = Rc<dyn Fn(Incoming, Body) -> Result<Answer>>;

/// A request on its way into its handler. What is done with it for every endpoint alike is done
/// here and not in [`Table`]'s generic functions, which a browser downloads and compiles once for
/// each endpoint.
struct Incoming {
    hs: Rc<Homeserver>,
    /// Who asks, where the endpoint is for logged-in users.
    user: Option<LoggedIn>,
    /// Which other server asks, where the endpoint is for those.
    origin: Option<OwnedServerName>,
    request: Request<Bytes>,
    /// What the path says.
    arguments: Vec<String>,
    generation: u64,
    is_repeated: bool,
}

impl Incoming {
    #[inline(never)]
    fn call(self) -> Call {
        Call { hs: self.hs, raw: raw(self.request, self.generation, self.is_repeated) }
    }

    #[inline(never)]
    fn peer_call(self) -> Result<PeerCall> {
        let origin = self.origin.ok_or_else(|| Error::unauthorized("Missing Authorization header"))?;
        Ok(PeerCall { hs: self.hs, origin, raw: raw(self.request, self.generation, self.is_repeated) })
    }

    #[inline(never)]
    fn user_call(self) -> Result<UserCall> {
        let LoggedIn { session, is_guest, token } = self.user.ok_or_else(Error::missing_token)?;
        Ok(UserCall { hs: self.hs, session, token, raw: raw(self.request, self.generation, self.is_repeated), is_guest })
    }

    #[inline(never)]
    fn optional_call(self) -> OptionalCall {
        OptionalCall { hs: self.hs, user: self.user }
    }

    /// The answer to what cannot be parsed. A user who may read nothing of a room is told that, and
    /// not what is wrong with a question about it.
    #[inline(never)]
    fn refused(self, error: Error) -> Answer {
        Box::pin(async move {
            let (room, user) = (self.room_read(), self.user);
            if let (Some(room), Some(LoggedIn { session, is_guest, .. })) = (room, user) {
                self.hs.readable(Requester::local(&session, is_guest), &room).await?;
            }
            Err(error)
        })
    }

    /// The room that it reads.
    fn room_read(&self) -> Option<OwnedRoomId> {
        let reads = self.request.method() == Method::GET && self.request.uri().path().contains("/rooms/");
        self.arguments.first().filter(|_| reads).and_then(|room| OwnedRoomId::try_from(room.as_str()).ok())
    }

    /// As ruma's types parse it.
    #[inline(never)]
    fn parseable(&self) -> Result<(Request<&[u8]>, Vec<&str>)> {
        let mut parseable = Request::builder().method(self.request.method()).uri(client::with_stable_names(self.request.uri()));
        if let Some(headers) = parseable.headers_mut() {
            headers.clone_from(self.request.headers());
        }
        // JSON is UTF-8; of what is skipped in it serde_json would not look.
        if str::from_utf8(self.body()).is_err() {
            return Err(Error::not_json("invalid UTF-8"));
        }
        ephapse_events::json::check(self.body()).map_err(|unfit| Error::bad_json(format!("Request body not interoperable: {unfit}")))?;
        schema::check(self.request.method(), parseable.uri_ref().unwrap_or(self.request.uri()), &self.arguments, self.body())?;
        let parseable = parseable.body(self.body()).map_err(|error| Error::invalid_param(error.to_string()))?;
        Ok((parseable, self.arguments.iter().map(String::as_str).collect()))
    }

    /// An absent body is an empty object: some clients send none where every field is optional.
    fn body(&self) -> &[u8] {
        let body = self.request.body();
        if body.is_empty() && self.request.method() != Method::GET { b"{}" } else { body }
    }
}

/// What is done for a path and method.
#[derive(Clone)]
struct Endpoint {
    /// With names in braces, as the log says it.
    path: &'static str,
    handler: Handler,
    credentials: Credentials,
    bound: Bound,
}

/// What is done for a path and method whose bodies are passed on as they come.
#[derive(Clone)]
struct StreamEndpoint {
    path: &'static str,
    handler: StreamHandler,
    callers: Callers,
}

/// A request on its way into a handler that runs once.
pub struct StreamRequest {
    endpoint: StreamEndpoint,
    arguments: Vec<String>,
}

/// How large a body may be.
#[derive(Clone, Copy)]
enum Bound {
    /// So many bytes.
    Bytes(usize),
    /// So many bytes, whatever the settings say of others.
    Exactly(usize),
    /// As many bytes as any may have here: most of them are kept as they came.
    Whole,
    /// As many bytes, of [`MOST_PARTS`] parts.
    Parts,
}

impl Bound {
    fn bytes(self, hs: &Homeserver) -> usize {
        match self {
            Self::Bytes(largest) => largest.min(hs.config.largest_body),
            Self::Exactly(largest) => largest,
            Self::Whole | Self::Parts => hs.config.largest_body,
        }
    }

    /// Refuses what would take long to parse.
    fn check_parts(self, body: &[u8]) -> Result<()> {
        if matches!(self, Self::Parts) && body.len() > MAX_USER_BODY && parts(body) > MOST_PARTS {
            return Err(Error::too_large(format!("Request body too large: at most {MOST_PARTS} values and names are allowed")));
        }
        Ok(())
    }
}

/// How many values and names follow others in a JSON text.
fn parts(json: &[u8]) -> usize {
    let (mut parts, mut in_string, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b':' | b',' if !in_string => parts += 1,
            _ => {}
        }
    }
    parts
}

/// Who may call an endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Callers {
    /// Everybody.
    All,
    /// Logged-in users, guests too, and pages of the server's own origin.
    UsersAndPages,
    /// Everybody; of whoever sends an access token it is known who they are.
    Anybody,
    /// Logged-in users, guests too.
    UsersAndGuests,
    /// Logged-in users who are no guests.
    Users,
}

/// How an endpoint knows who calls it.
#[derive(Clone, Copy)]
enum Credentials {
    /// By an access token, if these callers need one.
    Token(Callers),
    /// By the signature of another server, which is over the body too.
    Signature,
}

/// What there is at a path.
struct Methods<E> {
    path: &'static str,
    endpoints: HashMap<Method, E>,
}

/// Finds what there is at a path. The tree holds indices into the list, so that a browser downloads
/// the code for it once and not for each type of endpoint.
struct Paths<E> {
    tree: matchit::Router<usize>,
    methods: Vec<Methods<E>>,
}

impl<E> Paths<E> {
    fn new() -> Self {
        Self { tree: matchit::Router::new(), methods: Vec::new() }
    }

    /// Adds what there is at some paths, which do not conflict with others.
    fn add(&mut self, paths: Vec<String>, methods: Methods<E>) {
        for path in paths {
            self.tree.insert(path, self.methods.len()).expect("paths do not conflict");
        }
        self.methods.push(methods);
    }

    fn at<'m, 'p>(&'m self, path: &'p str) -> Option<FoundPath<'m, 'p, E>> {
        let found = self.tree.at(path).ok()?;
        Some(FoundPath { methods: &self.methods[*found.value], parameters: found.params })
    }
}

/// What there is at the path of a request, and what that says.
struct FoundPath<'m, 'p, E> {
    methods: &'m Methods<E>,
    parameters: matchit::Params<'m, 'p>,
}

impl<E: Clone> FoundPath<'_, '_, E> {
    /// What is done for `method`, and what the path says.
    fn chosen(self, method: &Method) -> Result<(E, Vec<String>)> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let endpoint = self.methods.endpoints.get(method).ok_or_else(Error::wrong_method)?.clone();
        let arguments = self.parameters.iter().map(|(_, value)| decode(value)).collect::<Result<Vec<_>>>()?;
        Ok((endpoint, arguments))
    }
}

/// A router for each entrance.
pub struct Routers {
    client: Router,
    peer: Router,
}

impl Routers {
    /// Everything that is implemented.
    pub fn new() -> Self {
        Self { client: Router::of(Entrance::Client, client::routes), peer: Router::of(Entrance::Peer, federation::routes) }
    }

    /// What is behind an entrance.
    pub fn at(&self, entrance: Entrance) -> &Router {
        match entrance {
            Entrance::Client => &self.client,
            Entrance::Peer => &self.peer,
        }
    }
}

/// Finds the endpoint of a path and method.
pub struct Router {
    entrance: Entrance,
    paths: Paths<Endpoint>,
    /// Those whose bodies are passed on as they come.
    streamed: Paths<StreamEndpoint>,
    /// Every path with its methods, to compare with the specification.
    listed: Vec<(Method, &'static str)>,
}

impl Router {
    fn of(entrance: Entrance, routes: fn(&mut Table)) -> Self {
        let mut table = Table::default();
        routes(&mut table);
        table.build(entrance)
    }

    /// Every implemented method and path.
    pub fn listed(&self) -> &[(Method, &'static str)] {
        &self.listed
    }

    /// Answers `request`, for the first time or once more; errors are the caller's to write.
    pub async fn handle(&self, hs: Rc<Homeserver>, request: Request<Bytes>, is_repeated: bool, log: &RequestLog) -> Result<Response<Body>> {
        let generation = hs.begin_reading();
        let (endpoint, arguments) = self.find(request.method(), request.uri().path(), log)?;
        let (user, origin) = match endpoint.credentials {
            Credentials::Token(callers) => (authenticate(&hs, callers, request.headers(), request.uri()).await?, None),
            Credentials::Signature => {
                let origin = hs.claim(request.headers()).await?.verify(&request, hs.server_name())?;
                hs.heard_from(&origin);
                (None, Some(origin))
            }
        };
        origin.iter().for_each(|origin| log.by_server(origin));
        if let Some(LoggedIn { session, .. }) = &user {
            log.by(&session.user_id);
            if request.method() == Method::GET {
                devices::seen(&hs, session);
            }
        }
        endpoint.bound.check_parts(request.body())?;
        (endpoint.handler)(Incoming { hs, user, origin, request, arguments, generation, is_repeated })?.await
    }

    /// Refuses what can be refused before the body is read: no such endpoint, no valid access
    /// token, a guest's token, another server whose key is not known. All of it is looked at again
    /// when the body is there. Tells how many bytes the body may have.
    pub async fn admit(&self, hs: &Homeserver, request: &Parts, log: &RequestLog) -> Result<usize> {
        let (endpoint, _) = self.find(&request.method, request.uri.path(), log)?;
        match endpoint.credentials {
            Credentials::Token(callers) => drop(authenticate(hs, callers, &request.headers, &request.uri).await?),
            Credentials::Signature => drop(hs.claim(&request.headers).await?),
        }
        Ok(endpoint.bound.bytes(hs))
    }

    /// The endpoint of a request whose bodies are passed on as they come; `None` for all others.
    pub fn streamed(&self, method: &Method, path: &str, log: &RequestLog) -> Option<Result<StreamRequest>> {
        let path = client::with_stable_path(path);
        let chosen = self.streamed.at(&path)?.chosen(method).map(|(endpoint, arguments)| StreamRequest { endpoint, arguments });
        Some(chosen.inspect(|request| log.found(request.endpoint.path, &request.arguments)))
    }

    /// The path of the endpoint that `path` is matched by, with the names of its parameters.
    pub fn template(&self, path: &str) -> Option<&'static str> {
        let path = &client::with_stable_path(path);
        self.paths.at(path).map(|found| found.methods.path).or_else(|| self.streamed.at(path).map(|found| found.methods.path))
    }

    fn find(&self, method: &Method, path: &str, log: &RequestLog) -> Result<(Endpoint, Vec<String>)> {
        let path = &client::with_stable_path(path);
        let found = self.paths.at(path).ok_or_else(Error::unrecognized).and_then(|found| found.chosen(method));
        if let Ok((endpoint, arguments)) = &found {
            log.found(endpoint.path, arguments);
        }
        // Of push rules it is the scope, the kind or the attribute that there is not.
        let of_push_rules =
            self.entrance == Entrance::Client && path.contains("/pushrules/") && [Method::GET, Method::PUT, Method::DELETE].contains(method);
        if of_push_rules { found.map_err(|_| Error::unrecognized_part()) } else { found }
    }
}

impl StreamRequest {
    /// Answers `request`; errors are the caller's to write.
    pub async fn handle(self, hs: Rc<Homeserver>, request: Request<Body>, log: &RequestLog) -> Result<Response<Body>> {
        let generation = hs.begin_reading();
        let needs_none = self.endpoint.callers == Callers::UsersAndPages && request.extensions().get::<OwnPage>().is_some();
        let callers = if needs_none && access_token(request.headers(), request.uri()).is_none() { Callers::All } else { self.endpoint.callers };
        let user = authenticate(&hs, callers, request.headers(), request.uri()).await?;
        if let Some(LoggedIn { session, .. }) = &user {
            log.by(&session.user_id);
        }
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, Bytes::new());
        let incoming = Incoming { hs, user, origin: None, request, arguments: self.arguments, generation, is_repeated: false };
        (self.endpoint.handler)(incoming, body)?.await
    }
}

fn decode(segment: &str) -> Result<String> {
    percent_encoding::percent_decode_str(segment)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| Error::invalid_param("The request path is not valid UTF-8"))
}

/// Handlers being gathered, by path.
#[derive(Default)]
pub struct Table {
    paths: HashMap<&'static str, HashMap<Method, Endpoint>>,
    streamed: HashMap<&'static str, HashMap<Method, StreamEndpoint>>,
    listed: Vec<(Method, &'static str)>,
}

impl Table {
    /// An endpoint that everybody may call.
    pub fn public<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(Call, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        let handler = move |incoming: Incoming| {
            let parsed = parse::<R>(&incoming)?;
            Ok(answer::<R>(handler(incoming.call(), parsed)))
        };
        let (credentials, bound) = (Credentials::Token(Callers::All), Bound::Bytes(MAX_ANONYMOUS_BODY));
        self.add(R::METHOD, &mut R::PATH_BUILDER.all_paths(), Endpoint { path: "", handler: Rc::new(handler), credentials, bound })
    }

    /// An endpoint that everybody may call, and that wants to know of a user who it is.
    pub fn optional<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(OptionalCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        let handler = move |incoming: Incoming| {
            let parsed = parse::<R>(&incoming)?;
            Ok(answer::<R>(handler(incoming.optional_call(), parsed)))
        };
        let (credentials, bound) = (Credentials::Token(Callers::Anybody), Bound::Bytes(MAX_ANONYMOUS_BODY));
        self.add(R::METHOD, &mut R::PATH_BUILDER.all_paths(), Endpoint { path: "", handler: Rc::new(handler), credentials, bound })
    }

    /// An endpoint for other servers.
    pub fn peer<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(PeerCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        self.signed(handler, Bound::Bytes(MAX_USER_BODY))
    }

    /// As [`Self::peer`], for bodies as large as any may be, of parts each of which is made into
    /// something.
    pub fn peer_many<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(PeerCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        self.signed(handler, Bound::Parts)
    }

    /// As [`Self::peer_many`], for a handler that reads the body itself, which is anything; it is
    /// given what the path says.
    pub fn peer_raw<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(PeerCall, Vec<String>) -> A + 'static,
        A: Future<Output = Result<Response<Body>>> + 'static,
    {
        let handler = move |mut incoming: Incoming| -> Result<Answer> {
            let arguments = std::mem::take(&mut incoming.arguments);
            Ok(Box::pin(handler(incoming.peer_call()?, arguments)))
        };
        let (credentials, bound) = (Credentials::Signature, Bound::Exactly(MAX_PEER_BODY));
        self.add(R::METHOD, &mut R::PATH_BUILDER.all_paths(), Endpoint { path: "", handler: Rc::new(handler), credentials, bound })
    }

    /// As [`Self::peer`], for answers that leave as they are made.
    pub fn peer_stream<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(PeerCall, R) -> A + 'static,
        A: Future<Output = Result<Response<Body>>> + 'static,
    {
        let handler = move |incoming: Incoming| -> Result<Answer> {
            let parsed = parse::<R>(&incoming)?;
            Ok(Box::pin(handler(incoming.peer_call()?, parsed)))
        };
        let (credentials, bound) = (Credentials::Signature, Bound::Bytes(MAX_USER_BODY));
        self.add(R::METHOD, &mut R::PATH_BUILDER.all_paths(), Endpoint { path: "", handler: Rc::new(handler), credentials, bound })
    }

    /// An endpoint for logged-in users who are no guests.
    pub fn user<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(UserCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        self.logged_in(handler, Callers::Users, Bound::Bytes(MAX_USER_BODY))
    }

    /// As [`Self::user`], for bodies as large as any may be that are mostly kept as they came.
    pub fn large<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(UserCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        self.logged_in(handler, Callers::Users, Bound::Whole)
    }

    /// As [`Self::user`], for bodies as large as any may be, of parts each of which is made into
    /// something.
    pub fn many<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(UserCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        self.logged_in(handler, Callers::Users, Bound::Parts)
    }

    /// An endpoint for logged-in users, guests too (Client-Server API, Guest Access).
    pub fn guest<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(UserCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        self.logged_in(handler, Callers::UsersAndGuests, Bound::Bytes(MAX_USER_BODY))
    }

    /// As [`Self::many`], for guests too.
    pub fn guest_many<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(UserCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        self.logged_in(handler, Callers::UsersAndGuests, Bound::Parts)
    }

    /// As [`Self::user`], for bodies that are passed on as they come, in both directions.
    pub fn user_stream<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(UserCall, R, Body) -> A + 'static,
        A: Future<Output = Result<Response<Body>>> + 'static,
    {
        self.stream::<R>(move |incoming, parsed, body| Ok(Box::pin(handler(incoming.user_call()?, parsed, body))), Callers::Users)
    }

    /// An endpoint for logged-in users, guests too, and for pages of the server's own origin, whose
    /// answers are passed on as they come.
    pub fn page_stream<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(Call, R) -> A + 'static,
        A: Future<Output = Result<Response<Body>>> + 'static,
    {
        self.stream::<R>(move |incoming, parsed, _| Ok(Box::pin(handler(incoming.call(), parsed))), Callers::UsersAndPages)
    }

    /// As [`Self::page_stream`], for everybody.
    pub fn public_stream<R, F, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(Call, R) -> A + 'static,
        A: Future<Output = Result<Response<Body>>> + 'static,
    {
        self.stream::<R>(move |incoming, parsed, _| Ok(Box::pin(handler(incoming.call(), parsed))), Callers::All)
    }

    fn stream<R: IncomingRequest + 'static>(
        &mut self,
        handler: impl Fn(Incoming, R, Body) -> Result<Answer> + 'static,
        callers: Callers,
    ) -> &mut Self {
        let handler: StreamHandler = Rc::new(move |incoming, body| {
            let parsed = parse::<R>(&incoming)?;
            handler(incoming, parsed, body)
        });
        for path in R::PATH_BUILDER.all_paths() {
            self.streamed.entry(path).or_default().insert(R::METHOD, StreamEndpoint { path, handler: handler.clone(), callers });
            self.listed.push((R::METHOD, path));
        }
        self
    }

    fn signed<R, F, A>(&mut self, handler: F, bound: Bound) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(PeerCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        let handler = move |incoming: Incoming| {
            let parsed = parse::<R>(&incoming)?;
            Ok(answer::<R>(handler(incoming.peer_call()?, parsed)))
        };
        let credentials = Credentials::Signature;
        self.add(R::METHOD, &mut R::PATH_BUILDER.all_paths(), Endpoint { path: "", handler: Rc::new(handler), credentials, bound })
    }

    fn logged_in<R, F, A>(&mut self, handler: F, callers: Callers, bound: Bound) -> &mut Self
    where
        R: IncomingRequest + 'static,
        F: Fn(UserCall, R) -> A + 'static,
        A: Future<Output = Result<R::OutgoingResponse>> + 'static,
    {
        let handler = move |incoming: Incoming| match parse::<R>(&incoming) {
            Ok(parsed) => Ok(answer::<R>(handler(incoming.user_call()?, parsed))),
            Err(error) => Ok(incoming.refused(error)),
        };
        let credentials = Credentials::Token(callers);
        self.add(R::METHOD, &mut R::PATH_BUILDER.all_paths(), Endpoint { path: "", handler: Rc::new(handler), credentials, bound })
    }

    // Once for all endpoints and not once for each: a browser compiles what a cold start runs when
    // it runs it, and takes long for much code.
    #[inline(never)]
    fn add(&mut self, method: Method, paths: &mut dyn Iterator<Item = &'static str>, endpoint: Endpoint) -> &mut Self {
        for path in paths {
            self.at(method.clone(), path, endpoint.clone());
            // The state key may be left out, with or without the slash before it.
            if let Some(short) = path.strip_suffix("/{state_key}") {
                self.at(method.clone(), short, endpoint.clone());
            }
        }
        self
    }

    fn at(&mut self, method: Method, path: &'static str, endpoint: Endpoint) {
        self.paths.entry(path).or_default().insert(method.clone(), Endpoint { path, ..endpoint });
        self.listed.push((method, path));
    }

    fn build(self, entrance: Entrance) -> Router {
        let mut paths = Paths::new();
        // Paths that differ only in the names of their parameters are one path with several
        // methods.
        let mut merged: HashMap<String, (&'static str, HashMap<Method, Endpoint>)> = HashMap::new();
        for (path, methods) in self.paths {
            let shape = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/");
            merged.entry(shape).or_insert_with(|| (path, HashMap::new())).1.extend(methods);
        }
        for (path, endpoints) in merged.into_values() {
            let mut alike = vec![path.to_owned()];
            if path.ends_with("/state/{event_type}") {
                alike.push(format!("{path}/"));
            }
            paths.add(alike, Methods { path, endpoints });
        }
        let mut streamed = Paths::new();
        for (path, endpoints) in self.streamed {
            streamed.add(vec![path.to_owned()], Methods { path, endpoints });
        }
        Router { entrance, paths, streamed, listed: self.listed }
    }
}

fn raw(request: Request<Bytes>, generation: u64, is_repeated: bool) -> RawRequest {
    let (parts, body) = request.into_parts();
    let origin = parts.uri.scheme().cloned().zip(parts.uri.authority().cloned());
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().map(str::to_owned));
    let is_own_page = parts.extensions.get::<OwnPage>().is_some();
    RawRequest { method: parts.method, path, query, origin, headers: parts.headers, is_own_page, body, generation, is_repeated }
}

impl RawRequest {
    /// What the query says of `name`.
    pub fn parameter(&self, name: &str) -> Option<String> {
        parameter(self.query.as_deref()?, name)
    }
}

/// What a query says of `name`.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

/// The access token of a request, from its header or, as clients before v1.11 do, its query.
fn access_token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let header = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
        return Some(token.1.trim().to_owned());
    }
    parameter(uri.query()?, "access_token")
}

/// Whose request it is; nobody's where the endpoint is for all.
async fn authenticate(hs: &Homeserver, callers: Callers, headers: &HeaderMap, uri: &Uri) -> Result<Option<LoggedIn>> {
    if callers == Callers::All {
        return Ok(None);
    }
    let token = match access_token(headers, uri) {
        Some(token) => token_hash(&token),
        None if callers == Callers::Anybody => return Ok(None),
        None => return Err(Error::missing_token()),
    };
    let since = hs.users.read_since();
    let session = tables::ACCESS_TOKENS.get(hs.store(), &token).await?.ok_or_else(Error::unknown_token)?;
    hs.users.found(since, &session.user_id, session.user);
    let is_guest = hs.is_guest(session.user).await?;
    if callers == Callers::Users && is_guest {
        return Err(Error::guest_access_forbidden("Guest access not allowed: register an account"));
    }
    Ok(Some(LoggedIn { session, is_guest, token }))
}

fn parse<R: IncomingRequest>(incoming: &Incoming) -> Result<R> {
    let (request, arguments) = incoming.parseable()?;
    R::try_from_http_request(request, &arguments).map_err(|error| parse_error(error, incoming.body()))
}

#[inline(never)]
fn parse_error(error: FromHttpRequestError, body: &[u8]) -> Error {
    match error {
        FromHttpRequestError::Deserialization(error) => {
            let text = error.to_string();
            match (error, error::missing(&text)) {
                (_, Some(field)) => Error::missing_param(format!("Missing parameter {field}")),
                (DeserializationError::Json(error), None) => match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
                    Err(error) => Error::not_json(error),
                    Ok(_) => Error::unreadable(&error),
                },
                (_, None) => Error::invalid_param(format!("Invalid path or query: {text}")),
            }
        }
        FromHttpRequestError::MethodMismatch { .. } => Error::wrong_method(),
        _ => Error::invalid_param("Invalid request"),
    }
}

fn answer<R: IncomingRequest>(response: impl Future<Output = Result<R::OutgoingResponse>> + 'static) -> Answer {
    Box::pin(async move {
        let response: Response<Vec<u8>> = response.await?.try_into_http_response().map_err(unwritable)?;
        Ok(response.map(Body::from))
    })
}

#[inline(never)]
fn unwritable(error: IntoHttpError) -> Error {
    Error::Internal(format!("could not serialize a response: {error}"))
}
