//! Order-preserving key encoding: tuples of parts sort as their bytes do.

use crate::position::Position;
use std::fmt::Debug;

/// A value that can be (part of) a key.
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

/// The sign bit is flipped, so that negative positions sort before positive ones.
impl KeyPart for Position {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.0 as u64 ^ (1 << 63)).encode(out);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        u64::decode(bytes).map(|flipped| Self((flipped ^ (1 << 63)) as i64))
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
identifier!(ruma::OwnedUserId, ruma::OwnedRoomId, ruma::OwnedEventId, ruma::OwnedRoomAliasId, ruma::OwnedServerName);

impl KeyPart for ruma::OwnedDeviceId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().to_owned().encode(out);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        String::decode(bytes).map(Into::into)
    }
}

/// No thread is named by an empty string.
impl KeyPart for super::ReceiptKind {
    fn encode(&self, out: &mut Vec<u8>) {
        u8::from(self.private).encode(out);
        self.thread.clone().unwrap_or_default().encode(out);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (private, thread) = <(u8, String)>::decode(bytes)?;
        Some(Self { private: private != 0, thread: Some(thread).filter(|thread| !thread.is_empty()) })
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
            let a = (a.0, Position(a.1), a.2);
            let b = (b.0, Position(b.1), b.2);
            prop_assert_eq!(a.cmp(&b), bytes(&a).cmp(&bytes(&b)));
            prop_assert_eq!(<(String, Position, u32)>::decode(&mut bytes(&a).as_slice()), Some(a));
        }
    }
}
