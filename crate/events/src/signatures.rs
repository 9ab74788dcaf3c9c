//! Ed25519 signatures of many events, with a third of the work where many are by the same key.
//!
//! A signature `(R, s)` of a message is good if `[s]B - [k]A` is written as the bytes `R`, where
//! `k` is the hash of `R`, the key and the message (RFC 8032, 5.1.7, without the cofactor). That is
//! what ed25519-dalek computes for each by 253 doublings. Multiples of `B` and of keys that are
//! often seen are kept here instead, so that a product is a sum of some forty of them.
//!
//! The sums are the same points, whatever the key and the signature are: points of small order and
//! keys that nobody should have included. So both say the same of each signature. What is usually
//! called batch verification, a random combination of all, does not: where `R` or the key has a
//! part of small order it takes what others refuse, and servers that differ in one event split a
//! room.

use curve25519_dalek::{EdwardsPoint, Scalar, constants::ED25519_BASEPOINT_POINT, edwards::CompressedEdwardsY, traits::Identity};
use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use sha2::{Digest, Sha512};
use std::collections::HashMap;

/// Bits of a digit: more of them are fewer sums, and more multiples to keep.
const WIDTH: usize = 6;
/// Digits of a number below the order of the group, which is one of 253 bits; with one bit for what
/// is carried.
const DIGITS: usize = 254_usize.div_ceil(WIDTH);
/// The multiples for one digit.
const MULTIPLES: usize = 1 << (WIDTH - 1);

/// So often a key is seen before its multiples are computed, which takes as long as some six
/// signatures do.
const OFTEN: usize = 12;
/// Keys of which multiples are kept, each 220 KB.
const MOST_PREPARED: usize = 8;
/// Keys that are counted.
const MOST_COUNTED: usize = 1024;

/// One signature that is to be verified.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The public key.
    pub key: &'a [u8],
    /// What it signed.
    pub message: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

/// Verifies signatures, and remembers what it has computed of the keys that it sees most.
#[derive(Default)]
pub struct Verifier {
    base: Option<Multiples>,
    prepared: HashMap<[u8; 32], Prepared>,
    /// How often keys were seen lately.
    seen: HashMap<[u8; 32], usize>,
    /// What tells which of the keys was seen last.
    clock: u64,
}

struct Prepared {
    /// Of the key, negated.
    multiples: Multiples,
    used: u64,
}

/// The multiples of a point that its products are sums of.
struct Multiples(Vec<EdwardsPoint>);

impl Multiples {
    fn of(point: EdwardsPoint) -> Self {
        let mut multiples = Vec::with_capacity(DIGITS * MULTIPLES);
        let mut one = point;
        for _ in 0..DIGITS {
            let mut multiple = one;
            for _ in 1..MULTIPLES {
                multiples.push(multiple);
                multiple += one;
            }
            multiples.push(multiple);
            one = multiple + multiple;
        }
        Self(multiples)
    }

    /// Adds the product with a number.
    fn add(&self, sum: &mut EdwardsPoint, number: &Scalar) {
        for (multiples, digit) in self.0.chunks_exact(MULTIPLES).zip(digits(number)) {
            match digit {
                0 => {}
                1.. => *sum += multiples[digit.unsigned_abs() as usize - 1],
                _ => *sum -= multiples[digit.unsigned_abs() as usize - 1],
            }
        }
    }
}

/// A number as digits from `-MULTIPLES` to `MULTIPLES`, the least first.
fn digits(number: &Scalar) -> [i16; DIGITS] {
    let bytes = number.as_bytes();
    let mut digits = [0; DIGITS];
    let mut carry = 0;
    for (place, digit) in digits.iter_mut().enumerate() {
        let bit = place * WIDTH;
        let low = u16::from(bytes[bit / 8]);
        let high = bytes.get(bit / 8 + 1).copied().map_or(0, u16::from);
        let value = ((low | high << 8) >> (bit % 8)) as i16 & ((1 << WIDTH) - 1);
        *digit = value + carry;
        carry = i16::from(*digit > MULTIPLES as i16);
        *digit -= carry << WIDTH;
    }
    digits
}

impl Verifier {
    /// Whether each signature is good, in their order.
    pub fn verify(&mut self, signed: &[Signed<'_>]) -> Vec<bool> {
        let mut good = vec![false; signed.len()];
        let (mut computed, mut places) = (Vec::new(), Vec::new());
        for (place, signed) in signed.iter().enumerate() {
            let (Ok(key), Ok(signature)) = (signed.key.try_into(), signed.signature.try_into()) else { continue };
            match self.multiples_of(key) {
                Some((base, key_multiples)) => {
                    if let Some(sum) = expected(base, key_multiples, key, signed.message, signature) {
                        computed.push(sum);
                        places.push((place, *signature.first_chunk::<32>().expect("it has 64")));
                    }
                }
                None => good[place] = is_good(key, signed.message, signature),
            }
        }
        for (compressed, (place, r)) in EdwardsPoint::compress_batch_alloc(&computed).iter().zip(places) {
            good[place] = compressed.as_bytes() == &r;
        }
        good
    }

    /// Those of the base point and of a key that is seen often.
    fn multiples_of(&mut self, key: &[u8; 32]) -> Option<(&Multiples, &Multiples)> {
        self.clock += 1;
        if !self.prepared.contains_key(key) {
            self.prepare(key)?;
        }
        let prepared = self.prepared.get_mut(key)?;
        prepared.used = self.clock;
        let base = self.base.get_or_insert_with(|| Multiples::of(ED25519_BASEPOINT_POINT));
        Some((base, &prepared.multiples))
    }

    /// Computes the multiples of a key, once it was seen often.
    fn prepare(&mut self, key: &[u8; 32]) -> Option<()> {
        if self.seen.len() >= MOST_COUNTED && !self.seen.contains_key(key) {
            self.seen.clear();
        }
        let seen = self.seen.entry(*key).or_default();
        *seen += 1;
        if *seen < OFTEN {
            return None;
        }
        let point = CompressedEdwardsY(*key).decompress()?;
        self.seen.remove(key);
        if self.prepared.len() >= MOST_PREPARED {
            let oldest = self.prepared.iter().min_by_key(|(_, prepared)| prepared.used).map(|(key, _)| *key);
            oldest.map(|oldest| self.prepared.remove(&oldest));
        }
        self.prepared.insert(*key, Prepared { multiples: Multiples::of(-point), used: self.clock });
        Some(())
    }
}

/// What the first half of a good signature is written from; none where the second half is no number
/// below the order of the group.
fn expected(base: &Multiples, key_multiples: &Multiples, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Option<EdwardsPoint> {
    let s = Scalar::from_canonical_bytes(*signature.last_chunk().expect("it has 64")).into_option()?;
    let hash = Sha512::new().chain_update(&signature[..32]).chain_update(key).chain_update(message).finalize();
    let k = Scalar::from_bytes_mod_order_wide(&hash.into());
    let mut sum = EdwardsPoint::identity();
    base.add(&mut sum, &s);
    key_multiples.add(&mut sum, &k);
    Some(sum)
}

/// One signature by itself.
fn is_good(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify(message, &Signature::from_bytes(signature)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use curve25519_dalek::constants::EIGHT_TORSION;
    use ed25519_dalek::{Signer, SigningKey};

    /// The scalar of a key, and the key with a point of small order added.
    fn odd_key(torsion: EdwardsPoint) -> (Scalar, [u8; 32]) {
        let secret = Scalar::from_bytes_mod_order([7; 32]);
        (secret, (EdwardsPoint::mul_base(&secret) + torsion).compress().to_bytes())
    }

    /// What such a key signs, with a point of small order in the first half too.
    fn odd_signature(secret: &Scalar, key: &[u8; 32], message: &[u8], torsion: EdwardsPoint) -> [u8; 64] {
        let nonce = Scalar::from_bytes_mod_order_wide(&Sha512::digest(message).into());
        let r = (EdwardsPoint::mul_base(&nonce) + torsion).compress().to_bytes();
        let hash = Sha512::new().chain_update(r).chain_update(key).chain_update(message).finalize();
        let s = nonce + Scalar::from_bytes_mod_order_wide(&hash.into()) * secret;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&r);
        signature[32..].copy_from_slice(s.as_bytes());
        signature
    }

    /// The order of the group, as a number that is not below it.
    fn order() -> [u8; 32] {
        let mut bytes = (-Scalar::ONE).to_bytes();
        bytes[0] += 1;
        bytes
    }

    /// Encodings of points of small order that are not the shortest, among others.
    fn odd_encodings() -> Vec<[u8; 32]> {
        let mut encodings = Vec::new();
        for low in [0xed_u8, 0xee, 0xec, 0xff, 0, 1] {
            for (middle, high) in [(0xff, 0x7f), (0xff, 0xff), (0, 0), (0, 0x80)] {
                let mut bytes = [middle; 32];
                (bytes[0], bytes[31]) = (low, high);
                encodings.push(bytes);
            }
        }
        encodings.extend(EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()));
        encodings
    }

    /// Whether both ways say the same of each of some signatures; how many are good.
    fn compare(key: &[u8; 32], signed: &[(Vec<u8>, [u8; 64])]) -> usize {
        let signed: Vec<Signed<'_>> = signed.iter().map(|(message, signature)| Signed { key, message, signature }).collect();
        let expected: Vec<bool> = signed.iter().map(|signed| is_good(key, signed.message, signed.signature.try_into().expect("64 bytes"))).collect();
        let mut verifier = Verifier::default();
        for _ in 0..2 {
            assert_eq!(verifier.verify(&signed), expected, "{key:?}");
        }
        let is_point = CompressedEdwardsY(*key).decompress().is_some();
        assert_eq!(verifier.prepared.contains_key(key), is_point && 2 * signed.len() >= OFTEN, "{key:?}");
        expected.into_iter().filter(|is_good| *is_good).count()
    }

    #[test]
    fn what_a_server_signs_is_good_and_nothing_else() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let mut signed: Vec<(Vec<u8>, [u8; 64])> = (0..40_u8).map(|n| (vec![n; n.into()], key.sign(&vec![n; n.into()]).to_bytes())).collect();
        let bits = |n: usize| (n * 13 % 64, 1_u8 << (n % 8));
        for (n, (_, signature)) in signed.iter_mut().enumerate().filter(|(n, _)| n % 2 == 0) {
            signature[bits(n).0] ^= bits(n).1;
        }
        assert_eq!(compare(&key.verifying_key().to_bytes(), &signed), 20);
    }

    /// With such a part a random combination of all sometimes says that what is not good is.
    #[test]
    fn points_of_small_order_are_judged_as_one_by_one() {
        let (mut good, mut all) = (0, 0);
        for of_key in EIGHT_TORSION {
            let (secret, key) = odd_key(of_key);
            let messages = (0..4_u8).flat_map(|n| EIGHT_TORSION.map(|of_r| (vec![n], odd_signature(&secret, &key, &[n], of_r))));
            let signed: Vec<_> = messages.collect();
            all += signed.len();
            good += compare(&key, &signed);
        }
        assert!(good > 10 && good < all / 2, "{good} of {all}");
    }

    #[test]
    fn numbers_and_points_that_nobody_would_write_are_judged_as_one_by_one() {
        let mut good = 0;
        let keys = odd_encodings().into_iter().chain([odd_key(EIGHT_TORSION[0]).1, odd_key(EIGHT_TORSION[1]).1]);
        for key in keys {
            let mut signed = Vec::new();
            for r in odd_encodings() {
                for s in [[0; 32], order(), (-Scalar::ONE).to_bytes(), Scalar::ONE.to_bytes(), [0xff; 32], [0x10; 32]] {
                    let mut signature = [0; 64];
                    signature[..32].copy_from_slice(&r);
                    signature[32..].copy_from_slice(&s);
                    signed.push((vec![signed.len() as u8], signature));
                }
            }
            good += compare(&key, &signed);
        }
        // Keys of small order have such signatures.
        assert!(good > 10, "{good}");
    }

    #[test]
    fn few_keys_are_kept() {
        let mut verifier = Verifier::default();
        let keys: Vec<SigningKey> = (0..20).map(|n| SigningKey::from_bytes(&[n; 32])).collect();
        for key in &keys {
            let (public, signature) = (key.verifying_key().to_bytes(), key.sign(b"hello").to_bytes());
            let signed = [Signed { key: &public, message: b"hello", signature: &signature }; OFTEN];
            assert_eq!(verifier.verify(&signed), [true; OFTEN]);
            assert!(verifier.prepared.contains_key(&public) && verifier.prepared.len() <= MOST_PREPARED);
        }
        for number in 0..2 * MOST_COUNTED as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            verifier.verify(&[Signed { key: &key, message: b"", signature: &[0; 64] }]);
        }
        assert!(verifier.seen.len() <= MOST_COUNTED);
    }

    #[test]
    fn keys_and_signatures_of_other_lengths_are_not_good() {
        let signed = |key, signature| Signed { key, message: b"", signature };
        let long = [0; 65];
        assert_eq!(Verifier::default().verify(&[signed(&long[..31], &long[..64]), signed(&long[..32], &long), signed(&[], &[])]), [false; 3]);
    }
}
