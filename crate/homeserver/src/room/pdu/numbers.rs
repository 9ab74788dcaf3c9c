//! Numbers that are not canonical JSON. Up to room version 5 events may hold floats and large integers (rooms/v1.md "Canonical JSON"), which canonical JSON types cannot:
//! they are carried as marked strings and written again as they came, so that hashes and signatures are over what the sender wrote.
//!
//! The mark is U+0000 at the start of a string; an event that has that character itself beside such a number is refused.

use serde_json::value::RawValue;
use std::borrow::Cow;

/// The mark and the quote before it, as they stand in JSON.
const MARK: &str = "\"\\u0000";
const LARGEST: i64 = (1 << 53) - 1;

/// The number is beyond what any server reads, or stands beside a U+0000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// The JSON with each number that is not canonical as a marked string; borrowed if there is none.
pub(super) fn mark(json: &str) -> Result<Cow<'_, str>, Unreadable> {
    replace(json, |number| match number.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(format!("{MARK}{number}\"")),
        _ => Err(Unreadable),
    })
}

/// The number that a string carries, as it came; None of any other string.
pub(super) fn carried(value: &str) -> Option<&str> {
    value.strip_prefix('\0')
}

/// JSON out of marked values: numbers as they came.
pub(super) fn unmark(json: String) -> String {
    let mut parts = json.split(MARK);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once('"').unwrap_or((part, ""));
        out.push_str(number);
        out.push_str(rest);
    }
    out
}

/// A power levels content as the rules read it: "the value is truncated at the decimal point".
pub(super) fn truncated(content: Box<RawValue>) -> Box<RawValue> {
    let truncate = |number: &str| match number.parse::<f64>() {
        Ok(value) if value.abs() <= LARGEST as f64 => Ok((value as i64).to_string()),
        // Left for the rules to reject.
        _ => Ok(number.to_owned()),
    };
    match replace(content.get(), truncate) {
        Ok(Cow::Owned(json)) => RawValue::from_string(json).unwrap_or(content),
        _ => content,
    }
}

fn is_canonical(number: &str) -> bool {
    number != "-0" && number.parse::<i64>().is_ok_and(|value| (-LARGEST..=LARGEST).contains(&value))
}

/// Replaces the numbers that are not canonical. What is not JSON is left for the parser to refuse.
fn replace(json: &str, with: impl Fn(&str) -> Result<String, Unreadable>) -> Result<Cow<'_, str>, Unreadable> {
    let bytes = json.as_bytes();
    let is_of_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at),
            b'-' | b'0'..=b'9' => {
                let end = at + bytes[at..].iter().take_while(|byte| is_of_number(byte)).count();
                let number = &json[at..end];
                if !is_canonical(number) {
                    out.push_str(&json[copied..at]);
                    out.push_str(&with(number)?);
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(json));
    }
    if json.contains("\\u0000") {
        return Err(Unreadable);
    }
    out.push_str(&json[copied..]);
    Ok(Cow::Owned(out))
}

/// Past the closing quote of the string that begins here.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_out_as_they_went_in() {
        for json in [r#"{"a":1.5,"b":[1E3,-0,9007199254740992,-1.0e-7],"c":"1.5 \" 2.5","d":7}"#, r#"[0.1]"#, r#"{"\\":1e1}"#] {
            let marked = mark(json).expect("readable");
            assert_ne!(marked, json);
            let value: ruma::CanonicalJsonValue = serde_json::from_str(&marked).expect("canonical now");
            assert_eq!(unmark(serde_json::to_string(&value).expect("JSON")), json);
        }
    }

    #[test]
    fn canonical_json_is_left_alone() {
        for json in [r#"{"a":-1,"b":"1.5","c":[0,9007199254740991,"\u0000"]}"#, "", "{", "\"", "\"\\"] {
            assert!(matches!(mark(json), Ok(Cow::Borrowed(_))), "{json}");
        }
    }

    #[test]
    fn what_cannot_be_carried_is_refused() {
        for json in [r#"{"a":1e999}"#, r#"{"a":1.2.3}"#, r#"{"a":--1}"#, r#"{"a":1.5,"b":"\u0000"}"#] {
            assert_eq!(mark(json), Err(Unreadable), "{json}");
        }
    }

    #[test]
    fn power_levels_are_truncated() {
        let content = RawValue::from_string(r#"{"ban":5.114698E4,"kick":-1.9,"redact":50}"#.to_owned()).expect("JSON");
        assert_eq!(truncated(content).get(), r#"{"ban":51146,"kick":-1,"redact":50}"#);
    }
}
