//! User ids and their numbers, and what is true of few users.

use crate::{
    damaged::Damaged,
    homeserver::Homeserver,
    rows::{ReadSince, Rows},
    tables::{self, UserNid},
    transaction::Tx,
    user_flag::UserFlag,
};
use ephapse_store::{Reader, StoreError};
use ruma::{OwnedUserId, UserId};
use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
};

/// Numbers lately used, both ways.
pub struct Users {
    by_id: Rows<OwnedUserId, UserNid>,
    by_nid: Rows<UserNid, OwnedUserId>,
    newest: Cell<UserNid>,
    /// Those whose events are erased.
    pub(crate) erased: UserFlag,
    /// Those who are guests.
    pub(crate) guests: UserFlag,
}

/// Bytes of ids by number, and of numbers by id.
const CACHED_BYTES: usize = 1 << 20;

impl Users {
    pub(crate) fn new(newest: UserNid, reader: &Reader) -> Self {
        Self {
            by_id: Rows::new(reader, CACHED_BYTES),
            by_nid: Rows::new(reader, CACHED_BYTES),
            newest: Cell::new(newest),
            erased: UserFlag::of(tables::ERASED, reader),
            guests: UserFlag::of(tables::GUESTS, reader),
        }
    }

    /// The newest number that is stored.
    pub(crate) async fn newest_stored(store: &Reader) -> Result<UserNid, StoreError> {
        Ok(tables::USERS.last_key(store, &()).await?.unwrap_or(0))
    }

    /// Forgets everything; new numbers go on after those given.
    pub(crate) fn forget_all(&self) {
        self.by_id.clear();
        self.by_nid.clear();
        self.erased.clear();
        self.guests.clear();
    }

    /// A number for a new user, to be written with this transaction; none is given twice.
    fn next(&self, _: &mut Tx) -> UserNid {
        self.newest.set(self.newest.get() + 1);
        self.newest.get()
    }

    /// For [`Self::found`].
    pub(crate) fn read_since(&self) -> (ReadSince, ReadSince) {
        (self.by_id.read_since(), self.by_nid.read_since())
    }

    /// A user and their number were read, as a session says them too.
    pub(crate) fn found(&self, (by_id, by_nid): (ReadSince, ReadSince), id: &UserId, nid: UserNid) {
        if self.by_nid.get(&nid).is_none() || self.by_id.get(id).is_none() {
            let weight = id.as_str().len();
            self.by_id.found(by_id, id.to_owned(), nid, weight);
            self.by_nid.found(by_nid, nid, id.to_owned(), weight);
        }
    }

    fn set(&self, id: &UserId, nid: UserNid) {
        let weight = id.as_str().len();
        self.by_id.set(id.to_owned(), nid, weight);
        self.by_nid.set(nid, id.to_owned(), weight);
    }

    /// Bytes that all of it takes in memory, roughly.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.by_id.bytes() + self.by_nid.bytes() + self.erased.cached_bytes() + self.guests.cached_bytes()
    }
}

impl Homeserver {
    /// The number of a user this server has heard of.
    pub async fn find_user(&self, id: &UserId) -> Result<Option<UserNid>, StoreError> {
        if let Some(nid) = self.users.by_id.get(id) {
            return Ok(Some(nid));
        }
        let since = self.users.read_since();
        let found = tables::USER_NIDS.get(self.store(), &id.to_owned()).await?;
        if let Some(nid) = found {
            self.users.found(since, id, nid);
        }
        Ok(found)
    }

    /// The number of a user who has an account here, or had one: a deactivated one stays.
    pub async fn find_account(&self, id: &UserId) -> Result<Option<UserNid>, StoreError> {
        let Some(nid) = self.find_user(id).await?.filter(|_| self.is_local(id)) else { return Ok(None) };
        Ok(tables::ACCOUNTS.get(self.store(), &nid).await?.map(|_| nid))
    }

    /// The number of a user, given now if the user was not known. The number is written before
    /// whatever its receiver writes with it.
    pub async fn intern_user(&self, id: &UserId) -> Result<UserNid, StoreError> {
        let ids = [id.to_owned()];
        Ok(self.intern_users(&ids).await?[id])
    }

    /// As [`Self::intern_user`], of several, with one write for all who were not known.
    pub async fn intern_users<'a>(&self, ids: &'a [OwnedUserId]) -> Result<HashMap<&'a UserId, UserNid>, StoreError> {
        loop {
            let (generation, since) = (self.store().generation(), self.users.read_since());
            let mut known: HashMap<&UserId, UserNid> = HashMap::with_capacity(ids.len());
            known.extend(ids.iter().filter_map(|id| Some((&**id, self.users.by_id.get(id)?))));
            let rest: Vec<OwnedUserId> = ids.iter().filter(|id| !known.contains_key(&***id)).cloned().collect();
            let stored = tables::USER_NIDS.get_all(self.store(), &rest).await?;
            let mut unknown = HashSet::new();
            for (id, stored) in ids.iter().filter(|id| !known.contains_key(&***id)).zip(stored).collect::<Vec<_>>() {
                match stored {
                    Some(nid) => {
                        self.users.found(since, id, nid);
                        known.insert(id, nid);
                    }
                    None => drop(unknown.insert(&**id)),
                }
            }
            if unknown.is_empty() {
                return Ok(known);
            }
            let give = |tx: &mut Tx| {
                // Somebody else may have given one while this read.
                if unknown.iter().any(|id| self.users.by_id.may_be_old(since.0, *id)) {
                    return None;
                }
                let given: Vec<(OwnedUserId, UserNid)> = unknown.iter().map(|id| ((*id).to_owned(), self.users.next(tx))).collect();
                for (id, nid) in &given {
                    tables::USER_NIDS.put(tx, id, nid);
                    tables::USERS.put(tx, nid, id);
                }
                known.extend(unknown.iter().copied().zip(given.iter().map(|(_, nid)| *nid)));
                tx.then(move |hs| given.iter().for_each(|(id, nid)| hs.users.set(id, *nid)));
                Some(known)
            };
            let numbered = self.aside(|hs| hs.write(generation, give));
            // Batches are written in order: what uses the number comes after it, and fails with it.
            if let Some(known) = numbered?.visible() {
                return Ok(known);
            }
        }
    }

    /// The id behind a number.
    pub async fn user_id(&self, nid: UserNid) -> Result<OwnedUserId, StoreError> {
        if let Some(id) = self.users.by_nid.get(&nid) {
            return Ok(id);
        }
        let since = self.users.read_since();
        let id = tables::USERS.get(self.store(), &nid).await?.ok_or_else(|| Damaged::new(format!("user number {nid}"), "it is not in the table"))?;
        self.users.found(since, &id, nid);
        Ok(id)
    }

    /// Whether a user is a guest of this server.
    pub(crate) async fn is_guest(&self, user: UserNid) -> Result<bool, StoreError> {
        self.has_flag(&self.users.guests, user).await
    }

    /// Whether a user belongs to this server.
    pub fn is_local(&self, id: &UserId) -> bool {
        id.server_name() == self.server_name()
    }
}

impl Homeserver {
    /// The number of a user lately seen.
    pub(crate) fn cached_user(&self, id: &UserId) -> Option<UserNid> {
        self.users.by_id.get(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ephapse_store::MemoryStore;
    use std::rc::Rc;

    #[test]
    fn many_users_take_no_more_than_they_may() {
        let users = Users::new(0, &Reader::new(Rc::new(MemoryStore::new())));
        for n in 0..40_000 {
            users.set(&OwnedUserId::try_from(format!("@{n}:test.example")).expect("an id"), n);
        }
        assert!((CACHED_BYTES..=2 * CACHED_BYTES).contains(&users.cached_bytes()), "{}", users.cached_bytes());
    }
}
