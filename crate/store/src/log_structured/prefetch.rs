//! The first reads after an opening mostly want what those after the last one wanted. Fetching that
//! bit by bit is much of what a cold start waits for. So it is recorded, and the next opening
//! fetches all of it at once. The list is a hint: what of it is outdated is ignored.

use super::{
    backend::{Backend, Transaction},
    state::{Core, State},
};
use crate::{
    Bytes, StoreError,
    codec::{Damaged, get_number, put_number},
};
use futures_channel::oneshot;
use futures_util::future::join_all;
use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    rc::Rc,
};

/// At most so many parts are recorded, and so many bytes.
const MAX_PARTS: usize = 64;
const MAX_BYTES: u32 = 1 << 20;

/// A part of an sstable's Blob.
type Part = (u64, Range<u32>);

#[derive(Debug, Default)]
pub(super) struct Prefetch {
    /// Reads are still the first ones.
    recording: bool,
    recorded: Vec<Part>,
    bytes: u32,
    /// The list of the last opening.
    saved: Bytes,
    /// What is being fetched because the last opening wanted it.
    arriving: HashMap<Part, oneshot::Receiver<Result<Bytes, StoreError>>>,
}

impl<B: Backend> Core<B> {
    /// Fetches what the last opening read first.
    pub(super) fn prefetch(self: &Rc<Self>, saved: Bytes) {
        let wanted = decode(saved.clone()).unwrap_or_default();
        let (mut arriving, mut asked) = (HashMap::new(), Vec::new());
        for (id, part) in wanted.into_iter().filter(|entry| self.state.borrow().has(entry)) {
            let (tell, told) = oneshot::channel();
            arriving.insert((id, part.clone()), told);
            asked.push((id, part, tell));
        }
        *self.prefetch.borrow_mut() = Prefetch { recording: true, saved, arriving, ..Prefetch::default() };
        if asked.is_empty() {
            return;
        }
        let core = self.clone();
        self.backend.spawn(Box::pin(async move {
            let blobs: BTreeSet<u64> = asked.iter().map(|(id, ..)| *id).collect();
            core.backend.prepare_reads(blobs.into_iter().collect()).await;
            let fetch = async |(id, part, tell): (u64, Range<u32>, oneshot::Sender<_>)| drop(tell.send(core.backend.read_blob(id, part).await));
            join_all(asked.into_iter().map(fetch)).await;
        }));
    }

    /// A part of an sstable's Blob.
    pub(super) async fn read_part(&self, id: u64, part: Range<u32>) -> Result<Bytes, StoreError> {
        let arriving = self.prefetch.borrow_mut().take(id, &part);
        if let Some(arriving) = arriving
            && let Ok(Ok(bytes)) = arriving.await
        {
            return Ok(bytes);
        }
        self.backend.read_blob(id, part).await
    }

    /// Saves the list of what was read first, if it differs from the last one.
    pub(super) async fn save_prefetch_list(&self) {
        let Prefetch { recorded, saved, .. } = std::mem::take(&mut *self.prefetch.borrow_mut());
        let list = encode(&recorded);
        if list == saved || self.stopped() || self.state.borrow().space.full {
            return;
        }
        let _writing = self.writing.lock().await;
        if let Err(error) = self.backend.write(Transaction { put_prefetch_list: Some(list), ..Transaction::default() }).await
            && !self.stopped()
        {
            tracing::warn!(%error, "could not save the prefetch list");
        }
    }
}

impl Prefetch {
    fn take(&mut self, id: u64, part: &Range<u32>) -> Option<oneshot::Receiver<Result<Bytes, StoreError>>> {
        let entry = (id, part.clone());
        let bytes = self.bytes.saturating_add(part.end.saturating_sub(part.start));
        if self.recording && self.recorded.len() < MAX_PARTS && bytes <= MAX_BYTES && !self.recorded.contains(&entry) {
            self.recorded.push(entry.clone());
            self.bytes = bytes;
        }
        self.arriving.remove(&entry)
    }
}

impl State {
    fn has(&self, (id, part): &Part) -> bool {
        self.levels.all().any(|sstable| sstable.id == *id && part.start < part.end && part.end <= sstable.length)
    }
}

fn encode(parts: &[Part]) -> Bytes {
    let mut out = Vec::new();
    for (id, part) in parts {
        for number in [*id, part.start.into(), part.end.into()] {
            put_number(&mut out, number);
        }
    }
    out.into()
}

fn decode(mut from: Bytes) -> Result<Vec<Part>, Damaged> {
    let mut parts = Vec::new();
    let small = |number: u64| u32::try_from(number).map_err(|_| Damaged("a Blob of more than 4 GiB"));
    while !from.is_empty() && parts.len() < MAX_PARTS {
        parts.push((get_number(&mut from)?, small(get_number(&mut from)?)?..small(get_number(&mut from)?)?));
    }
    Ok(parts)
}
