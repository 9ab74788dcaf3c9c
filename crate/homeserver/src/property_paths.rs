//! Names of properties with dots (Appendices, Dot-separated property paths): what push conditions
//! look at, and what the fields of a filter are.

use ruma::{
    Int,
    push::{FlattenedJsonValue, ScalarJsonValue},
};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// No JSON that this server reads is deeper, so that a longer path leads nowhere.
const DEEPEST: usize = 128;

/// Splits a path at its dots. "Any literal dot or backslash found in a property name should be
/// escaped with a backslash"; "other escape sequences are left as-is".
pub(crate) fn split(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '.' => parts.push(String::new()),
            '\\' => {
                let escaped = letters.next().unwrap_or('\\');
                if escaped != '.' && escaped != '\\' {
                    parts.last_mut().expect("there is always one").push('\\');
                }
                parts.last_mut().expect("there is always one").push(escaped);
            }
            other => parts.last_mut().expect("there is always one").push(other),
        }
    }
    parts
}

/// Paths of which some JSON is read once, and nothing else of it is kept: JSON that somebody else
/// wrote may be much larger in memory.
#[derive(Debug, Default)]
pub(crate) struct Paths(Vec<Path>);

#[derive(Debug)]
struct Path {
    parts: Vec<Box<str>>,
    number: usize,
}

impl Paths {
    /// Adds a path: its number, which is that of an equal one where there is one. `None`: nothing
    /// can be there.
    pub(crate) fn add(&mut self, path: &str) -> Option<usize> {
        let parts: Vec<Box<str>> = split(path).into_iter().map(String::into_boxed_str).collect();
        if parts.len() > DEEPEST {
            return None;
        }
        // In order, so that those that begin alike stand together, and first the one that is all of
        // the beginning.
        match self.0.binary_search_by(|path| path.parts.cmp(&parts)) {
            Ok(place) => Some(self.0[place].number),
            Err(place) => {
                let number = self.0.len();
                self.0.insert(place, Path { parts, number });
                Some(number)
            }
        }
    }

    /// What stands at each path, by number.
    pub(crate) fn find(&self, json: &[u8]) -> serde_json::Result<Vec<Option<FlattenedJsonValue>>> {
        let mut found = vec![None; self.0.len()];
        let at = At { paths: &self.0, depth: 0, found: &mut found };
        at.deserialize(&mut serde_json::Deserializer::from_slice(json))?;
        Ok(found)
    }

    /// Bytes that they take in memory, roughly.
    pub(crate) fn weight(&self) -> usize {
        let parts = |path: &Path| path.parts.iter().map(|part| size_of::<Box<str>>() + part.len()).sum::<usize>();
        self.0.iter().map(|path| size_of::<Path>() + parts(path)).sum()
    }
}

/// The value to which all of some paths lead with their first `depth` parts.
struct At<'a> {
    paths: &'a [Path],
    depth: usize,
    found: &'a mut [Option<FlattenedJsonValue>],
}

impl At<'_> {
    /// The number of the path that ends here.
    fn number(&self) -> Option<usize> {
        self.paths.first().filter(|path| path.parts.len() == self.depth).map(|path| path.number)
    }

    fn keep<E>(self, value: impl Into<FlattenedJsonValue>) -> Result<(), E> {
        if let Some(number) = self.number() {
            self.found[number] = Some(value.into());
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.keep(FlattenedJsonValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.keep(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        Int::try_from(value).map_or(Ok(()), |value| self.keep(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        Int::try_from(value).map_or(Ok(()), |value| self.keep(value))
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        if self.number().is_some() { self.keep(value) } else { Ok(()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.number().is_none() {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let here = [Path { parts: Vec::new(), number: 0 }];
        let mut scalars = Vec::new();
        loop {
            let mut found = [None];
            if seq.next_element_seed(At { paths: &here, depth: 0, found: &mut found })?.is_none() {
                return self.keep(scalars);
            }
            scalars.extend(found.into_iter().flatten().filter_map(scalar));
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(range) = map.next_key_seed(Key { paths: self.paths, depth: self.depth })? {
            if range.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(At { paths: range, depth: self.depth + 1, found: self.found })?;
            }
        }
        Ok(())
    }
}

/// A name after the first `depth` parts: those of the paths that go on with it.
struct Key<'a> {
    paths: &'a [Path],
    depth: usize,
}

impl<'de, 'a> DeserializeSeed<'de> for Key<'a> {
    type Value = &'a [Path];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, 'a> Visitor<'de> for Key<'a> {
    type Value = &'a [Path];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let part = |path: &Path| path.parts.get(self.depth).map(|part| (**part).cmp(name));
        let start = self.paths.partition_point(|path| part(path).is_none_or(|order| order.is_lt()));
        let end = self.paths.partition_point(|path| part(path).is_none_or(|order| order.is_le()));
        Ok(&self.paths[start..end])
    }
}

fn scalar(value: FlattenedJsonValue) -> Option<ScalarJsonValue> {
    match value {
        FlattenedJsonValue::Null => Some(ScalarJsonValue::Null),
        FlattenedJsonValue::Bool(value) => Some(ScalarJsonValue::Bool(value)),
        FlattenedJsonValue::Integer(value) => Some(ScalarJsonValue::Integer(value)),
        FlattenedJsonValue::String(value) => Some(ScalarJsonValue::String(value)),
        FlattenedJsonValue::Array(_) | FlattenedJsonValue::EmptyObject => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::int;
    use serde_json::json;

    #[test]
    fn dots_separate_unless_they_are_escaped() {
        for (path, parts) in [
            ("content.body", &["content", "body"][..]),
            (r"content.m\.relates_to.rel_type", &["content", "m.relates_to", "rel_type"]),
            (r"content.m\\foo", &["content", r"m\foo"]),
            (r"a\x.b", &[r"a\x", "b"]),
            (r"a\", &[r"a\"]),
            ("", &[""]),
        ] {
            assert_eq!(split(path), parts, "{path}");
        }
    }

    #[test]
    fn what_stands_at_a_path_is_found_and_nothing_else() {
        let event = json!({
            "type": "t",
            "content": { "body": "b", "m.mentions": { "user_ids": ["@a:x", 1, null, { "no": "scalar" }, ["nor this"], true], "room": true }, "n": -5, "none": null },
            "content.body": "another",
        });
        let mut paths = Paths::default();
        let wanted = [
            ("type", Some("t".into())),
            ("content.body", Some("b".into())),
            (r"content\.body", Some("another".into())),
            ("content.n", Some(int!(-5).into())),
            ("content.none", Some(FlattenedJsonValue::Null)),
            (r"content.m\.mentions.room", Some(true.into())),
            (r"content.m\.mentions.user_ids", Some(vec!["@a:x".into(), int!(1).into(), ScalarJsonValue::Null, true.into()].into())),
            ("content", None),
            ("content.body.deeper", None),
            ("content.bod", None),
            ("", None),
        ];
        let numbers: Vec<usize> = wanted.iter().map(|(path, _)| paths.add(path).expect("a short path")).collect();
        assert_eq!(paths.add("content.body"), Some(numbers[1]));
        let found = paths.find(event.to_string().as_bytes()).expect("JSON");
        for ((path, expected), number) in wanted.into_iter().zip(numbers) {
            assert_eq!(found[number], expected, "{path}");
        }
        assert_eq!(paths.add(&"a.".repeat(DEEPEST)), None);
    }
}
