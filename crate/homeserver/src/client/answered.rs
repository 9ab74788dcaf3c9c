//! Requests that were answered are not done again. One with a transaction id (Client-Server API,
//! "Transaction identifiers") is known by its user, device, method and path. The batch of what it
//! did keeps the answer too, for seven days. Two equal requests at once make one event and get one
//! answer.
//!
//! A DELETE of what can be deleted only once is remembered for a minute, and asked about when there
//! is nothing to delete: a client that did not hear the answer asks again, as the page's `fetch`
//! does when the worker ends, and gets the same.

use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    router::UserCall,
    tables::{self, AnsweredRequest},
    time_slice::TimeSlice,
    transaction::Tx,
};
use async_lock::MutexGuardArc;
use ruma::{OwnedEventId, TransactionId};

/// How long an answer is kept, in ms.
const RETENTION: u64 = 7 * 24 * 60 * 60 * 1000;
/// For how long a DELETE may be the repetition of one that was answered, in ms.
const REPEATED: u64 = 60 * 1000;
/// How many outdated answers go in one batch.
const CLEARED_AT_ONCE: usize = 256;

/// A request with a transaction id that was not answered before. While this is held, nobody else
/// does an equal one.
pub struct NewRequest {
    /// The client's transaction id.
    pub txn_id: String,
    _lock: MutexGuardArc<()>,
}

/// A request with a transaction id.
pub enum Request {
    /// It was answered before, like this.
    Answered(AnsweredRequest),
    /// It was not: do it, and call [`NewRequest::remember`] where it is written.
    New(NewRequest),
}

/// Looks whether a request with this transaction id was answered before.
pub async fn look_up(call: &UserCall, txn_id: &TransactionId) -> Result<Request> {
    let key = key(call);
    let (user, device) = (call.session.user, &call.session.device);
    let lock = call.hs.lock(LockKey::TxnId(format!("{user} {device} {key}"))).await;
    match tables::ANSWERED_REQUESTS.get(call.hs.store(), &(user, device.clone(), key)).await? {
        Some(answered) => Ok(Request::Answered(answered)),
        None => Ok(Request::New(NewRequest { txn_id: txn_id.to_string(), _lock: lock })),
    }
}

fn key(call: &UserCall) -> String {
    format!("{} {}", call.raw.method, call.raw.path)
}

/// Whether the same device did the same a moment ago, and [`remember`]ed it.
pub async fn is_repeated(call: &UserCall) -> Result<bool> {
    let place = (call.session.user, call.session.device.clone(), key(call));
    let answered = tables::ANSWERED_REQUESTS.get(call.hs.store(), &place).await?;
    Ok(answered.is_some_and(|answered| answered.ts.saturating_add(REPEATED) > call.hs.host.now()))
}

/// Remembers that a request was answered, in the batch of what it does.
pub fn remember(call: &UserCall, tx: &mut Tx, event_id: Option<OwnedEventId>) {
    let (user, device, ts) = (call.session.user, call.session.device.clone(), call.hs.host.now());
    tables::ANSWERED_REQUESTS.put(tx, &(user, device.clone(), key(call)), &AnsweredRequest { event_id, ts });
    tables::ANSWERED_REQUESTS_BY_TIME.put(tx, &(ts, user, device, key(call)), &());
}

impl NewRequest {
    /// Remembers the answer, in the batch of what the request does.
    pub fn remember(&self, call: &UserCall, tx: &mut Tx, event_id: Option<OwnedEventId>) {
        remember(call, tx, event_id);
    }
}

impl Homeserver {
    /// Forgets answers that are older than seven days, a few at a time.
    pub(crate) async fn forget_old_answers(&self) -> Result<()> {
        let range = tables::ANSWERED_REQUESTS_BY_TIME.range(&()).start
            ..tables::ANSWERED_REQUESTS_BY_TIME.prefix_of(&self.host.now().saturating_sub(RETENTION));
        let slice = TimeSlice::new(&*self.host);
        loop {
            let generation = self.begin_reading();
            let old =
                tables::ANSWERED_REQUESTS_BY_TIME.scan_range(self.store(), range.clone(), ephapse_store::Direction::Forward, CLEARED_AT_ONCE).await?;
            if old.is_empty() {
                return Ok(());
            }
            let forgotten = self.write(generation, |tx| {
                for (key, ()) in old {
                    tables::ANSWERED_REQUESTS_BY_TIME.delete(tx, &key);
                    let (_, user, device, request) = key;
                    tables::ANSWERED_REQUESTS.delete(tx, &(user, device, request));
                }
            });
            forgotten?.durable().await?;
            slice.end().await;
        }
    }
}
