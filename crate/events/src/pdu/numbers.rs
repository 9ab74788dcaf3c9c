//! Numbers that are not canonical JSON. Up to room version 5 events may hold floats and large
//! integers (rooms/v1.md "Canonical JSON"), which canonical JSON types cannot: they are carried as
//! marked strings, and written as Python writes them.
//!
//! Nothing says how such numbers are written for hashes and signatures. Synapse reads every event,
//! its own and received ones, and encodes it again: what is hashed is what Python's `json` makes of
//! it (`1e3` becomes `1000.0`, `-0` becomes `0`). A server that signs `1e3` as it stands is not
//! understood by Synapse, and so not here; what Synapse sends is in this form already.
//!
//! The mark is U+0000 at the start of a string. A string that begins so by itself gets one more.

use crate::json::{self, Token, Tokens};
use ruma::CanonicalJsonObject;
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    ops::{Deref, DerefMut},
};

/// The mark as it stands in JSON.
const MARK: &str = "\\u0000";
const LARGEST: i64 = (1 << 53) - 1;

/// The number is beyond what any server reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// A JSON object of an event: its content, or the whole of it.
///
/// It is used as the [`CanonicalJsonObject`] that it derefs to. Up to room version 5 events may
/// hold numbers that canonical JSON has not, such as `1.5`. These stand in it as strings that begin
/// with U+0000, and are numbers again in [`JsonObject::to_json`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonObject {
    object: CanonicalJsonObject,
    is_marked: bool,
}

impl JsonObject {
    /// Reads an object. `strict`: numbers are those of canonical JSON, as since room version 6
    /// (`rules.authorization.strict_canonical_json`).
    ///
    /// # Errors
    /// It is no object of such JSON.
    pub fn read(json: &str, strict: bool) -> serde_json::Result<Self> {
        if strict {
            return Ok(Self { object: serde_json::from_str(json)?, is_marked: false });
        }
        let marked = mark(json).map_err(|_| serde::de::Error::custom("a number is too large"))?;
        Ok(Self { object: serde_json::from_str(&marked)?, is_marked: matches!(marked, Cow::Owned(_)) })
    }

    /// The JSON that is left of it: numbers without their marks.
    pub(super) fn written(&self, json: String) -> String {
        if self.is_marked { unmark(&json) } else { json }
    }

    /// Its JSON.
    ///
    /// # Errors
    /// None that canonical JSON can cause.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(self.written(serde_json::to_string(&self.object)?))
    }

    /// A part of it: an object in it, or one with some of its values.
    pub fn part(&self, object: CanonicalJsonObject) -> Self {
        Self { object, is_marked: self.is_marked }
    }
}

impl From<CanonicalJsonObject> for JsonObject {
    fn from(object: CanonicalJsonObject) -> Self {
        Self { object, is_marked: false }
    }
}

impl Deref for JsonObject {
    type Target = CanonicalJsonObject;

    fn deref(&self) -> &CanonicalJsonObject {
        &self.object
    }
}

impl DerefMut for JsonObject {
    fn deref_mut(&mut self) -> &mut CanonicalJsonObject {
        &mut self.object
    }
}

/// The JSON with each number that is not canonical as a marked string; borrowed if there is none.
/// What is no number is left for the parser to refuse.
fn mark(json: &str) -> Result<Cow<'_, str>, Unreadable> {
    let tokens = || Tokens::of(json.as_bytes());
    let is_odd = |number: &str| !is_canonical(number) && is_number(number);
    if tokens().all(|token| !matches!(token, Token::Number(number) if is_odd(&json[number.clone()]))) {
        return Ok(Cow::Borrowed(json));
    }
    let mut out = Replacing::of(json);
    for token in tokens() {
        match token {
            Token::Number(place) if is_odd(&json[place.clone()]) => {
                let number = as_python(&json[place.clone()])?;
                let is_canonical = is_canonical(&number);
                out.replace(place, &if is_canonical { number.into_owned() } else { format!("\"{MARK}{number}\"") });
            }
            Token::String(place) if json[place.clone()][1..].starts_with(MARK) => out.replace(place.start + 1..place.start + 1, MARK),
            _ => {}
        }
    }
    Ok(Cow::Owned(out.end()))
}

/// JSON out of marked values.
fn unmark(json: &str) -> String {
    let mut out = Replacing::of(json);
    for token in Tokens::of(json.as_bytes()) {
        let Token::String(place) = token else { continue };
        match json[place.clone()][1..].strip_prefix(MARK) {
            Some(rest) if rest.starts_with(MARK) => out.replace(place.start + 1..place.start + 1 + MARK.len(), ""),
            Some(rest) => out.replace(place, rest.trim_end_matches('"')),
            None => {}
        }
    }
    out.end()
}

/// The number that a string carries; None of any other string.
pub(super) fn carried(value: &str) -> Option<&str> {
    value.strip_prefix('\0')
}

/// A power levels content as the rules read it: "the value is truncated at the decimal point".
pub(super) fn truncated(content: Box<RawValue>) -> Box<RawValue> {
    let json = content.get();
    let mut out = Replacing::of(json);
    for token in Tokens::of(json.as_bytes()) {
        let Token::Number(place) = token else { continue };
        let number = &json[place.clone()];
        // What is larger is left for the rules to reject.
        if !is_canonical(number)
            && let Some(value) = number.parse::<f64>().ok().filter(|value| value.abs() <= LARGEST as f64)
        {
            out.replace(place, &(value as i64).to_string());
        }
    }
    if out.copied == 0 {
        return content;
    }
    RawValue::from_string(out.end()).unwrap_or(content)
}

/// A text of which some places are replaced, from the first to the last.
struct Replacing<'a> {
    text: &'a str,
    out: String,
    copied: usize,
}

impl<'a> Replacing<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, out: String::new(), copied: 0 }
    }

    fn replace(&mut self, place: std::ops::Range<usize>, with: &str) {
        self.out.push_str(&self.text[self.copied..place.start]);
        self.out.push_str(with);
        self.copied = place.end;
    }

    fn end(mut self) -> String {
        self.out.push_str(&self.text[self.copied..]);
        self.out
    }
}

/// A number of any JSON as Python writes what it has read; none of what is no number, or beyond
/// what any server reads.
pub(crate) fn python_number(number: &str) -> Option<Cow<'_, str>> {
    as_python(number).ok().filter(|_| is_number(number))
}

fn is_canonical(number: &str) -> bool {
    number != "-0" && number.parse::<i64>().is_ok_and(|value| (-LARGEST..=LARGEST).contains(&value))
}

/// A number as Python writes what it has read.
fn as_python(number: &str) -> Result<Cow<'_, str>, Unreadable> {
    if !json::is_bounded(number.as_bytes()) {
        return Err(Unreadable);
    }
    if !number.contains(['.', 'e', 'E']) {
        return Ok(Cow::Borrowed(if number == "-0" { "0" } else { number }));
    }
    Ok(Cow::Owned(repr(number.parse().map_err(|_| Unreadable)?)))
}

/// Python's `repr(float)`: the shortest digits that read back as the same, with an exponent below
/// 1e-4 and from 1e16 on.
fn repr(value: f64) -> String {
    let mut scientific = format!("{value:e}");
    // Where two are as close, Rust takes the larger one and Python the even one: so does Rust where
    // the number of digits is given.
    let decimals = scientific.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count().saturating_sub(1);
    let even = format!("{value:.decimals$e}");
    if even.parse() == Ok(value) {
        scientific = even;
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let decimals = usize::try_from(decimals as i32 - exponent).unwrap_or(0);
        return format!("{value:.*}", decimals.max(1));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Whether this is a number of JSON's grammar (RFC 8259, 6).
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(are_digits)
        && exponent.is_none_or(|exponent| are_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(json: &str) -> String {
        JsonObject::read(json, false).expect("readable").to_json().expect("JSON")
    }

    /// What Python's `json` module makes of numbers: each line is a number and what
    /// `json.dumps(json.loads(number), allow_nan=False)` gives, nothing where that raises an error.
    /// `python_numbers.py` beside it writes it.
    const PYTHON: &str = include_str!("python_numbers.txt");

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let mut refused = 0;
        for line in PYTHON.lines() {
            let (number, written) = line.split_once('\t').expect("two columns");
            let json = format!(r#"{{"a":[{number}]}}"#);
            match JsonObject::read(&json, false) {
                Ok(read) => assert_eq!(read.to_json().expect("JSON"), format!(r#"{{"a":[{written}]}}"#), "{number}"),
                Err(_) => {
                    assert_eq!(written, "", "{number}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 5 && PYTHON.lines().count() > 2000, "{refused}");
    }

    #[test]
    fn strict_json_has_none_of_them() {
        for number in ["1.5", "1e3", "-0", "-0.0", "9007199254740992", "-9007199254740992", "1.0"] {
            assert!(JsonObject::read(&format!(r#"{{"a":{number}}}"#), true).is_err(), "{number}");
        }
        assert!(JsonObject::read(r#"{"a":[0,-1,9007199254740991,-9007199254740991]}"#, true).is_ok());
    }

    #[test]
    fn strings_stay_as_they_are() {
        for json in [
            r#"{"\\":"1.5 \" 2.5","c":1.5}"#,
            r#"{"\u0000":"\u00001.5","a":["\u0000","\u0000\u0000","a\"\u0000","\\u0000"],"c":1.5}"#,
            r#"{"\u00001e3":"\u00001e3\"","c":1e+16}"#,
        ] {
            assert_eq!(through(json), json);
        }
    }

    #[test]
    fn canonical_json_is_left_alone() {
        for json in [r#"{"a":-1,"b":"1.5","c":[0,9007199254740991,"\u0000"]}"#, "", "{", "\"", "\"\\"] {
            assert!(matches!(mark(json), Ok(Cow::Borrowed(_))), "{json}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for number in
            ["1e999", "1.2.3", "--1", "1.", ".5", "01.5", "-01e3", "1e", "1e+", "+1.5", "1e3e3", "-", "NaN", "Infinity", "-Infinity", "0x1p3"]
        {
            assert!(JsonObject::read(&format!(r#"{{"a":{number},"b":2.5}}"#), false).is_err(), "{number}");
        }
    }

    #[test]
    fn power_levels_are_truncated() {
        let content = RawValue::from_string(r#"{"ban":5.114698E4,"kick":-1.9,"redact":50}"#.to_owned()).expect("JSON");
        assert_eq!(truncated(content).get(), r#"{"ban":51146,"kick":-1,"redact":50}"#);
    }

    #[test]
    fn what_was_written_is_written_the_same_again_and_means_the_same() {
        ephapse_testing::holds(1000, &any::<u64>(), |bits| {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                let written = repr(value);
                prop_assert_eq!(written.parse::<f64>().expect("a number").to_bits(), bits);
                let json = format!(r#"{{"a":{written}}}"#);
                prop_assert_eq!(through(&json), json);
            }
            Ok(())
        });
    }
}
