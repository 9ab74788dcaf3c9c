//! A Bloom filter: of absent keys it says in 99 % of all cases that they are absent.

use xxhash_rust::xxh3::xxh3_64;

const BITS_PER_KEY: usize = 10;
const PROBES: u64 = 6;

/// What is kept of a key until the filter is made.
pub(super) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The filter for these hashes.
pub(super) fn build(hashes: &[u64]) -> Vec<u8> {
    let mut filter = vec![0u8; (hashes.len() * BITS_PER_KEY).div_ceil(8).max(8)];
    let bits = filter.len() as u64 * 8;
    for bit in hashes.iter().flat_map(|hash| probes(*hash, bits)) {
        filter[(bit / 8) as usize] |= 1 << (bit % 8);
    }
    filter
}

/// Whether a key of this hash may have been among those of the filter.
pub(super) fn may_hold(filter: &[u8], hash: u64) -> bool {
    let bits = filter.len() as u64 * 8;
    bits == 0 || probes(hash, bits).all(|bit| filter[(bit / 8) as usize] & 1 << (bit % 8) != 0)
}

/// Two halves of one hash are enough for any number of probes (Kirsch and Mitzenmacher).
fn probes(hash: u64, bits: u64) -> impl Iterator<Item = u64> {
    let (first, step) = (hash & 0xffff_ffff, hash >> 32 | 1);
    (0..PROBES).map(move |probe| (first + probe * step) % bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_few_absent_ones_are() {
        let hashes: Vec<u64> = (0..10_000u32).map(|n| hash(&n.to_be_bytes())).collect();
        let filter = build(&hashes);
        assert!(hashes.iter().all(|hash| may_hold(&filter, *hash)));
        let wrong = (10_000..20_000u32).filter(|n| may_hold(&filter, hash(&n.to_be_bytes()))).count();
        assert!(wrong < 200, "{wrong} of 10,000 absent keys pass");
    }
}
