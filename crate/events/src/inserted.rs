//! Ordered maps and sets that are made item by item.
//!
//! `collect` sorts all items first. The code of a sort is some 5 KiB for each type of item, and a
//! browser downloads it: it was a twelfth of the server's module.

/// What [`Iterator::collect`] is for, where a `BTreeMap` or a `BTreeSet` is made.
pub trait Inserted: Iterator + Sized {
    /// Inserts all items into a new collection: of equal keys the last one stays.
    fn inserted<C: Default + Extend<Self::Item>>(self) -> C {
        let mut collection = C::default();
        collection.extend(self);
        collection
    }
}

impl<I: Iterator> Inserted for I {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn what_is_inserted_is_what_is_collected() {
        let items = [(2, 'a'), (1, 'b'), (2, 'c')];
        assert_eq!(items.into_iter().inserted::<BTreeMap<_, _>>(), items.into_iter().collect::<BTreeMap<_, _>>());
        assert_eq!(items.into_iter().inserted::<BTreeSet<_>>(), BTreeSet::from(items));
    }
}
