//! Requests with a transaction id happen once (Client-Server API, "Transaction identifiers"): the
//! id belongs to user, device, method and path, the answer is kept for seven days in the batch of
//! what the request did, and two equal requests at once make one event and one answer.
//!
//! A DELETE of what can be deleted only once is remembered for a minute, and asked about when there
//! is nothing to delete: a client that did not hear the answer asks again, as the page's `fetch`
//! does when the worker ends, and gets the same.

use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    router::UserCall,
    tables::{self, Transaction},
    time_slice::TimeSlice,
    transaction::Tx,
};
use async_lock::MutexGuardArc;
use ruma::OwnedEventId;

/// How long an answer is kept, in ms.
const RETENTION: u64 = 7 * 24 * 60 * 60 * 1000;
/// For how long a DELETE may be the repetition of one that was answered, in ms.
const REPEATED: u64 = 60 * 1000;
/// How many outdated answers go in one batch.
const CLEARED_AT_ONCE: usize = 256;

/// One request with a transaction id, while it is being answered; nobody else answers an equal one
/// meanwhile.
pub struct Once {
    _lock: MutexGuardArc<()>,
}

/// What is to be done with a request that has a transaction id.
pub enum First {
    /// It was answered before, like this.
    Again(Transaction),
    /// It comes for the first time: do it, and call [`Once::done`] in its transaction.
    Now(Once),
}

/// Looks whether a request was answered before.
pub async fn begin(call: &UserCall) -> Result<First> {
    let key = key(call);
    let (user, device) = (call.session.user, &call.session.device);
    let lock = call.hs.lock(LockKey::Transaction(format!("{user} {device} {key}"))).await;
    match tables::TRANSACTIONS.get(call.hs.store(), &(user, device.clone(), key)).await? {
        Some(answered) => Ok(First::Again(answered)),
        None => Ok(First::Now(Once { _lock: lock })),
    }
}

fn key(call: &UserCall) -> String {
    format!("{} {}", call.raw.method, call.raw.path)
}

/// Whether the same device did the same a moment ago, and [`remember`]ed it.
pub async fn is_repeated(call: &UserCall) -> Result<bool> {
    let place = (call.session.user, call.session.device.clone(), key(call));
    let answered = tables::TRANSACTIONS.get(call.hs.store(), &place).await?;
    Ok(answered.is_some_and(|answered| answered.ts.saturating_add(REPEATED) > call.hs.host.now()))
}

/// Remembers that a request was answered, in the transaction of what it does.
pub fn remember(call: &UserCall, tx: &mut Tx, event_id: Option<OwnedEventId>) {
    let (user, device, ts) = (call.session.user, call.session.device.clone(), call.hs.host.now());
    tables::TRANSACTIONS.put(tx, &(user, device.clone(), key(call)), &Transaction { event_id, ts });
    tables::TRANSACTIONS_BY_TIME.put(tx, &(ts, user, device, key(call)), &());
}

impl Once {
    /// Remembers the answer, in the transaction of what the request does.
    pub fn done(&self, call: &UserCall, tx: &mut Tx, event_id: Option<OwnedEventId>) {
        remember(call, tx, event_id);
    }
}

impl Homeserver {
    /// Forgets answers that are older than seven days, a few at a time.
    pub(crate) async fn forget_old_transactions(&self) -> Result<()> {
        let range = tables::TRANSACTIONS_BY_TIME.range(&()).start..tables::TRANSACTIONS_BY_TIME.prefix_of(&self.host.now().saturating_sub(RETENTION));
        let slice = TimeSlice::new(&*self.host);
        loop {
            let generation = self.fresh_generation();
            let old =
                tables::TRANSACTIONS_BY_TIME.scan_range(self.store(), range.clone(), ephapse_store::Direction::Forward, CLEARED_AT_ONCE).await?;
            if old.is_empty() {
                return Ok(());
            }
            let forgotten = self.write(generation, |tx| {
                for (key, ()) in old {
                    tables::TRANSACTIONS_BY_TIME.delete(tx, &key);
                    let (_, user, device, request) = key;
                    tables::TRANSACTIONS.delete(tx, &(user, device, request));
                }
            });
            forgotten?.durable().await?;
            slice.end().await;
        }
    }
}
