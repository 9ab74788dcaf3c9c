//! The first reads after an opening mostly want what they wanted after the last one, and fetched one after another it is much of what a cold start waits
//! for. So it is noted, and the next opening fetches all of it at once. The note is a hint: what of it is outdated is passed over.

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

/// So many pieces are noted at most, and so many bytes.
const MOST: (usize, u32) = (64, 1 << 20);

/// A part of an sstable's Blob.
type Piece = (u64, Range<u32>);

#[derive(Debug, Default)]
pub(super) struct WarmUp {
    /// The first reads go on.
    noting: bool,
    noted: Vec<Piece>,
    bytes: u32,
    /// The note that is stored.
    stored: Bytes,
    /// What was asked for because the last opening wanted it.
    coming: HashMap<Piece, oneshot::Receiver<Result<Bytes, StoreError>>>,
}

impl<B: Backend> Core<B> {
    /// Fetches what the last opening wanted first.
    pub(super) fn warm_up(self: &Rc<Self>, stored: Bytes) {
        let wanted = decode(stored.clone()).unwrap_or_default();
        let (mut coming, mut asked) = (HashMap::new(), Vec::new());
        for (id, part) in wanted.into_iter().filter(|piece| self.state.borrow().has(piece)) {
            let (tell, told) = oneshot::channel();
            coming.insert((id, part.clone()), told);
            asked.push((id, part, tell));
        }
        *self.warm_up.borrow_mut() = WarmUp { noting: true, stored, coming, ..WarmUp::default() };
        if asked.is_empty() {
            return;
        }
        let core = self.clone();
        self.backend.spawn(Box::pin(async move {
            let blobs: BTreeSet<u64> = asked.iter().map(|(id, ..)| *id).collect();
            core.backend.get_ready(blobs.into_iter().collect()).await;
            let fetch = async |(id, part, tell): (u64, Range<u32>, oneshot::Sender<_>)| drop(tell.send(core.backend.read_blob(id, part).await));
            join_all(asked.into_iter().map(fetch)).await;
        }));
    }

    /// A part of an sstable's Blob.
    pub(super) async fn read_piece(&self, id: u64, part: Range<u32>) -> Result<Bytes, StoreError> {
        let coming = self.warm_up.borrow_mut().take(id, &part);
        if let Some(coming) = coming
            && let Ok(Ok(bytes)) = coming.await
        {
            return Ok(bytes);
        }
        self.backend.read_blob(id, part).await
    }

    /// Stores what was read first, if that is not what is stored.
    pub(super) async fn note_first_reads(&self) {
        let WarmUp { noted, stored, .. } = std::mem::take(&mut *self.warm_up.borrow_mut());
        let note = encode(&noted);
        if note == stored || self.stopped() || self.state.borrow().space.full {
            return;
        }
        let _writing = self.writing.lock().await;
        if let Err(error) = self.backend.write(Transaction { put_note: Some(note), ..Transaction::default() }).await
            && !self.stopped()
        {
            tracing::warn!(%error, "what was read first could not be noted");
        }
    }
}

impl WarmUp {
    fn take(&mut self, id: u64, part: &Range<u32>) -> Option<oneshot::Receiver<Result<Bytes, StoreError>>> {
        let piece = (id, part.clone());
        let bytes = self.bytes.saturating_add(part.end.saturating_sub(part.start));
        if self.noting && self.noted.len() < MOST.0 && bytes <= MOST.1 && !self.noted.contains(&piece) {
            self.noted.push(piece.clone());
            self.bytes = bytes;
        }
        self.coming.remove(&piece)
    }
}

impl State {
    fn has(&self, (id, part): &Piece) -> bool {
        self.levels.all().any(|sstable| sstable.id == *id && part.start < part.end && part.end <= sstable.length)
    }
}

fn encode(pieces: &[Piece]) -> Bytes {
    let mut out = Vec::new();
    for (id, part) in pieces {
        for number in [*id, part.start.into(), part.end.into()] {
            put_number(&mut out, number);
        }
    }
    out.into()
}

fn decode(mut from: Bytes) -> Result<Vec<Piece>, Damaged> {
    let mut pieces = Vec::new();
    let small = |number: u64| u32::try_from(number).map_err(|_| Damaged("a Blob of more than 4 GiB"));
    while !from.is_empty() && pieces.len() < MOST.0 {
        pieces.push((get_number(&mut from)?, small(get_number(&mut from)?)?..small(get_number(&mut from)?)?));
    }
    Ok(pieces)
}
