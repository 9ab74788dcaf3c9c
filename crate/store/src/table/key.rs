//! Order-preserving key encoding: tuples of parts sort as their bytes do.

use std::fmt::Debug;

/// A value that can be a key, or a part of one. Keys sort as their values do.
///
/// Tuples have their parts one after the other: whoever knows the first parts finds all entries
/// that have them ([`Table::range`](super::Table::range)).
pub trait KeyPart: Sized + Debug {
    /// Appends the encoding.
    fn encode(&self, out: &mut Vec<u8>);
    /// Takes one encoded value off the front of `bytes`; `None` when it is none.
    fn decode(bytes: &mut &[u8]) -> Option<Self>;
}

impl KeyPart for () {
    fn encode(&self, _: &mut Vec<u8>) {}
    fn decode(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl KeyPart for u8 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        Some(*first)
    }
}

impl KeyPart for u32 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.to_be_bytes());
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(Self::from_be_bytes(*first))
    }
}

impl KeyPart for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.to_be_bytes());
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(Self::from_be_bytes(*first))
    }
}

impl<const N: usize> KeyPart for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*first)
    }
}

/// The sign bit is flipped, so that negative numbers sort before positive ones.
impl KeyPart for i64 {
    fn encode(&self, out: &mut Vec<u8>) {
        (*self as u64 ^ (1 << 63)).encode(out);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        u64::decode(bytes).map(|flipped| (flipped ^ (1 << 63)) as Self)
    }
}

/// Ended by `00 01`; a zero inside becomes `00 ff`.
impl KeyPart for String {
    fn encode(&self, out: &mut Vec<u8>) {
        for byte in self.bytes() {
            out.push(byte);
            if byte == 0 {
                out.push(0xff);
            }
        }
        out.extend([0, 1]);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut text = Vec::new();
        loop {
            let end = bytes.iter().position(|byte| *byte == 0)?;
            text.extend(&bytes[..end]);
            *bytes = &bytes[end + 1..];
            let (mark, rest) = bytes.split_first()?;
            *bytes = rest;
            match mark {
                0xff => text.push(0),
                1 => return String::from_utf8(text).ok(),
                _ => return None,
            }
        }
    }
}

macro_rules! tuple {
    ($($name:ident),+) => {
        impl<$($name: KeyPart),+> KeyPart for ($($name,)+) {
            #[allow(non_snake_case)]
            fn encode(&self, out: &mut Vec<u8>) {
                let ($($name,)+) = self;
                $($name.encode(out);)+
            }
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($name::decode(bytes)?,)+))
            }
        }
    };
}
tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);
tuple!(A, B, C, D, E);

/// Ruma's identifiers are keyed as their strings.
#[cfg(feature = "ruma")]
macro_rules! identifier {
    ($($name:ty),+ $(,)?) => {$(
        impl KeyPart for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.as_str().to_owned().encode(out);
            }
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                String::decode(bytes)?.try_into().ok()
            }
        }
    )+};
}
#[cfg(feature = "ruma")]
identifier!(ruma::OwnedUserId, ruma::OwnedRoomId, ruma::OwnedEventId, ruma::OwnedRoomAliasId, ruma::OwnedServerName);

#[cfg(feature = "ruma")]
impl KeyPart for ruma::OwnedDeviceId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().to_owned().encode(out);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        String::decode(bytes).map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(key: &impl KeyPart) -> Vec<u8> {
        let mut out = Vec::new();
        key.encode(&mut out);
        out
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_values_and_come_back(a in any::<(String, i64, u32)>(), b in any::<(String, i64, u32)>()) {
            prop_assert_eq!(a.cmp(&b), bytes(&a).cmp(&bytes(&b)));
            prop_assert_eq!(<(String, i64, u32)>::decode(&mut bytes(&a).as_slice()), Some(a));
        }
    }
}
