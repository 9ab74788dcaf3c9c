//! Requests with a transaction id happen once (Client-Server API, "Transaction identifiers"): the id belongs to user, device, method and path, the
//! answer is kept for seven days in the batch of what the request did, and two equal requests at once make one event and one answer.

use crate::{
    error::Result,
    homeserver::Homeserver,
    locks::LockKey,
    router::UserCall,
    tables::{self, Transaction},
};
use async_lock::MutexGuardArc;
use ephapse_store::Batch;
use ruma::OwnedEventId;

/// How long an answer is kept, in ms.
const KEPT: u64 = 7 * 24 * 60 * 60 * 1000;
/// How many outdated answers go in one batch.
const CLEARED_AT_ONCE: usize = 256;

/// One request with a transaction id, while it is being answered; nobody else answers an equal one meanwhile.
pub struct Once {
    key: String,
    _lock: MutexGuardArc<()>,
}

/// What is to be done with a request that has a transaction id.
pub enum First {
    /// It was answered before, like this.
    Again(Transaction),
    /// It comes for the first time: do it, and put [`Once::done`] into its batch.
    Now(Once),
}

/// Looks whether a request was answered before.
pub async fn begin(call: &UserCall) -> Result<First> {
    let key = format!("{} {}", call.raw.method, call.raw.path);
    let (user, device) = (call.session.user, &call.session.device);
    let lock = call.hs.lock(LockKey::Transaction(format!("{user} {device} {key}"))).await;
    match tables::TRANSACTIONS.get(call.hs.store(), &(user, device.clone(), key.clone())).await? {
        Some(answered) => Ok(First::Again(answered)),
        None => Ok(First::Now(Once { key, _lock: lock })),
    }
}

impl Once {
    /// Remembers the answer, in the batch of what the request does.
    pub fn done(&self, call: &UserCall, batch: &mut Batch, event_id: Option<OwnedEventId>) {
        let (user, device, ts) = (call.session.user, call.session.device.clone(), call.hs.host.now());
        tables::TRANSACTIONS.put(batch, &(user, device.clone(), self.key.clone()), &Transaction { event_id, ts });
        tables::TRANSACTIONS_BY_TIME.put(batch, &(ts, user, device, self.key.clone()), &());
    }
}

impl Homeserver {
    /// Forgets answers that are older than seven days, a few at a time.
    pub(crate) async fn forget_old_transactions(&self) -> Result<()> {
        let range = tables::TRANSACTIONS_BY_TIME.range(&()).start..tables::TRANSACTIONS_BY_TIME.prefix_of(&self.host.now().saturating_sub(KEPT));
        loop {
            let old =
                tables::TRANSACTIONS_BY_TIME.scan_range(self.store(), range.clone(), ephapse_store::Direction::Forward, CLEARED_AT_ONCE).await?;
            if old.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            batch.set_frees_space();
            for (key, ()) in old {
                tables::TRANSACTIONS_BY_TIME.delete(&mut batch, &key);
                let (_, user, device, request) = key;
                tables::TRANSACTIONS.delete(&mut batch, &(user, device, request));
            }
            self.submit(batch, Vec::new())?.durable().await?;
            self.host.yield_now().await;
        }
    }
}
