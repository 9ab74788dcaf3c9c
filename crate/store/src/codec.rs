//! How batches are written into a log: one after the other, each as the number of its operations
//! and the operations.
//!
//! Numbers are LEB128. Byte strings carry their length. Nothing that is read back is trusted:
//! every length is checked against what is left.

use crate::{Batch, Bytes, Op};
use bytes::Buf;

const PUT: u8 = 0;
const DELETE: u8 = 1;
const DELETE_RANGE: u8 = 2;

/// Stored bytes that this version cannot have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored data is damaged: {0}")]
pub(crate) struct Damaged(pub(crate) &'static str);

impl From<Damaged> for crate::StoreError {
    fn from(damaged: Damaged) -> Self {
        Self::Platform(damaged.to_string())
    }
}

pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn get_number(from: &mut impl Buf) -> Result<u64, Damaged> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        if !from.has_remaining() {
            return Err(Damaged("a number ends early"));
        }
        let byte = from.get_u8();
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Damaged("a number is too long"))
}

pub(crate) fn get_length(from: &mut impl Buf) -> Result<usize, Damaged> {
    let length = get_number(from)?;
    usize::try_from(length).ok().filter(|length| *length <= from.remaining()).ok_or(Damaged("a length passes the end"))
}

pub(crate) fn get_bytes(from: &mut Bytes) -> Result<Bytes, Damaged> {
    let length = get_length(from)?;
    Ok(from.split_to(length))
}

/// Appends `batch` to `out`.
pub(crate) fn encode_batch(out: &mut Vec<u8>, batch: &Batch) {
    put_number(out, batch.ops().len() as u64);
    for op in batch.ops() {
        match op {
            Op::Put(key, value) => {
                out.push(PUT);
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Op::Delete(key) => {
                out.push(DELETE);
                put_bytes(out, key);
            }
            Op::DeleteRange(range) => {
                out.push(DELETE_RANGE);
                put_bytes(out, &range.start);
                put_bytes(out, &range.end);
            }
        }
    }
}

/// Every batch of a log. Their bytes are slices of `log`.
pub(crate) fn decode_batches(mut log: Bytes) -> Result<Vec<Batch>, Damaged> {
    let mut batches = Vec::new();
    while log.has_remaining() {
        let mut batch = Batch::new();
        for _ in 0..get_number(&mut log)? {
            if !log.has_remaining() {
                return Err(Damaged("a batch ends early"));
            }
            match log.get_u8() {
                PUT => {
                    let key = get_bytes(&mut log)?;
                    batch.put(key, get_bytes(&mut log)?);
                }
                DELETE => batch.delete(get_bytes(&mut log)?),
                DELETE_RANGE => {
                    let start = get_bytes(&mut log)?;
                    batch.push(Op::DeleteRange(start..get_bytes(&mut log)?));
                }
                _ => return Err(Damaged("an unknown operation")),
            }
        }
        batches.push(batch);
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch() -> impl Strategy<Value = Batch> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200);
        prop::collection::vec((0..3u8, bytes(), bytes()), 0..20).prop_map(|ops| {
            let mut batch = Batch::new();
            for (kind, a, b) in ops {
                match kind {
                    0 => batch.put(a, b),
                    1 => batch.delete(a),
                    _ => batch.delete_range(a..b),
                }
            }
            batch
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(batches in prop::collection::vec(batch(), 0..5)) {
            let mut log = Vec::new();
            batches.iter().for_each(|batch| encode_batch(&mut log, batch));
            prop_assert_eq!(decode_batches(log.into()).expect("what was encoded"), batches);
        }

        #[test]
        fn any_bytes_decode_or_fail_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_batches(bytes.into());
        }
    }
}
