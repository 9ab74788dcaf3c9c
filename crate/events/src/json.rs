//! Limits of JSON beyond its grammar, so that every later reader takes what was taken in.
//!
//! An event is kept as it came, and answered inside of other JSON. Its readers have limits:
//! - serde_json, with which servers and clients in Rust read, goes [`READERS_MAX_DEPTH`] levels
//!   deep;
//! - Python takes integers of [`MAX_DIGITS`] digits;
//! - nobody takes a float that is infinite, or half of a surrogate pair.
//!
//! What is beyond them is refused on arrival. Later it would spoil the answer that it is a part of.

use std::ops::Range;

/// How many levels a body or an event may have; itself is the first.
pub const MAX_DEPTH: usize = 100;

/// How many levels every reader takes. What an answer puts around an event must stay within it.
pub const READERS_MAX_DEPTH: usize = 127;

/// How many digits an integer may have (Python's `sys.int_info.default_max_str_digits`).
pub const MAX_DIGITS: usize = 4300;

/// Why JSON is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// It has more levels than [`MAX_DEPTH`].
    #[error("too deeply nested: at most {MAX_DEPTH} levels are allowed")]
    TooDeep,
    /// A string that is not Unicode.
    #[error("a string contains an unpaired surrogate")]
    LoneSurrogate,
    /// A number that readers cannot hold.
    #[error("a number is too large")]
    NumberTooLarge,
}

/// A piece of JSON's text, by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// `{` or `[`
    Open,
    /// `}` or `]`
    Close,
    /// A string with its quotes.
    String(Range<usize>),
    /// Everything that looks like one number.
    Number(Range<usize>),
}

/// The tokens of a text that may be JSON; the parser says whether it is.
pub(crate) struct Tokens<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn of(json: &'a [u8]) -> Self {
        Self { json, at: 0 }
    }

    /// Past the closing quote of the string that begins here.
    fn end_of_string(&self) -> usize {
        let mut at = self.at + 1;
        while let Some(byte) = self.json.get(at) {
            match byte {
                b'"' => return at + 1,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.json.len()
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let is_of_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        loop {
            let start = self.at;
            match self.json.get(start)? {
                b'{' | b'[' => {
                    self.at += 1;
                    return Some(Token::Open);
                }
                b'}' | b']' => {
                    self.at += 1;
                    return Some(Token::Close);
                }
                b'"' => {
                    self.at = self.end_of_string();
                    return Some(Token::String(start..self.at));
                }
                b'-' | b'0'..=b'9' => {
                    self.at += self.json[start..].iter().take_while(|byte| is_of_number(byte)).count();
                    return Some(Token::Number(start..self.at));
                }
                _ => self.at += 1,
            }
        }
    }
}

/// Refuses what a later reader does not take.
///
/// # Errors
/// The first thing that such a reader does not take.
pub fn check(json: &[u8]) -> Result<(), LimitError> {
    let mut depth = 0_usize;
    for token in Tokens::of(json) {
        match token {
            Token::Open if depth == MAX_DEPTH => return Err(LimitError::TooDeep),
            Token::Open => depth += 1,
            Token::Close => depth = depth.saturating_sub(1),
            Token::String(string) if has_half_pair(&json[string.clone()]) => return Err(LimitError::LoneSurrogate),
            Token::Number(number) if !is_bounded(&json[number.clone()]) => return Err(LimitError::NumberTooLarge),
            Token::String(_) | Token::Number(_) => {}
        }
    }
    Ok(())
}

/// Whether readers can hold a number. What is none is the parser's to refuse.
pub(crate) fn is_bounded(number: &[u8]) -> bool {
    if number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') {
        return number.len() - usize::from(number.starts_with(b"-")) <= MAX_DIGITS;
    }
    let number = str::from_utf8(number).ok().and_then(|number| number.parse::<f64>().ok());
    number.is_none_or(f64::is_finite)
}

/// Whether an escape stands for one half of a surrogate pair without the other.
fn has_half_pair(string: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = string[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        match code_unit(&string[at..]) {
            Some(0xd800..=0xdbff) if matches!(code_unit(&string[at + 6..]), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => return true,
            Some(_) => at += 6,
            None => at = (at + 2).min(string.len()),
        }
    }
    false
}

/// The number of the `\u` escape that a text begins with.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}{}", r#"{"a":["#.repeat(levels / 2) + &"[".repeat(levels % 2), "]".repeat(levels % 2) + &"]}".repeat(levels / 2))
    }

    #[test]
    fn what_is_nested_too_deep_is_refused() {
        for (levels, expected) in
            [(1, Ok(())), (MAX_DEPTH - 1, Ok(())), (MAX_DEPTH, Ok(())), (MAX_DEPTH + 1, Err(LimitError::TooDeep)), (60_000, Err(LimitError::TooDeep))]
        {
            assert_eq!(check(nested(levels).as_bytes()), expected, "{levels}");
        }
        // What stands side by side is not deep, and brackets in strings are letters.
        assert_eq!(check(format!("[{}]", "[],".repeat(1000)).as_bytes()), Ok(()));
        assert_eq!(check(format!(r#"["{}", "\"{}"]"#, "[".repeat(1000), "{".repeat(1000)).as_bytes()), Ok(()));
        assert_eq!(check("]".repeat(1000).as_bytes()), Ok(()));
    }

    #[test]
    fn strings_are_unicode() {
        for good in [r#""\ud83d\ude00""#, r#""\uD83D\uDE00 \\ud83d \u0041\n""#, r#""\\\\ud83d""#, r#""\u0000""#, "\"\u{1f600}\"", r#""\"#, r#""\u12"#]
        {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in
            [r#""\ud83d""#, r#""\ude00""#, r#""\ud83d\ud83d\ude00""#, r#""\ude00\ud83d""#, r#"{"\ud83d":1}"#, r#""\ud83d\u0041""#, r#""\\\ud83d""#]
        {
            assert_eq!(check(bad.as_bytes()), Err(LimitError::LoneSurrogate), "{bad}");
        }
    }

    #[test]
    fn numbers_are_in_the_range_that_readers_support() {
        let digits = "9".repeat(MAX_DIGITS);
        for good in ["0", "-0", "1e308", "-1.7976931348623157e308", "1e-400", &digits, &format!("-{digits}"), "1.2.3", "-"] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in ["1e309", "-1e999", &format!("{digits}9"), &format!("-{digits}9"), &format!("{digits}.0")] {
            assert_eq!(check(format!(r#"{{"a":{bad}}}"#).as_bytes()), Err(LimitError::NumberTooLarge), "{bad}");
        }
    }
}
