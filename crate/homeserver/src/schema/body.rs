//! Walks a body once, beside what the specification says of it, and keeps nothing.

use super::{Property, Schema, Wrong};
use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::{cell::RefCell, fmt};

/// Characters of a name that a message repeats.
const SHOWN: usize = 64;

/// Refuses a body, called `name` in messages, that is not what it should be: 400 M_NOT_JSON for
/// what is no JSON, M_BAD_JSON for a value of another type or outside an enumeration,
/// M_INVALID_PARAM for a wrong identifier.
pub fn check(schema: Schema, name: &str, body: &[u8]) -> Result<()> {
    let found = RefCell::new(None);
    let mut json = serde_json::Deserializer::from_slice(body);
    let walk = Walk { schema, place: &Place { name, above: None }, is_optional: false, found: &found };
    let Err(error) = walk.deserialize(&mut json).and_then(|()| json.end()) else { return Ok(()) };
    // Of what is no JSON it does not matter what else it is not.
    serde_json::from_slice::<IgnoredAny>(body).map_err(Error::not_json)?;
    Err(found.into_inner().unwrap_or_else(|| Error::unreadable(&error)))
}

/// Where something stands.
struct Place<'a> {
    name: &'a str,
    above: Option<&'a Place<'a>>,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above.filter(|above| above.above.is_some()) {
            write!(f, "{above}.")?;
        }
        match self.name.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{}...", &self.name[..end]),
            None => f.write_str(self.name),
        }
    }
}

struct Walk<'a> {
    schema: Schema,
    place: &'a Place<'a>,
    /// Whether null stands for nothing.
    is_optional: bool,
    /// What was found to be wrong.
    found: &'a RefCell<Option<Error>>,
}

impl Walk<'_> {
    fn choices(&self) -> &[Schema] {
        match &self.schema {
            Schema::Either(choices) => choices,
            _ => std::slice::from_ref(&self.schema),
        }
    }

    fn is(&self, of: impl Fn(&Schema) -> bool) -> bool {
        self.choices().iter().any(of)
    }

    fn fail<E: serde::de::Error>(&self, error: Error) -> E {
        *self.found.borrow_mut() = Some(error);
        E::custom("")
    }

    fn of_another_type<E: serde::de::Error>(&self) -> E {
        let expected: Vec<_> = self.choices().iter().map(|schema| schema.type_name()).collect();
        self.fail(Error::bad_json(format!("{} must be {}", self.place, expected.join(" or "))))
    }

    fn expects<E: serde::de::Error>(&self, of: impl Fn(&Schema) -> bool) -> Result<(), E> {
        if self.is(of) { Ok(()) } else { Err(self.of_another_type()) }
    }

    fn text<E: serde::de::Error>(&self, schema: Schema, text: &str) -> Result<(), E> {
        schema.check_text(text).map_err(|wrong| {
            let message = format!("{} must be {}", self.place, wrong.expected());
            self.fail(if matches!(wrong, Wrong::Identifier(_)) { Error::invalid_param(message) } else { Error::bad_json(message) })
        })
    }
}

impl Schema {
    /// The JSON type of its values, as a message says it.
    fn type_name(&self) -> &'static str {
        match self {
            Self::Any | Self::Either(_) => "JSON",
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Array(_) => "an array",
            Self::Object(..) => "an object",
            _ => "a string",
        }
    }

    fn is_text(&self) -> bool {
        self.type_name() == "a string"
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        match self.schema {
            Schema::Any => json.deserialize_ignored_any(IgnoredAny).map(|_| ()),
            _ => json.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.schema.type_name())
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.expects(|schema| matches!(schema, Schema::Boolean))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.expects(|schema| matches!(schema, Schema::Integer | Schema::Number))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.expects(|schema| matches!(schema, Schema::Integer | Schema::Number))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.expects(|schema| matches!(schema, Schema::Number) || matches!(schema, Schema::Integer) && value.fract() == 0.0)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if self.is_optional { Ok(()) } else { self.expects(|schema| matches!(schema, Schema::Null)) }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        match self.choices().iter().find(|schema| schema.is_text()) {
            Some(schema) => self.text(*schema, value),
            None => Err(self.of_another_type()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let items = self.choices().iter().find_map(|schema| if let Schema::Array(items) = schema { Some(**items) } else { None });
        let Some(schema) = items else { return Err(self.of_another_type()) };
        for index in 0_usize.. {
            let place = &Place { name: &index.to_string(), above: Some(self.place) };
            if values.next_element_seed(Walk { schema, place, is_optional: false, found: self.found })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let object = self.choices().iter().find_map(|schema| if let Schema::Object(known, others) = schema { Some((*known, *others)) } else { None });
        let Some((known, others)) = object else { return Err(self.of_another_type()) };
        while let Some(name) = map.next_key::<String>()? {
            let place = &Place { name: &name, above: Some(self.place) };
            let (schema, is_optional) = match (known.iter().find(|property| property.name() == name), others) {
                (Some(Property::Required(_, schema)), _) => (*schema, false),
                (Some(Property::Optional(_, schema)), _) => (*schema, true),
                (None, Some((names, values))) => {
                    Walk { schema: *names, place, is_optional: false, found: self.found }.text(*names, &name)?;
                    (*values, false)
                }
                (None, None) => (Schema::Any, true),
            };
            map.next_value_seed(Walk { schema, place, is_optional, found: self.found })?;
        }
        Ok(())
    }
}

impl Property {
    fn name(&self) -> &'static str {
        match self {
            Self::Required(name, _) | Self::Optional(name, _) => name,
        }
    }
}
