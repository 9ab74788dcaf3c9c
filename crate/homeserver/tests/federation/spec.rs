//! What the specification says of answers to other servers: its OpenAPI files, as `node
//! scripts/answer-schemas.mjs` has put them together.

use crate::support::Answer;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static ENDPOINTS: LazyLock<Vec<Value>> = LazyLock::new(|| serde_json::from_str(include_str!("../data/answers.json")).expect("JSON"));

/// Fails unless an answer is what the specification says of the endpoint and the status; of an
/// error that it says nothing of, unless it has the form of all errors.
#[track_caller]
pub fn check(method: &str, path: &str, answer: &Answer) {
    let endpoint = find(method, path);
    let error = json!({ "type": "object", "properties": { "errcode": { "type": "string" }, "error": { "type": "string" } }, "required": ["errcode", "error"] });
    let schema = match &endpoint["answers"][answer.status.to_string()] {
        Value::Null if answer.status >= 400 => &error,
        schema => schema,
    };
    if let Err(why) = fits(schema, &answer.body) {
        panic!("{method} {path}: {} {}: {why}", answer.status, answer.body);
    }
}

#[track_caller]
fn find(method: &str, path: &str) -> &'static Value {
    let path = path.split('?').next().unwrap_or_default();
    let at = |endpoint: &&Value| endpoint["method"] == method && is_at(endpoint["path"].as_str().expect("a path"), path);
    // One whose path has no parameter there comes before one that has.
    let found = ENDPOINTS.iter().filter(at).min_by_key(|endpoint| endpoint["path"].as_str().map(|path| path.matches('{').count()));
    found.unwrap_or_else(|| panic!("the specification has no {method} {path}"))
}

/// Every operation: method and path, with names in braces.
pub fn operations() -> impl Iterator<Item = (&'static str, &'static str)> {
    ENDPOINTS.iter().map(|endpoint| (endpoint["method"].as_str().expect("a method"), endpoint["path"].as_str().expect("a path")))
}

/// The path of the operation that a path is of.
#[track_caller]
pub fn operation(method: &str, path: &str) -> &'static str {
    find(method, path)["path"].as_str().expect("a path")
}

fn is_at(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(pattern, part)| pattern.starts_with('{') || *pattern == part)
}

/// Whether a value is what a JSON Schema says, as far as those of the answers go.
fn fits(schema: &Value, value: &Value) -> Result<(), String> {
    let Some(schema) = schema.as_object() else {
        return if schema == &Value::Bool(false) { Err(format!("{value} should not be there")) } else { Ok(()) };
    };
    for (keyword, said) in schema {
        let fits = match keyword.as_str() {
            "type" => one_or_many(said).iter().any(|kind| is_type(kind, value)),
            "enum" => said.as_array().is_some_and(|values| values.contains(value)),
            "const" => said == value,
            "pattern" => value.as_str().is_none_or(|text| begins_as(said.as_str().expect("a pattern"), text)),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= said.as_u64().expect("a number")),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= said.as_u64().expect("a number")),
            "required" => value.as_object().is_none_or(|object| one_or_many(said).iter().all(|name| object.contains_key(*name))),
            "allOf" => {
                parts(said).iter().try_for_each(|part| fits(part, value))?;
                true
            }
            "anyOf" => parts(said).iter().any(|part| fits(part, value).is_ok()),
            "oneOf" => parts(said).iter().filter(|part| fits(part, value).is_ok()).count() == 1,
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| fits(said, item))?;
                true
            }
            "properties" | "patternProperties" | "additionalProperties" => {
                value.as_object().map_or(Ok(()), |object| properties_fit(schema, object))?;
                true
            }
            other => panic!("a schema has {other}"),
        };
        if !fits {
            return Err(format!("{value} is not as `{keyword}` says: {said}"));
        }
    }
    Ok(())
}

fn properties_fit(schema: &Map<String, Value>, object: &Map<String, Value>) -> Result<(), String> {
    let none = Map::new();
    let of = |keyword: &str| schema.get(keyword).and_then(Value::as_object).unwrap_or(&none);
    for (name, value) in object {
        let by_name = of("properties").get(name);
        let by_pattern: Vec<&Value> =
            of("patternProperties").iter().filter(|(pattern, _)| begins_as(pattern, name)).map(|(_, schema)| schema).collect();
        let is_additional = by_name.is_none() && by_pattern.is_empty();
        let others = schema.get("additionalProperties").filter(|_| is_additional);
        for schema in by_name.into_iter().chain(by_pattern).chain(others) {
            fits(schema, value).map_err(|why| format!("{name}: {why}"))?;
        }
    }
    Ok(())
}

fn parts(schemas: &Value) -> &[Value] {
    schemas.as_array().expect("schemas")
}

fn one_or_many(names: &Value) -> Vec<&str> {
    names.as_str().map_or_else(|| names.as_array().into_iter().flatten().filter_map(Value::as_str).collect(), |name| vec![name])
}

fn is_type(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("a schema has the type {other}"),
    }
}

/// The patterns of the answers say how a text begins.
fn begins_as(pattern: &str, text: &str) -> bool {
    let beginning = pattern.strip_prefix('^').unwrap_or_else(|| panic!("a schema has the pattern {pattern}")).replace('\\', "");
    text.starts_with(&beginning)
}

#[test]
fn what_is_not_as_the_specification_says_is_found() {
    let schema = json!({
        "type": "object",
        "properties": { "id": { "type": "string", "pattern": "^\\$" }, "many": { "type": "array", "items": { "type": "integer" }, "maxItems": 2 } },
        "additionalProperties": { "allOf": [{ "type": ["string", "null"] }] },
        "required": ["id"],
    });
    for good in [json!({ "id": "$a" }), json!({ "id": "$a", "many": [1, 2], "more": "x", "no": null })] {
        assert_eq!(fits(&schema, &good), Ok(()));
    }
    for bad in [
        json!(1),
        json!({}),
        json!({ "id": 1 }),
        json!({ "id": "a" }),
        json!({ "id": "$a", "many": [1.5] }),
        json!({ "id": "$a", "many": [1, 2, 3] }),
        json!({ "id": "$a", "x": 5 }),
    ] {
        assert!(fits(&schema, &bad).is_err(), "{bad}");
    }
}
