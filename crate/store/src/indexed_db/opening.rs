//! How a database is opened: the object stores are made, what they hold is read, and the right to
//! write is taken.
//!
//! That right is the epoch in `meta` and in `chunks`. Each opening counts it up, and may write as
//! long as it is the last that did. Where storage is full, not even the epoch can be put. The store
//! is opened for reading then. The first write that fits puts the epoch, if nobody else has written
//! meanwhile.

use super::chunks::BYTES;
use super::database::{
    self, BLOBS, CHUNKS, LOG, META, PAGES, SEGMENTS, get, js_number, put, read_transaction, request_result, store_error, transaction_done,
    write_transaction,
};
use crate::{
    Bytes, CrashPoint, FIRST_CONTENT, Faults, StoreError,
    log_structured::{Loaded, PROBE_BLOB},
};
use futures_util::future::{join, try_join, try_join3, try_join5};
use js_sys::{Array, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Blob, IdbDatabase, IdbObjectStore, IdbTransaction};

pub(super) const EPOCH: &str = "epoch";
/// The newest format of the content that an opening has understood. Absent in databases of the
/// first.
const CONTENT_FORMAT: &str = "content";
/// Whether sstables are Blobs or pages. Absent until that was tried out.
const HAS_BLOBS: &str = "blobs";
/// The prefetch list. Absent until an opening has saved one.
pub(super) const PREFETCH_LIST: &str = "note";

/// What an opening reads in the transaction that puts the epoch.
const CLAIM_STORES: [&str; 4] = [META, LOG, SEGMENTS, CHUNKS];

/// What an opening found.
pub(super) struct OpenedDatabase {
    pub(super) loaded: Loaded,
    /// Whether this engine can keep Blobs in IndexedDB.
    pub(super) blobs: bool,
    /// Bytes of chunks. Absent where an earlier version made the database and none was changed
    /// since.
    pub(super) chunk_bytes: Option<f64>,
    /// Where it could not take the right to write: what has to be unchanged when it does.
    pub(super) pending_claim: Option<PendingClaim>,
}

/// What an opening found that could only read.
pub(super) struct PendingClaim {
    epoch: f64,
    content_format: u32,
    log: Vec<u64>,
    sstables: Vec<u64>,
}

/// Makes or converts the object stores, in the transaction that sets the new version.
pub(super) fn upgrade(database: &IdbDatabase, from: u32, faults: &Faults) -> Result<(), StoreError> {
    if from == 0 {
        for store in [META, LOG, SEGMENTS, BLOBS, PAGES] {
            database.create_object_store(store).map_err(|error| store_error(&error))?;
        }
    }
    if from < 2 {
        let chunks = database.create_object_store(CHUNKS).map_err(|error| store_error(&error))?;
        // Else each opening would look for chunks to count until there is one.
        put(&chunks, &BYTES.into(), &0.into())?;
    }
    // Conversions from format 2 on go here, in the order of the formats.
    if faults.crash_at(CrashPoint::Migrating) { Err(StoreError::Closed) } else { Ok(()) }
}

/// Decides whether sstables will be Blobs, once for a database, before there are any.
///
/// An engine that keeps no Blobs may take one and abort the transaction later. WebKit does, where
/// it keeps nothing on disk. So the trial has a transaction of its own.
async fn choose_layout(database: &IdbDatabase, with_blobs: bool) -> Result<(), StoreError> {
    let keeps_blobs = with_blobs
        && match try_a_blob(database).await {
            Ok(()) => true,
            Err(error @ (StoreError::QuotaExceeded | StoreError::Closed)) => return Err(error),
            Err(error) => {
                tracing::info!(%error, "this browser cannot store Blobs: storing their bytes as pages instead");
                false
            }
        };
    let transaction = write_transaction(database, &[META, BLOBS])?;
    let done = transaction_done(&transaction);
    put(&object_store(&transaction, META)?, &HAS_BLOBS.into(), &keeps_blobs.into())?;
    object_store(&transaction, BLOBS)?.delete(&js_number(PROBE_BLOB)).map_err(|error| store_error(&error))?;
    database::commit(&transaction);
    done.await
}

async fn try_a_blob(database: &IdbDatabase) -> Result<(), StoreError> {
    let blob = Blob::new_with_u8_array_sequence(&Array::of1(&Uint8Array::from([1u8].as_slice()))).map_err(|error| store_error(&error))?;
    let transaction = write_transaction(database, &[BLOBS])?;
    let done = transaction_done(&transaction);
    let kept = request_result(&object_store(&transaction, BLOBS)?.put_with_key(&blob, &js_number(PROBE_BLOB)).map_err(|error| store_error(&error))?);
    // We do not call `commit`: WebKit would complete the transaction although the put has failed.
    let (kept, done) = join(kept, done).await;
    kept.and(done)
}

/// Reads what a store starts from, and takes the right to write, if there is space for that.
pub(super) async fn load(database: &IdbDatabase, content_format: u32, with_blobs: bool) -> Result<OpenedDatabase, StoreError> {
    loop {
        let opened = match load_and_claim(database, content_format, true).await {
            Err(StoreError::QuotaExceeded) => load_and_claim(database, content_format, false).await,
            opened => opened,
        };
        match opened? {
            Some(opening) => return Ok(opening),
            None => choose_layout(database, with_blobs).await?,
        }
    }
}

/// `None`, with nothing changed, where it is not decided yet how sstables are kept.
async fn load_and_claim(database: &IdbDatabase, content_format: u32, claim: bool) -> Result<Option<OpenedDatabase>, StoreError> {
    let transaction = if claim { write_transaction(database, &CLAIM_STORES)? } else { read_transaction(database, &CLAIM_STORES)? };
    let done = transaction_done(&transaction);
    let meta = object_store(&transaction, META)?;
    let [epoch, content, blobs, prefetch_list] = [EPOCH, CONTENT_FORMAT, HAS_BLOBS, PREFETCH_LIST].map(|key| get(&meta, &key.into()));
    let chunk_bytes = get(&object_store(&transaction, CHUNKS)?, &BYTES.into())?;
    let (before, content, blobs, prefetch_list, chunk_bytes) = try_join5(epoch?, content?, blobs?, prefetch_list?, chunk_bytes).await?;
    let before = before.as_f64().unwrap_or(0.0);
    let content = content.as_f64().map_or(FIRST_CONTENT, |content| content as u32);
    if content > content_format {
        // Nothing was put, so it ends with nothing changed.
        done.await?;
        return Err(StoreError::NewerFormat { found: content, supported: content_format });
    }
    let Some(blobs) = blobs.as_bool() else {
        done.await?;
        return Ok(None);
    };
    if claim {
        put_claim(&transaction, before + 1.0, content_format)?;
    }
    let records = try_join(records(&object_store(&transaction, LOG)?)?, records(&object_store(&transaction, SEGMENTS)?)?);
    // Awaited together, because the transaction ends right after its last answer.
    let (records, done) = join(records, done).await;
    let (log, sstables) = records?;
    done?;
    let numbers = |records: &[(u64, Bytes)]| records.iter().map(|(number, _)| *number).collect();
    let pending_claim = (!claim).then(|| PendingClaim { epoch: before, content_format, log: numbers(&log), sstables: numbers(&sstables) });
    let prefetch_list = prefetch_list.dyn_into::<Uint8Array>().map_or(Bytes::new(), |prefetch_list| prefetch_list.to_vec().into());
    let loaded = Loaded { epoch: before as u64 + 1, full: !claim, log, sstables, prefetch_list };
    Ok(Some(OpenedDatabase { loaded, blobs, chunk_bytes: chunk_bytes.as_f64(), pending_claim }))
}

/// Takes the right to write for an opening that could only read.
///
/// What it has read must still be all there is. It is enough to compare the numbers: a log record
/// is never replaced under its number while the sstables stay the same.
pub(super) async fn claim(database: &IdbDatabase, pending_claim: &PendingClaim) -> Result<(), StoreError> {
    let transaction = write_transaction(database, &CLAIM_STORES)?;
    let done = transaction_done(&transaction);
    let meta = object_store(&transaction, META)?;
    let keys = |store| all_keys(&object_store(&transaction, store)?);
    let (epoch, log, sstables) = try_join3(get(&meta, &EPOCH.into())?, keys(LOG)?, keys(SEGMENTS)?).await?;
    if epoch.as_f64().unwrap_or(0.0) != pending_claim.epoch || log != pending_claim.log || sstables != pending_claim.sstables {
        done.await?;
        return Err(StoreError::Fenced);
    }
    put_claim(&transaction, pending_claim.epoch + 1.0, pending_claim.content_format)?;
    database::commit(&transaction);
    done.await
}

fn put_claim(transaction: &IdbTransaction, epoch: f64, content_format: u32) -> Result<(), StoreError> {
    let meta = object_store(transaction, META)?;
    put(&meta, &EPOCH.into(), &epoch.into())?;
    put(&meta, &CONTENT_FORMAT.into(), &content_format.into())?;
    put(&object_store(transaction, CHUNKS)?, &EPOCH.into(), &epoch.into())
}

fn object_store(transaction: &IdbTransaction, name: &str) -> Result<IdbObjectStore, StoreError> {
    transaction.object_store(name).map_err(|error| store_error(&error))
}

fn all_keys(store: &IdbObjectStore) -> Result<impl Future<Output = Result<Vec<u64>, StoreError>> + use<>, StoreError> {
    let keys = request_result(&store.get_all_keys().map_err(|error| store_error(&error))?);
    Ok(async { Ok(keys.await?.unchecked_into::<Array>().into_iter().map(|key| key.as_f64().unwrap_or(0.0) as u64).collect()) })
}

/// Every record of an object store, in order.
fn records(store: &IdbObjectStore) -> Result<impl Future<Output = Result<Vec<(u64, Bytes)>, StoreError>> + use<>, StoreError> {
    let keys = all_keys(store)?;
    let values = request_result(&store.get_all().map_err(|error| store_error(&error))?);
    Ok(async {
        let (keys, values) = try_join(keys, values).await?;
        let values = values.unchecked_into::<Array>();
        // Acknowledged records would be lost in silence if the shorter one counted.
        if keys.len() != values.length() as usize {
            let message = format!("the browser gave {} keys and {} values of one object store", keys.len(), values.length());
            return Err(StoreError::Platform(message));
        }
        let bytes = |value: JsValue| Bytes::from(value.unchecked_into::<Uint8Array>().to_vec());
        Ok(keys.into_iter().zip(values.into_iter().map(bytes)).collect())
    })
}
