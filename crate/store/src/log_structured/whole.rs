//! A segment all of which is in memory, to be merged.

use super::{
    backend::Backend,
    page::Page,
    segment::{Index, Segment},
    state::Core,
};
use crate::{Direction, StoreError, codec::Damaged, memtable::Ranges, merge::Entry};
use std::ops::Range;

pub(super) struct Whole {
    /// What it hides of older ones.
    pub(super) hidden: Ranges,
    /// None where it has no points.
    pages: Option<(Index, Vec<Page>)>,
}

impl<B: Backend> Core<B> {
    /// Reads a segment in one piece: for the browser, a part of a Blob is a Blob of its own, which takes longer than the rest of the bytes.
    pub(super) async fn load(&self, segment: &Segment) -> Result<Whole, StoreError> {
        let hidden = segment.hidden.clone();
        if segment.points == 0 {
            return Ok(Whole { hidden, pages: None });
        }
        let bytes = self.backend.read_blob(segment.id, 0..segment.length).await?;
        if bytes.len() < segment.index_at as usize {
            return Err(Damaged("a Blob shorter than its record says").into());
        }
        let index = Index::read(bytes.slice(segment.index_at as usize..))?;
        let pages = index.cut(0..index.pages(), &bytes)?;
        Ok(Whole { hidden, pages: Some((index, pages)) })
    }
}

impl Whole {
    /// Bytes of the pages that may hold entries of `part`.
    pub(super) fn bytes(&self, part: &Range<Vec<u8>>) -> usize {
        self.pages.as_ref().map_or(0, |(index, _)| index.place(index.pages_of(part)).len())
    }

    /// The entries of `part`, in order.
    pub(super) fn entries(&self, part: Range<Vec<u8>>) -> impl Iterator<Item = Result<Entry, Damaged>> + '_ {
        let pages = self.pages.as_ref().map_or(&[][..], |(index, pages)| &pages[index.pages_of(&part)]);
        pages.iter().flat_map(move |page| page.entries(part.clone(), Direction::Forward))
    }
}
