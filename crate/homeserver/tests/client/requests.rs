//! Requests beside the specification: every place of every body, query and path of which its
//! OpenAPI files say what it holds is tried with what it must not hold.

use crate::{
    hostile::{places, sound},
    messages::assert_plain,
    rooms::room,
    support::{Answer, TestServer, TestUser},
};
use ephapse_homeserver::Entrance;
use serde_json::{Map, Value, json};

/// What is said of the requests to each endpoint: written beside the server's own table, from the
/// same files.
const REQUESTS: &str = include_str!("../data/requests.json");

/// A request to an endpoint, filled with what the specification wants.
struct Filled {
    method: String,
    path: String,
    /// What is said of each parameter of the path.
    in_path: Vec<Value>,
    /// The parameters of the query of which something is said.
    in_query: Vec<Value>,
    schema: Value,
    body: Value,
}

impl Filled {
    /// The path with each parameter filled but for one.
    fn path(&self, example: &Example, other: Option<(usize, &str)>) -> String {
        let mut parameters = self.in_path.iter().enumerate().map(|(index, schema)| match other {
            Some((place, value)) if place == index => value.to_owned(),
            _ => match &example.of(schema) {
                Value::String(text) => text.clone(),
                other => panic!("a path with {other}"),
            },
        });
        let fill = |part: &str| match part {
            "{}" => encoded(&parameters.next().expect("of each parameter something is said")),
            part => part.to_owned(),
        };
        self.path.split('/').map(fill).collect::<Vec<_>>().join("/")
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What stands for values of a kind.
struct Example {
    user: String,
    room: String,
    event: String,
}

impl Example {
    fn of(&self, schema: &Value) -> Value {
        let first = |list: &Value| list[0].clone();
        match kind(schema) {
            "any" => json!({}),
            "Null" => Value::Null,
            "Boolean" => false.into(),
            "Integer" | "Number" => 1.into(),
            "UserId" => self.user.as_str().into(),
            "RoomId" | "RoomIdOrAlias" => self.room.as_str().into(),
            "EventId" => self.event.as_str().into(),
            "RoomAlias" => "#nowhere:test.example".into(),
            "ServerName" => "test.example".into(),
            "String" | "DeviceId" => "x".into(),
            "enum" => first(&schema["values"]),
            "either" => self.of(&first(&schema["choices"])),
            "array" => json!([self.of(&schema["items"])]),
            "object" => {
                let known = schema["properties"].as_array().into_iter().flatten();
                let mut object: Map<String, Value> = known.map(|known| (name(known).to_owned(), self.of(&known["value"]))).collect();
                if schema["others"].is_object() {
                    let key = if schema["others"]["key"] == "any" { "x".into() } else { self.of(&json!({ "type": schema["others"]["key"] })) };
                    object.insert(key.as_str().expect("a key is a text").to_owned(), self.of(&schema["others"]["value"]));
                }
                object.into()
            }
            other => panic!("a schema of type {other}"),
        }
    }
}

fn kind(schema: &Value) -> &str {
    schema["type"].as_str().expect("every schema has a type")
}

fn name(property: &Value) -> &str {
    property["name"].as_str().expect("every property has a name")
}

/// A place of a body: where it is, what it holds, and whether null is as good as nothing there.
struct Spot {
    pointer: String,
    schema: Value,
    is_optional: bool,
}

/// Every place of a body that [`Example::of`] made.
fn spots(schema: &Value, body: &Value, at: &str, is_optional: bool, out: &mut Vec<Spot>) {
    out.push(Spot { pointer: at.to_owned(), schema: schema.clone(), is_optional });
    let below = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
    match kind(schema) {
        "array" => spots(&schema["items"], &body[0], &below("0"), false, out),
        "either" => spots_of_choices(schema, body, at, out),
        "object" => {
            let known = schema["properties"].as_array().into_iter().flatten();
            let is_known: Vec<&str> = known.clone().map(name).collect();
            for property in known {
                spots(&property["value"], &body[name(property)], &below(name(property)), property["required"] == false, out);
            }
            for (key, value) in body.as_object().into_iter().flatten().filter(|(key, _)| !is_known.contains(&key.as_str())) {
                spots(&schema["others"]["value"], value, &below(key), false, out);
            }
        }
        _ => {}
    }
}

/// The first choice is the one that stands there.
fn spots_of_choices(schema: &Value, body: &Value, at: &str, out: &mut Vec<Spot>) {
    let mut inner = Vec::new();
    spots(&schema["choices"][0], body, at, false, &mut inner);
    out.extend(inner.into_iter().skip(1));
}

/// The JSON types that a schema allows.
fn types(schema: &Value) -> Vec<&'static str> {
    match kind(schema) {
        "any" => vec!["null", "boolean", "number", "string", "array", "object"],
        "Null" => vec!["null"],
        "Boolean" => vec!["boolean"],
        "Integer" | "Number" => vec!["number"],
        "array" => vec!["array"],
        "object" => vec!["object"],
        "either" => schema["choices"].as_array().into_iter().flatten().flat_map(types).collect(),
        _ => vec!["string"],
    }
}

/// A server, who asks, and every request.
struct Table {
    server: TestServer,
    alice: TestUser,
    example: Example,
    requests: Vec<Filled>,
}

impl Table {
    fn new() -> Self {
        let server = TestServer::new();
        let alice = server.register("alice");
        let room = room(&server, &alice, json!({}));
        let page = server.get(&alice, &format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1")).ok();
        let event = page["chunk"][0]["event_id"].as_str().expect("an event id").to_owned();
        let example = Example { user: alice.id.clone(), room, event };
        let listed: Vec<Value> = serde_json::from_str(REQUESTS).expect("JSON");
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let requests = listed.iter().map(|endpoint| Filled {
            method: text(&endpoint["method"]),
            path: text(&endpoint["full"]),
            in_path: list(&endpoint["inPath"]),
            in_query: list(&endpoint["inQuery"]),
            body: example.of(&endpoint["body"]),
            schema: endpoint["body"].clone(),
        });
        let requests = requests.collect();
        Self { server, alice, example, requests }
    }

    fn with_bodies(&self) -> impl Iterator<Item = &Filled> {
        self.requests.iter().filter(|request| request.method != "GET")
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        self.server.run(self.server.start_raw(method, path, Some(&self.alice.token), &body))
    }

    /// Asserts that what is asked is refused, in plain words.
    #[track_caller]
    fn refuses(&self, errcode: &str, method: &str, path: &str, body: &Value) -> String {
        let answer = self.ask(method, path, body);
        let found = (answer.status, answer.body["errcode"].as_str());
        assert_eq!(found, (400, Some(errcode)), "{method} {path} {body}: {}", answer.body);
        assert_plain(&answer.body);
        answer.body["error"].as_str().unwrap_or_default().to_owned()
    }
}

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];

fn of_type(name: &str) -> Value {
    match name {
        "null" => Value::Null,
        "boolean" => true.into(),
        "number" => 5.into(),
        "string" => "s".into(),
        "array" => json!([]),
        _ => json!({}),
    }
}

/// Whoever sent `["@v:hs","x"]` to kick had kicked `@v:hs`; `[]` and numbers were kept as messages
/// to devices.
#[test]
fn no_place_of_a_body_takes_a_value_of_another_type() {
    let table = Table::new();
    let mut asked = 0;
    for request in table.with_bodies() {
        let path = request.path(&table.example, None);
        let mut all = Vec::new();
        spots(&request.schema, &request.body, "", false, &mut all);
        for spot in &all {
            let allowed = types(&spot.schema);
            for wrong in TYPES.into_iter().filter(|wrong| !(allowed.contains(wrong) || *wrong == "null" && spot.is_optional)) {
                let mut body = request.body.clone();
                *body.pointer_mut(&spot.pointer).expect("a place of this body") = of_type(wrong);
                let message = table.refuses("M_BAD_JSON", &request.method, &path, &body);
                let place = spot.pointer.trim_start_matches('/').replace('/', ".").replace("~1", "/").replace("~0", "~");
                assert!(message.starts_with(if place.is_empty() { "The body must be" } else { &place }), "{message} says nothing of {place}");
                asked += 1;
            }
        }
    }
    assert!(asked > 1000, "{asked}");
}

/// Also where the specification says nothing of a body, but for requests that have none.
#[test]
fn no_endpoint_takes_a_body_that_is_no_object() {
    let table = Table::new();
    let mut asked = 0;
    for (method, pattern) in table.server.hs.endpoints(Entrance::Client).to_vec() {
        // Media are bytes of any kind.
        if method == "GET" || pattern.starts_with("/_matrix/media/") {
            continue;
        }
        let fill = |part: &str| match part {
            "{user_id}" => table.example.user.clone(),
            "{room_id}" | "{room_id_or_alias}" => table.example.room.clone(),
            "{room_alias}" => "%23x:test.example".to_owned(),
            "{event_id}" => table.example.event.clone(),
            "{kind}" => "override".to_owned(),
            "{receipt_type}" => "m.read".to_owned(),
            part if part.starts_with('{') => "x".to_owned(),
            part => part.to_owned(),
        };
        let path = pattern.split('/').map(fill).collect::<Vec<_>>().join("/");
        for wrong in TYPES.into_iter().filter(|wrong| *wrong != "object") {
            table.refuses("M_BAD_JSON", method.as_str(), &path, &of_type(wrong));
            asked += 1;
        }
        table.server.run(table.server.start_raw(method.as_str(), &path, Some(&table.alice.token), "[1, {")).fails(400, "M_NOT_JSON");
    }
    assert!(asked > 200, "{asked}");
}

/// What only ruma's types and handlers know of a body: an array with an object's values, which is
/// what serde's derived types take for the object.
#[test]
fn no_object_is_taken_from_an_array_of_its_values() {
    let table = Table::new();
    let mut asked = 0;
    for (method, path, body) in sound(&table.example.room, &table.example.event) {
        let mut pointers = Vec::new();
        places(&body, "", &mut pointers);
        for pointer in pointers {
            let Some(object) = body.pointer(&pointer).and_then(Value::as_object) else { continue };
            if is_content(&path, &pointer) {
                continue;
            }
            let mut body = body.clone();
            let values = object.values().cloned().collect();
            *body.pointer_mut(&pointer).expect("a place of this body") = Value::Array(values);
            table.refuses("M_BAD_JSON", method, &path, &body);
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked}");
}

/// The content of events and what else is kept as it comes, whatever it is.
fn is_content(path: &str, pointer: &str) -> bool {
    let is_below = |place: &str| pointer.starts_with(place) && pointer != place;
    (path.contains("/send/") || path.contains("/state/")) && !pointer.is_empty()
        || path.ends_with("/createRoom")
            && ["/creation_content", "/power_level_content_override", "/initial_state/0/content"].into_iter().any(is_below)
        // Each key is answered on its own.
        || path.ends_with("/signatures/upload") && pointer.matches('/').count() > 2
        || path.contains("/sendToDevice/") && pointer.matches('/').count() > 3
        || path.contains("/room_keys/") && (is_below("/auth_data") || pointer.contains("/session_data/"))
}

#[test]
fn null_counts_as_absent_in_optional_fields() {
    let table = Table::new();
    let ask = |method, path: &str, body| table.ask(method, &path.replace("{room}", &table.example.room), &body);
    let v3 = "/_matrix/client/v3";
    ask("POST", &format!("{v3}/createRoom"), json!({ "preset": null, "name": null, "topic": null, "room_version": null, "creation_content": null }))
        .ok();
    ask("POST", &format!("{v3}/join/{{room}}"), json!({ "reason": null })).ok();
    ask("POST", &format!("{v3}/user/@alice:test.example/filter"), json!({ "event_fields": null, "room": { "rooms": null } })).ok();
    ask("PUT", &format!("{v3}/presence/@alice:test.example/status"), json!({ "presence": "online", "status_msg": null })).ok();
}

/// `preset: "public"` made a private room, `visibility: "bogus"` too.
#[test]
fn no_value_outside_an_enumeration_is_taken() {
    let table = Table::new();
    let mut asked = 0;
    for request in &table.requests {
        let path = request.path(&table.example, None);
        let mut all = Vec::new();
        spots(&request.schema, &request.body, "", false, &mut all);
        for spot in all.iter().filter(|spot| kind(&spot.schema) == "enum") {
            for wrong in ["", "bogus", "PUBLIC", "m.bogus"] {
                let mut body = request.body.clone();
                *body.pointer_mut(&spot.pointer).expect("a place of this body") = wrong.into();
                let message = table.refuses("M_BAD_JSON", &request.method, &path, &body);
                assert!(message.contains(spot.schema["values"][0].as_str().expect("a text")), "{message}");
                asked += 1;
            }
        }
        for (index, _) in request.in_path.iter().enumerate().filter(|(_, schema)| kind(schema) == "enum") {
            let path = request.path(&table.example, Some((index, "bogus")));
            if request.method == "GET" {
                let answer = table.ask("GET", &path, &request.body);
                assert_eq!((answer.status, answer.body["errcode"].as_str()), (404, Some("M_NOT_FOUND")), "{path}: {}", answer.body);
            } else {
                table.refuses("M_INVALID_PARAM", &request.method, &path, &request.body);
            }
            asked += 1;
        }
        for parameter in &request.in_query {
            let wrong = match kind(&parameter["schema"]) {
                "enum" => "bogus",
                "Boolean" => "1",
                "Integer" => "few",
                _ => continue,
            };
            let path = format!("{path}?{}={wrong}", name(parameter));
            let message = table.refuses("M_INVALID_PARAM", &request.method, &path, &request.body);
            assert!(message.contains(name(parameter)), "{message}");
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked}");
}

/// What cannot be an identifier of a kind.
fn wrong_identifiers(kind: &str) -> Vec<String> {
    let of_domain = |sigil: &str| {
        let domain = |rest: &str| format!("{sigil}{rest}");
        vec![
            domain(""),
            domain("x"),
            domain("x:"),
            domain("x:a b"),
            domain("x:example.org:port"),
            domain("x\u{0}:example.org"),
            domain(&"x".repeat(300)),
        ]
    };
    let mut wrong = match kind {
        "UserId" => of_domain("@"),
        "RoomAlias" => of_domain("#"),
        "RoomIdOrAlias" => [of_domain("#"), vec![format!("!{}", "x".repeat(300)), "@x:example.org".to_owned()]].concat(),
        "RoomId" => vec![format!("!{}", "x".repeat(300)), "!x\u{0}".to_owned(), "#x:example.org".to_owned()],
        "EventId" => vec![format!("${}", "x".repeat(300)), "$x\u{0}".to_owned(), "!x:example.org".to_owned()],
        "DeviceId" => vec!["x".repeat(300), "\u{0}".to_owned()],
        "ServerName" => vec!["a b".to_owned(), ":1".to_owned(), "example.org:port".to_owned(), "x".repeat(300)],
        _ => return Vec::new(),
    };
    if kind != "DeviceId" {
        wrong.push("x y".to_owned());
    }
    wrong
}

#[test]
fn every_endpoint_refuses_the_same_identifiers() {
    let table = Table::new();
    let mut asked = 0;
    for request in &table.requests {
        for (index, schema) in request.in_path.iter().enumerate() {
            for wrong in wrong_identifiers(kind(schema)) {
                let path = request.path(&table.example, Some((index, &wrong)));
                table.refuses("M_INVALID_PARAM", &request.method, &path, &request.body);
                asked += 1;
            }
        }
        if request.method == "GET" {
            continue;
        }
        let path = request.path(&table.example, None);
        let mut all = Vec::new();
        spots(&request.schema, &request.body, "", false, &mut all);
        for spot in &all {
            for wrong in wrong_identifiers(kind(&spot.schema)) {
                let mut body = request.body.clone();
                *body.pointer_mut(&spot.pointer).expect("a place of this body") = wrong.into();
                table.refuses("M_INVALID_PARAM", &request.method, &path, &body);
                asked += 1;
            }
            for wrong in wrong_identifiers(spot.schema["others"]["key"].as_str().unwrap_or_default()) {
                let mut body = request.body.clone();
                let object = body.pointer_mut(&spot.pointer).and_then(Value::as_object_mut).expect("an object of this body");
                let value = table.example.of(&spot.schema["others"]["value"]);
                object.insert(wrong, value);
                table.refuses("M_INVALID_PARAM", &request.method, &path, &body);
                asked += 1;
            }
        }
    }
    assert!(asked > 500, "{asked}");
}

/// `PUT /directory/room/{alias}` made an alias with a space, createRoom refused it.
#[test]
fn create_room_and_the_directory_refuse_the_same_aliases() {
    let table = Table::new();
    for wrong in ["a b", "a\tb", "", "a\u{a0}b", "a\u{0}b"] {
        table.refuses("M_INVALID_PARAM", "POST", "/_matrix/client/v3/createRoom", &json!({ "room_alias_name": wrong }));
        let path = format!("/_matrix/client/v3/directory/room/{}", encoded(&format!("#{wrong}:test.example")));
        table.refuses("M_INVALID_PARAM", "PUT", &path, &json!({ "room_id": table.example.room }));
    }
}

/// The filter of a request is held against the same table as one that is uploaded.
#[test]
fn a_filter_in_a_query_is_checked_as_an_uploaded_one() {
    let table = Table::new();
    let room = &table.example.room;
    let ask = |path: &str, filter: &Value| format!("/_matrix/client/v3/{path}filter={}", encoded(&filter.to_string()));
    let of_sync = [
        json!({ "room": [] }),
        json!({ "room": { "timeline": [] } }),
        json!({ "room": { "timeline": { "types": "x" } } }),
        json!({ "event_format": "bogus" }),
        json!({ "presence": 5 }),
    ];
    for filter in of_sync {
        table.refuses("M_BAD_JSON", "GET", &ask("sync?", &filter), &Value::Null);
        table.refuses("M_BAD_JSON", "POST", "/_matrix/client/v3/user/@alice:test.example/filter", &filter);
    }
    for filter in [json!([]), json!("s"), json!(5), json!({ "types": "x" }), json!({ "types": [5] }), json!({ "lazy_load_members": "true" })] {
        for path in [format!("rooms/{room}/messages?dir=b&"), format!("rooms/{room}/context/{}?", table.example.event)] {
            let answer = table.ask("GET", &ask(&path, &filter), &Value::Null);
            assert_eq!(answer.status, 400, "{path} {filter}: {}", answer.body);
            assert_plain(&answer.body);
        }
    }
}
