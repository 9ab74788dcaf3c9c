//! Canonical JSON of any JSON text: of half a million levels, and with numbers as Python writes
//! them (appendices.md, "Canonical JSON"). What is signed of a request is the whole of it, and one
//! event in it that only some servers read must not cost the others.
//!
//! Work and memory follow the length of the text, however it is nested.

use crate::pdu::python_number;
use std::ops::Range;

/// The text is no JSON, or holds a number or so many levels that nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not JSON")]
pub struct NotJson;

/// Appends the canonical form of `json` to `out`. Of members of the same name the last counts. A
/// string that is not Unicode stays as it is written.
///
/// # Errors
/// [`NotJson`]
pub fn write_canonical(json: &str, out: &mut String) -> Result<(), NotJson> {
    let mut reader = Reader { json, at: 0, out: String::with_capacity(json.len()), open: Vec::new(), unsorted: Vec::new() };
    reader.read()?;
    let Reader { out: text, mut unsorted, .. } = reader;
    unsorted.sort_unstable_by_key(|object| object.place.start);
    write_sorted(&text, unsorted, out);
    Ok(())
}

/// A member of an object, by the places of its name, with quotes, and of its value, in the text
/// that is canonical but for the order.
struct Member {
    name: Range<usize>,
    value: Range<usize>,
}

/// An array or an object that has begun.
struct Open {
    start: usize,
    /// None of an array.
    members: Option<Vec<Member>>,
    is_sorted: bool,
}

/// An object whose members have to change places.
struct Unsorted {
    /// Without its braces.
    place: Range<usize>,
    members: Vec<Member>,
}

/// Arrays and objects that may stand within each other: each takes more memory than text.
const MOST_OPEN: usize = 1 << 19;

struct Reader<'a> {
    json: &'a str,
    at: usize,
    out: String,
    open: Vec<Open>,
    unsorted: Vec<Unsorted>,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), NotJson> {
        loop {
            if self.begin_value()? && self.end_value()? {
                return if self.peek().is_none() { Ok(()) } else { Err(NotJson) };
            }
        }
    }

    /// Reads a value, or the beginning of an array or object that holds something; says whether the
    /// value has ended.
    fn begin_value(&mut self) -> Result<bool, NotJson> {
        let byte = self.peek().ok_or(NotJson)?;
        match byte {
            b'{' | b'[' => {
                self.at += 1;
                let members = (byte == b'{').then(Vec::new);
                if self.open.len() >= MOST_OPEN {
                    return Err(NotJson);
                }
                self.open.push(Open { start: self.out.len(), members, is_sorted: true });
                self.out.push(byte.into());
                match self.peek().ok_or(NotJson)? {
                    b'}' | b']' => return Ok(true),
                    _ if byte == b'{' => self.name()?,
                    _ => {}
                }
                return Ok(false);
            }
            b'"' => self.string()?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            _ => self.number()?,
        }
        Ok(true)
    }

    /// After a value: goes on to the next one, or ends those around it; says whether that was all.
    fn end_value(&mut self) -> Result<bool, NotJson> {
        loop {
            let end = self.out.len();
            let Some(open) = self.open.last_mut() else { return Ok(true) };
            let is_object = open.members.is_some();
            let is_empty = end == open.start + 1;
            if let Some(member) = open.members.as_mut().and_then(|members| members.last_mut()) {
                member.value.end = end;
            }
            match self.peek().ok_or(NotJson)? {
                b',' if !is_empty => {
                    self.at += 1;
                    self.out.push(',');
                    if is_object {
                        self.name()?;
                    }
                    return Ok(false);
                }
                byte @ (b'}' | b']') if is_object == (byte == b'}') => {
                    self.at += 1;
                    self.out.push(byte.into());
                    let Open { start, members, is_sorted } = self.open.pop().ok_or(NotJson)?;
                    if let Some(members) = members.filter(|_| !is_sorted) {
                        self.unsorted.push(Unsorted { place: start + 1..end, members });
                    }
                }
                _ => return Err(NotJson),
            }
        }
    }

    /// A member's name and the colon after it.
    fn name(&mut self) -> Result<(), NotJson> {
        let start = self.out.len();
        if self.peek() != Some(b'"') {
            return Err(NotJson);
        }
        self.string()?;
        let name = start..self.out.len();
        if self.peek() != Some(b':') {
            return Err(NotJson);
        }
        self.at += 1;
        self.out.push(':');
        let value = self.out.len()..self.out.len();
        let Some(Open { members: Some(members), is_sorted, .. }) = self.open.last_mut() else { return Err(NotJson) };
        *is_sorted &= members.last().is_none_or(|before| unquoted(&self.out[before.name.clone()]) < unquoted(&self.out[name.clone()]));
        members.push(Member { name, value });
        Ok(())
    }

    /// The next byte that is no space, which is not taken.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.json.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.json.as_bytes().get(self.at).copied()
    }

    fn string(&mut self) -> Result<(), NotJson> {
        let bytes = &self.json.as_bytes()[self.at + 1..];
        let mut length = 0;
        let mut is_plain = true;
        loop {
            match bytes.get(length).ok_or(NotJson)? {
                b'"' => break,
                b'\\' => {
                    is_plain = false;
                    length += 2;
                }
                0..0x20 => return Err(NotJson),
                _ => length += 1,
            }
        }
        let written = self.json.get(self.at..self.at + length + 2).ok_or(NotJson)?;
        self.at += written.len();
        // One that is not Unicode has no other form.
        let read = if is_plain { None } else { serde_json::from_str::<String>(written).ok() };
        match read.and_then(|string| serde_json::to_string(&string).ok()) {
            Some(canonical) => self.out.push_str(&canonical),
            None => self.out.push_str(written),
        }
        Ok(())
    }

    fn literal(&mut self, literal: &str) -> Result<(), NotJson> {
        if !self.json[self.at..].starts_with(literal) {
            return Err(NotJson);
        }
        self.at += literal.len();
        self.out.push_str(literal);
        Ok(())
    }

    fn number(&mut self) -> Result<(), NotJson> {
        let is_of_number = |byte: &&u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let length = self.json.as_bytes()[self.at..].iter().take_while(is_of_number).count();
        let number = &self.json[self.at..self.at + length];
        self.out.push_str(&python_number(number).ok_or(NotJson)?);
        self.at += length;
        Ok(())
    }
}

/// A name as names are compared: by its characters.
fn unquoted(name: &str) -> std::borrow::Cow<'_, str> {
    let plain = name.get(1..name.len() - 1).unwrap_or_default();
    if !plain.contains('\\') {
        return plain.into();
    }
    serde_json::from_str::<String>(name).map_or(plain.into(), Into::into)
}

/// Writes a text with the members of some of its objects in their order. Each byte is written once.
fn write_sorted(text: &str, mut unsorted: Vec<Unsorted>, out: &mut String) {
    enum Piece {
        Text(Range<usize>),
        Comma,
    }
    let mut rest = vec![Piece::Text(0..text.len())];
    while let Some(piece) = rest.pop() {
        let Piece::Text(place) = piece else {
            out.push(',');
            continue;
        };
        let mut first = unsorted.partition_point(|object| object.place.start < place.start);
        // Its first member begins where it began itself.
        first += usize::from(unsorted.get(first).is_some_and(|object| object.members.is_empty()));
        let Some(object) = unsorted.get_mut(first).filter(|object| object.place.start < place.end) else {
            out.push_str(&text[place]);
            continue;
        };
        out.push_str(&text[place.start..object.place.start]);
        rest.push(Piece::Text(object.place.end..place.end));
        let mut members = std::mem::take(&mut object.members);
        members.sort_by(|a, b| unquoted(&text[a.name.clone()]).cmp(&unquoted(&text[b.name.clone()])));
        // Of members of the same name the last one stays.
        let mut kept: Vec<Member> = Vec::with_capacity(members.len());
        for member in members {
            if kept.last().is_some_and(|last| unquoted(&text[last.name.clone()]) == unquoted(&text[member.name.clone()])) {
                kept.pop();
            }
            kept.push(member);
        }
        for (number, member) in kept.iter().enumerate().rev() {
            rest.push(Piece::Text(member.name.start..member.value.end));
            if number > 0 {
                rest.push(Piece::Comma);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ruma::CanonicalJsonValue;
    use serde_json::Value;

    fn canonical(json: &str) -> Option<String> {
        let mut out = String::new();
        write_canonical(json, &mut out).ok().map(|()| out)
    }

    #[test]
    fn members_are_sorted_and_spaces_go() {
        for (json, expected) in [
            (r#"{"b":1,"a":2}"#, r#"{"a":2,"b":1}"#),
            (r#" { "b" : [ { "d" : 1 , "c" : [ ] } , { } ] , "a" : null } "#, r#"{"a":null,"b":[{"c":[],"d":1},{}]}"#),
            (r#"{"b":{"z":{"y":1,"x":2},"a":0},"a":{"b":1,"a":2}}"#, r#"{"a":{"a":2,"b":1},"b":{"a":0,"z":{"x":2,"y":1}}}"#),
            (r#"{"a":1,"a":2,"":3,"a":4}"#, r#"{"":3,"a":4}"#),
            (r#"{"\u00e9":"\u0041\/\n\u001f","e":"\ud83d"}"#, "{\"e\":\"\\ud83d\",\"é\":\"A/\\n\\u001f\"}"),
            (r#"[1.0,-0,1e3,1.5e300,100000000000000000000]"#, "[1.0,0,1000.0,1.5e+300,100000000000000000000]"),
            (r#""a""#, r#""a""#),
        ] {
            assert_eq!(canonical(json).as_deref(), Some(expected), "{json}");
        }
    }

    #[test]
    fn what_is_no_json_has_no_form() {
        for wrong in [
            "",
            " ",
            "{",
            "[1",
            "[1,",
            "[,1]",
            "[1,]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "[}",
            "{]",
            "1 2",
            "tru",
            "\"a",
            "\"\n\"",
            "1e999",
            "--1",
            "+1",
            "01",
        ] {
            assert_eq!(canonical(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn depth_costs_what_it_is_long() {
        let depth = 300_000;
        let deep = format!("{}0{}", r#"{"b":"#.repeat(depth), r#","a":0}"#.repeat(depth));
        let expected = format!("{}0{}", r#"{"a":0,"b":"#.repeat(depth), "}".repeat(depth));
        assert!(canonical(&deep) == Some(expected));
        assert_eq!(canonical(&"[".repeat(depth)), None);
        let too_deep = MOST_OPEN + 1;
        assert_eq!(canonical(&format!("{}{}", "[".repeat(too_deep), "]".repeat(too_deep))), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<i32>().prop_map(Value::from), any::<bool>().prop_map(Value::from), ".{0,4}".prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".{0,3}", inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_rumas_where_that_takes_it(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).expect("JSON");
            let by_ruma: CanonicalJsonValue = serde_json::from_str(&pretty).expect("canonical");
            prop_assert_eq!(canonical(&pretty), Some(by_ruma.to_string()));
        }
    }
}
