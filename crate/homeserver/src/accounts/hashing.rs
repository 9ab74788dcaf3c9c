//! What passwords that are hashed at the same time take together: places, and argon2's memory,
//! which goes back to the system when nothing is hashed.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use async_lock::{Semaphore, SemaphoreGuardArc};
use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Passwords that may be hashed or compared at a time. Each takes a thread some 15 ms, and its
/// request waits as long as all before it take.
const MOST: usize = 64;

/// Bytes that are asked for at a time. Allocators keep what is given back to them, in an arena for
/// each thread, unless it is very large: glibc returns every allocation of more than 32 MiB to the
/// system at once. Pages that were never touched take no memory. Memory of wasm cannot be returned.
const ALLOCATION_BYTES: Option<usize> = if cfg!(target_arch = "wasm32") { None } else { Some(33 << 20) };

/// Who may hash, and in what.
pub struct Hashing {
    places: Arc<Semaphore>,
    memory: RefCell<Weak<Memory>>,
}

/// Blocks that no round uses right now: as many as there were rounds at once. They go with the last
/// password under way.
#[derive(Default)]
struct Memory(Mutex<Vec<Vec<Block>>>);

/// A password under way.
pub struct Place {
    _permit: SemaphoreGuardArc,
    memory: Arc<Memory>,
}

impl Default for Hashing {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), memory: RefCell::default() }
    }
}

impl Hashing {
    /// A place for one more password; none when there are too many.
    pub fn place(&self) -> Option<Place> {
        let permit = self.places.try_acquire_arc()?;
        let mut shared = self.memory.borrow_mut();
        let memory = shared.upgrade().unwrap_or_default();
        *shared = Arc::downgrade(&memory);
        Some(Place { _permit: permit, memory })
    }
}

impl Place {
    /// One run of argon2id over `secret`; nothing when it cannot be done.
    pub fn round(&self, params: &Params, secret: &[u8], salt: &[u8]) -> Option<Vec<u8>> {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        let mut blocks = self.memory.take(params.block_count())?;
        let mut output = vec![0; Params::DEFAULT_OUTPUT_LEN];
        let hashed = argon2.hash_password_into_with_memory(secret, salt, &mut output, &mut blocks);
        self.memory.give_back(blocks);
        hashed.ok().map(|()| output)
    }
}

impl Memory {
    fn take(&self, count: usize) -> Option<Vec<Block>> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut blocks = free.unwrap_or_default();
        let capacity = ALLOCATION_BYTES.map_or(count, |bytes| count.max(bytes / Block::SIZE));
        blocks.try_reserve_exact(capacity.saturating_sub(blocks.len())).ok()?;
        blocks.resize(count, Block::new());
        Some(blocks)
    }

    fn give_back(&self, blocks: Vec<Block>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(memory: &Weak<Memory>) -> Option<usize> {
        Some(memory.upgrade()?.0.lock().expect("nobody panicked").len())
    }

    #[test]
    fn rounds_reuse_their_memory_and_it_goes_with_the_last_password() {
        let hashing = Hashing::default();
        let params = Params::new(64, 1, 1, None).expect("within argon2's bounds");
        let places = [hashing.place().expect("free"), hashing.place().expect("free")];
        let memory = hashing.memory.borrow().clone();
        let once = places[0].round(&params, b"a password", b"some salt");
        assert!(once.is_some());
        assert_eq!(places[1].round(&params, b"a password", b"some salt"), once, "what others left there makes no difference");
        assert_eq!(free(&memory), Some(1));
        let [first, last] = places;
        drop(first);
        assert_eq!(free(&memory), Some(1));
        drop(last);
        assert_eq!(free(&memory), None);
    }

    #[test]
    fn password_hashes_under_way_are_bounded() {
        let hashing = Hashing::default();
        let all: Vec<_> = std::iter::from_fn(|| hashing.place()).take(MOST + 1).collect();
        assert_eq!(all.len(), MOST);
        drop(all);
        assert!(hashing.place().is_some());
    }
}
