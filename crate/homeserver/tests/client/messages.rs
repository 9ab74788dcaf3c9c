//! Messages are for people who use a client: no types of ours, no codes inside sentences.

use serde_json::Value;

/// What serde, ruma and Rust say, and clients' users do not.
const OURS: [&str; 17] = [
    "struct ",
    "enum ",
    "tuple",
    "t::",
    "std::",
    "expected u",
    "expected i6",
    "expected f6",
    "variant",
    "Option<",
    "Owned",
    "untagged",
    "serde",
    "ruma",
    "[4",
    "M_",
    "deserializ",
];

/// Asserts that an error says what it says in plain words, also where it is one of several.
#[track_caller]
pub fn assert_plain(body: &Value) {
    match body {
        Value::Object(fields) => {
            if let Some(error) = fields.get("error").and_then(Value::as_str).filter(|_| fields.contains_key("errcode")) {
                assert!(!error.is_empty(), "{body} says nothing");
                let found = OURS.iter().find(|ours| error.contains(**ours));
                assert!(found.is_none(), "{error:?} has {found:?}");
            }
            fields.values().for_each(assert_plain);
        }
        Value::Array(values) => values.iter().for_each(assert_plain),
        _ => {}
    }
}
