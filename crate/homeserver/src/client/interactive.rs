//! User-interactive authentication (Client-Server API, User-Interactive Authentication API).
//!
//! A session belongs to one operation: a request's method, path, user and body, but for passwords
//! in it; that of a registration to any request to register, since what is wanted may be said in
//! steps there. Used for another operation it is refused. Sessions are stored, survive a restart,
//! and end after an hour.

use crate::{
    accounts::{self, password},
    error::{Error, Result},
    homeserver::Homeserver,
    router::{RawRequest, UserCall},
    tables::{self, InteractiveSession, Session},
    time_slice::TimeSlice,
    transaction::Tx,
};
use ephapse_store::Direction;
use ruma::{
    OwnedUserId,
    api::{
        client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo, UserIdentifier},
        error::{ErrorKind, StandardErrorBody},
    },
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, time::Duration};

/// How long a session lasts.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Expired sessions that go whenever a new one begins.
const MAX_EXPIRED_DELETED: usize = 8;

/// Expired sessions that go in one batch when what is outdated is cleared.
const CLEARED_AT_ONCE: usize = 256;

/// What of a body is never stored, not even as a part of a hash: a fast hash of a password is as
/// good as the password.
const SECRETS: [&str; 2] = ["password", "new_password"];

/// The one flow of logged-in users: their password once more.
pub fn password_flow() -> Vec<AuthFlow> {
    vec![AuthFlow::new(vec![AuthType::Password])]
}

/// Ends well when the user of `call` has gone through one of `flows` for exactly this request; 401
/// with what is still to do otherwise.
pub async fn require(call: &UserCall, flows: Vec<AuthFlow>, auth: Option<&AuthData>) -> Result<()> {
    require_of(&call.hs, &call.raw, operation(&call.raw)?, Some(&call.session), flows, auth).await
}

/// As [`require`], for operations that need no access token too.
pub async fn require_of(
    hs: &Homeserver,
    raw: &RawRequest,
    operation: String,
    user: Option<&Session>,
    flows: Vec<AuthFlow>,
    auth: Option<&AuthData>,
) -> Result<()> {
    let now = hs.host.now();
    let fresh = InteractiveSession { request: operation, user: user.map(|session| session.user), completed: Vec::new(), created: now };
    let named = auth.and_then(AuthData::session);
    let (id, mut session) = match named {
        None => (new_id(hs, now), fresh),
        Some(id) => match find(hs, id, &fresh).await? {
            Some(stored) => (id.to_owned(), stored),
            None => {
                let id = new_id(hs, now);
                begin(hs, raw, &id, &fresh).await?;
                return Err(ask(id, &fresh, flows, Some((ErrorKind::Forbidden, "The session has expired: start again without a session ID"))));
            }
        },
    };
    let refusal = match auth {
        Some(auth) if !is_complete(&session, &flows) => attempt(hs, user, &mut session, &flows, auth).await?,
        _ => None,
    };
    let complete = auth.is_some() && is_complete(&session, &flows);
    if named.is_some() {
        let kept = hs.write(raw.generation, |tx| tables::INTERACTIVE_SESSIONS.put(tx, &id, &session));
        kept?.visible();
    } else if !complete {
        begin(hs, raw, &id, &session).await?;
    }
    if complete { Ok(()) } else { Err(ask(id, &session, flows, refusal)) }
}

/// Whether a session goes on with an operation that needs no access token; 403 when it was begun
/// for another one.
pub async fn goes_on(hs: &Homeserver, session: &str, operation: &str) -> Result<bool> {
    let fresh = InteractiveSession { request: operation.to_owned(), user: None, completed: Vec::new(), created: hs.host.now() };
    Ok(find(hs, session, &fresh).await?.is_some())
}

/// The session of this id, unless it has ended; 403 when it was begun for another operation, or by
/// somebody else.
async fn find(hs: &Homeserver, id: &str, fresh: &InteractiveSession) -> Result<Option<InteractiveSession>> {
    let stored = tables::INTERACTIVE_SESSIONS.get(hs.store(), &id.to_owned()).await?;
    let stored = stored.filter(|stored| !has_ended(stored, fresh.created));
    if stored.as_ref().is_some_and(|stored| stored.request != fresh.request || stored.user != fresh.user) {
        return Err(Error::forbidden("Requested operation has changed during the UI authentication session"));
    }
    Ok(stored)
}

type Refusal = (ErrorKind, &'static str);

/// Tries the stage that `auth` is about.
async fn attempt(
    hs: &Homeserver,
    user: Option<&Session>,
    session: &mut InteractiveSession,
    flows: &[AuthFlow],
    auth: &AuthData,
) -> Result<Option<Refusal>> {
    // A session id alone asks how far the session is; a stage that is done stays done.
    let Some(stage) = auth.auth_type() else { return Ok(None) };
    if session.completed.iter().any(|done| done == stage.as_str()) {
        return Ok(None);
    }
    if !flows.iter().any(|flow| next(session, flow) == Some(&stage)) {
        return Ok(Some((ErrorKind::Forbidden, "This stage is not the next one of any flow")));
    }
    let passed = match auth {
        AuthData::Dummy(_) => true,
        AuthData::Password(given) => {
            let Some(user) = user else { return Ok(Some((ErrorKind::Forbidden, "You are not logged in"))) };
            let named = identified(hs, &given.identifier);
            let is_right = match &named {
                Some(named) => password::check(hs, named, &given.password).await?.is_some(),
                None => false,
            };
            if is_right && named.as_ref() != Some(&user.user_id) {
                return Err(Error::forbidden("The password of another user was given"));
            }
            is_right
        }
        AuthData::RegistrationToken(given) => registration_token(hs, &given.token)?,
        _ => false,
    };
    if !passed {
        return Ok(Some((ErrorKind::Forbidden, "Authentication failed: try again")));
    }
    session.completed.push(stage.as_str().to_owned());
    Ok(None)
}

/// The user id that an `m.id.user` identifier means on this server, given as a whole or as its
/// localpart.
pub fn identified(hs: &Homeserver, identifier: &UserIdentifier) -> Option<OwnedUserId> {
    match identifier {
        UserIdentifier::Matrix(id) => accounts::named(hs, &id.user),
        _ => None,
    }
}

/// Whether this is the token that registration asks for; 429 when too many were tried.
pub fn registration_token(hs: &Homeserver, token: &str) -> Result<bool> {
    let crate::Registration::Token(right) = &hs.config.registration else { return Ok(false) };
    hs.rate_limits.registration_tokens.take("", hs.host.now())?;
    // Hashes are compared, so that the time taken says nothing of how much was right.
    let is_right = Sha256::digest(right.as_bytes()) == Sha256::digest(token.as_bytes());
    if is_right {
        hs.rate_limits.registration_tokens.give_back("");
    }
    Ok(is_right)
}

/// The stage of `flow` that comes next, if the session has followed it so far.
fn next<'a>(session: &InteractiveSession, flow: &'a AuthFlow) -> Option<&'a AuthType> {
    let followed = session.completed.iter().zip(&flow.stages).all(|(done, stage)| done == stage.as_str());
    followed.then(|| flow.stages.get(session.completed.len())).flatten()
}

fn is_complete(session: &InteractiveSession, flows: &[AuthFlow]) -> bool {
    flows.iter().any(|flow| {
        flow.stages.len() == session.completed.len() && flow.stages.iter().zip(&session.completed).all(|(stage, done)| stage.as_str() == done)
    })
}

fn has_ended(session: &InteractiveSession, now: u64) -> bool {
    session.created.saturating_add(LIFETIME.as_millis() as u64) <= now
}

/// Ids sort by the time they were made, so that old ones are found at the front.
fn new_id(hs: &Homeserver, now: u64) -> String {
    format!("{now:012x}{}", hs.random_string(24))
}

async fn begin(hs: &Homeserver, raw: &RawRequest, id: &str, session: &InteractiveSession) -> Result<()> {
    let ended = ended(hs, MAX_EXPIRED_DELETED, session.created).await?;
    let begun = hs.write(raw.generation, |tx| {
        forget(tx, &ended);
        tables::INTERACTIVE_SESSIONS.put(tx, &id.to_owned(), session);
    });
    begun?.visible();
    Ok(())
}

fn ask(id: String, session: &InteractiveSession, flows: Vec<AuthFlow>, refusal: Option<Refusal>) -> Error {
    let mut info = UiaaInfo::new(flows);
    info.completed = session.completed.iter().map(|stage| AuthType::from(stage.as_str())).collect();
    info.params = Some(RawValue::from_string("{}".to_owned()).expect("an empty object is JSON"));
    info.session = Some(id);
    info.auth_error = refusal.map(|(kind, message)| Box::new(StandardErrorBody::new(kind, message.to_owned())));
    Error::Interactive(Box::new(info))
}

impl Homeserver {
    /// Forgets sessions that have ended, a few at a time.
    pub(crate) async fn forget_ended_sessions(&self) -> Result<()> {
        let slice = TimeSlice::new(&*self.host);
        loop {
            let generation = self.begin_reading();
            let ended = ended(self, CLEARED_AT_ONCE, self.host.now()).await?;
            if ended.is_empty() {
                return Ok(());
            }
            let forgotten = self.write(generation, |tx| forget(tx, &ended));
            forgotten?.durable().await?;
            slice.end().await;
        }
    }
}

/// Those that have ended of the oldest sessions.
async fn ended(hs: &Homeserver, of: usize, now: u64) -> Result<Vec<String>> {
    let oldest = tables::INTERACTIVE_SESSIONS.scan(hs.store(), &(), Direction::Forward, of).await?;
    Ok(oldest.into_iter().filter(|(_, session)| has_ended(session, now)).map(|(id, _)| id).collect())
}

/// Forgets sessions, with what was registered through them.
fn forget(tx: &mut Tx, ended: &[String]) {
    for id in ended {
        tables::INTERACTIVE_SESSIONS.delete(tx, id);
        tables::REGISTERED.delete(tx, id);
        tables::PENDING_REGISTRATIONS.delete(tx, id);
    }
}

/// What must stay the same from stage to stage: method, path, and the body without `auth` and
/// secrets.
fn operation(raw: &RawRequest) -> Result<String> {
    let body: &[u8] = if raw.body.is_empty() { b"{}" } else { &raw.body };
    // Sorted at every level, whatever order the client sent: serde_json's maps may keep theirs.
    let mut body: BTreeMap<String, serde_json::Value> = serde_json::from_slice(body).map_err(|error| Error::unreadable(&error))?;
    body.remove("auth");
    for secret in SECRETS {
        body.remove(secret);
    }
    for value in body.values_mut() {
        value.sort_all_objects();
    }
    let body = serde_json::to_vec(&body).expect("JSON that was just read can be written");
    let hash: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{} {} {hash}", raw.method, raw.path))
}
