//! Which bytes of a file a request is for (RFC 9110, "Range Requests"): all, or one range of them.
//! Several ranges at once are answered with all of the file, as the RFC allows.

use std::ops::Range;

/// The bytes that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    All,
    /// Some of them.
    Part(Range<u64>),
    /// Some that are not there.
    Unsatisfiable,
}

impl Wanted {
    /// What the header `Range` says of a file of `size` bytes. One that is malformed, or of another
    /// unit, counts as absent.
    pub fn of(header: &str, size: u64) -> Self {
        let Some((unit, set)) = header.split_once('=') else { return Self::All };
        let Some((first, last)) = set.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes")) else { return Self::All };
        match (position(first), position(last)) {
            (Some(Some(first)), Some(last)) if last.is_none_or(|last| first <= last) => {
                Self::within(first..last.map_or(u64::MAX, |last| last.saturating_add(1)).min(size))
            }
            (Some(None), Some(Some(length))) => Self::within(size.saturating_sub(length)..size),
            _ => Self::All,
        }
    }

    fn within(range: Range<u64>) -> Self {
        if range.is_empty() { Self::Unsatisfiable } else { Self::Part(range) }
    }
}

/// A number, or nothing; `None` where it is neither.
fn position(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    // One of too many digits is behind the end of any file.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::Wanted::{self, All, Part, Unsatisfiable};

    #[test]
    fn of_a_file_some_bytes_are_wanted_or_all() {
        for (header, wanted) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=3-5", Part(3..6)),
            ("bytes=3-", Part(3..10)),
            ("bytes=3-100", Part(3..10)),
            ("bytes=9-99999999999999999999999", Part(9..10)),
            ("bytes=-4", Part(6..10)),
            ("bytes=-40", Part(0..10)),
            ("Bytes = 3-5", Part(3..6)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=5-3", All),
            ("bytes=-", All),
            ("bytes=a-b", All),
            ("bytes=+1-2", All),
            ("bytes=0-1,3-4", All),
            ("lines=0-1", All),
            ("bytes", All),
            ("", All),
        ] {
            assert_eq!(Wanted::of(header, 10), wanted, "{header}");
        }
        assert_eq!(Wanted::of("bytes=0-", 0), Unsatisfiable);
        assert_eq!(Wanted::of("bytes=-1", 0), Unsatisfiable);
    }
}
