//! What the specification says of requests, as far as it can be checked before anybody looks at
//! them: which places hold objects, arrays or strings, which strings are identifiers, and which are
//! one of a few. The table is generated from the specification's OpenAPI files.
//!
//! Types that serde derives take an array for an object, which is why this is asked first.

mod body;
mod identifiers;
mod table;

pub use identifiers::Identifier;

use crate::error::{Error, Result};
use http::{Method, Uri};
use table::ENDPOINTS;

/// What the specification says of the requests to an endpoint.
struct Endpoint {
    method: &'static str,
    /// Behind the version, every parameter as `{}`.
    path: &'static str,
    /// The parameters of the path; none where nothing is said of any.
    arguments: &'static [Schema],
    /// Those parameters of the query of which something is said.
    query: &'static [(&'static str, Schema)],
    body: Schema,
}

/// What a value is.
#[derive(Clone, Copy)]
enum Schema {
    Any,
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Id(Identifier),
    OneOf(&'static [&'static str]),
    Array(&'static Schema),
    /// Properties that are known, and what the names and values of all others are.
    Object(&'static [Property], Option<&'static (Schema, Schema)>),
    /// One of several, no two of the same JSON type.
    Either(&'static [Schema]),
}

/// A property of an object.
enum Property {
    /// It must not be null. That it is there is for the endpoint to say.
    Required(&'static str, Schema),
    /// Null is as good as nothing.
    Optional(&'static str, Schema),
}

/// What is wrong with a text.
enum Wrong {
    Identifier(Identifier),
    Choice(&'static [&'static str]),
    Type(&'static str),
}

impl Wrong {
    /// What is expected.
    fn expected(&self) -> String {
        match self {
            Self::Identifier(kind) => kind.expected().to_owned(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
            Self::Type(name) => (*name).to_owned(),
        }
    }
}

impl Schema {
    /// Whether a JSON string is what it should be.
    fn check_text(self, text: &str) -> Result<(), Wrong> {
        match self {
            Self::OneOf(choices) if !choices.contains(&text) => Err(Wrong::Choice(choices)),
            Self::Id(kind) if !kind.fits(text) => Err(Wrong::Identifier(kind)),
            _ => Ok(()),
        }
    }

    /// As [`Self::check_text`], for a part of a path or a query, where numbers are texts too.
    fn check_parameter(self, text: &str) -> Result<(), Wrong> {
        match self {
            Self::Integer if text.parse::<i64>().is_err() => Err(Wrong::Type("an integer")),
            Self::Boolean if !matches!(text, "true" | "false") => Err(Wrong::Type("true or false")),
            Self::Array(items) => items.check_parameter(text),
            other => other.check_text(text),
        }
    }
}

/// Refuses what the specification says cannot be: of the path's parameters, which are given as
/// `arguments`, of the query's, and of the body, which always is an object. 400 M_INVALID_PARAM,
/// M_BAD_JSON or M_NOT_JSON; 404 M_NOT_FOUND where something of a kind is read that there is not.
pub fn check(method: &Method, uri: &Uri, arguments: &[String], body: &[u8]) -> Result<()> {
    let path = behind_version(uri.path());
    let endpoint = path.and_then(|path| ENDPOINTS.iter().find(|endpoint| endpoint.method == method.as_str() && is_at(endpoint.path, path)));
    if let Some(endpoint) = endpoint {
        for (schema, argument) in endpoint.arguments.iter().zip(arguments) {
            schema.check_parameter(argument).map_err(|wrong| match wrong {
                // Whoever asks for one thing of a kind that other servers have is told that there
                // is none. A list of an unknown kind is a mistake.
                Wrong::Choice(_) if method == Method::GET && arguments.len() > 1 => {
                    Error::not_found(format!("Not found: expected {}", wrong.expected()))
                }
                _ => Error::invalid_param(format!("Invalid path: expected {}", wrong.expected())),
            })?;
        }
        check_query(endpoint.query, uri.query().unwrap_or_default())?;
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    body::check(endpoint.map_or(Schema::Object(&[], None), |endpoint| endpoint.body), "The body", body)
}

/// Refuses a filter that is written in a query and no filter; 400 M_BAD_JSON or M_NOT_JSON.
pub fn check_filter(json: &str) -> Result<()> {
    body::check(table::FILTER, "The filter", json.as_bytes())
}

/// As [`check_filter`], for the filter of events of a room.
pub fn check_room_event_filter(json: &str) -> Result<()> {
    body::check(table::ROOM_EVENT_FILTER, "The filter", json.as_bytes())
}

fn check_query(parameters: &[(&str, Schema)], query: &str) -> Result<()> {
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let Some((_, schema)) = parameters.iter().find(|(known, _)| *known == name) else { continue };
        schema.check_parameter(&value).map_err(|wrong| Error::invalid_param(format!("{name} must be {}", wrong.expected())))?;
    }
    Ok(())
}

/// What follows the version of the API in a path. What was a proposal has the proposal's name
/// before it.
fn behind_version(path: &str) -> Option<&str> {
    let behind_name = path.strip_prefix("/_matrix/client/").or_else(|| path.strip_prefix("/_matrix/media/"))?;
    let (version, path) = behind_name.split_once('/')?;
    let proposal = if version == "unstable" { path.split_once('/').filter(|(proposal, _)| proposal.contains('.')) } else { None };
    Some(proposal.map_or(path, |(_, path)| path))
}

/// Whether a path is one of those that `pattern` stands for.
fn is_at(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some("{}"), Some(_)) => {}
            (Some(expected), Some(found)) if expected == found => {}
            _ => return false,
        }
    }
}
