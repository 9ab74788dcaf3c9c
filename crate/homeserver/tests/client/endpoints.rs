//! The router beside the specification's list of endpoints: what is implemented, what is missing,
//! and nothing that the specification does not know. And beside its own list, so that no endpoint
//! goes unnoticed.

use crate::support::TestServer;
use ephapse_homeserver::{Entrance, Homeserver};
use std::collections::{BTreeMap, BTreeSet};

/// Every endpoint that a homeserver serves by Matrix 1.19: API, method, path, area, and whether it
/// is deprecated.
const TABLE: &str = include_str!("../data/endpoints.tsv");

/// Every endpoint that the router serves, one on each line, in the order of their paths.
const SERVED: &str = include_str!("../data/served.txt");

/// What is served beside the specification, and why.
const OURS: [(&str, &str, &str); 9] = [
    ("GET", "/_matrix/client/v3/pushrules/global/{}/", "r0 had it, and other servers have it still"),
    ("POST", "/_matrix/client/v3/rooms/{}/redact/{}", "clients of before r0 have no transaction ids"),
    ("POST", "/_matrix/client/v3/rooms/{}/send/{}", "clients of before r0 have no transaction ids"),
    ("GET", "/_matrix/key/v2/query/{}/{}", "servers of before v1.6 name a key"),
    ("GET", "/_matrix/key/v2/server/{}", "servers of before v1.6 name a key"),
    ("PUT", "/_matrix/federation/v1/send_join/{}/{}", "servers of before 2019 know no other"),
    ("PUT", "/_matrix/federation/v1/send_leave/{}/{}", "servers of before 2019 know no other"),
    ("GET", "/_synapse/admin/v1/register", "the ecosystem's tools make accounts so"),
    ("POST", "/_synapse/admin/v1/register", "the ecosystem's tools make accounts so"),
];

/// Every method and path, behind whichever entrance.
fn served(hs: &Homeserver) -> impl Iterator<Item = &(http::Method, &'static str)> {
    [Entrance::Client, Entrance::Peer].into_iter().flat_map(|entrance| hs.endpoints(entrance))
}

/// Path parameters have other names here and there.
fn shape(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
}

#[test]
fn the_router_serves_the_specification_and_little_else() {
    let server = TestServer::new();
    let served: BTreeSet<(String, String)> = served(&server.hs).map(|(method, path)| (method.to_string(), shape(path))).collect();
    let mut specified = BTreeSet::new();
    let mut areas: BTreeMap<(&str, &str), (usize, Vec<String>)> = BTreeMap::new();
    for line in TABLE.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [api, method, path, area, deprecated] = columns[..] else { panic!("a line of another shape: {line}") };
        let endpoint = (method.to_owned(), shape(path));
        let (implemented, missing) = areas.entry((api, area)).or_default();
        if served.contains(&endpoint) {
            *implemented += 1;
        } else {
            missing.push(format!("{method} {path}{}", if deprecated.is_empty() { "" } else { " (deprecated)" }));
        }
        specified.insert(endpoint);
    }
    for ((api, area), (implemented, missing)) in &areas {
        println!("{api}, {area}: {implemented} of {}", implemented + missing.len());
        for endpoint in missing {
            println!("    missing: {endpoint}");
        }
    }
    let implemented: usize = areas.values().map(|(implemented, _)| implemented).sum();
    println!("implemented: {implemented} of {}", specified.len());

    let is_known = |(method, path): &(String, String)| {
        let exists = |path: &str| specified.contains(&(method.clone(), path.to_owned()));
        // The oldest clients say r0; ruma also knows the names endpoints had while they were
        // proposals; and the state key may be left out.
        exists(path)
            || exists(&path.replace("/r0/", "/v3/"))
            || exists(&path.replace("/r0/", "/v1/"))
            || path.contains("/unstable/")
            || path.ends_with("/state/{}")
            || OURS.iter().any(|(our_method, our_path, _)| method == our_method && path.replace("/r0/", "/v3/") == *our_path)
    };
    let unknown: Vec<_> = served.iter().filter(|endpoint| !is_known(endpoint)).collect();
    assert!(unknown.is_empty(), "served, but not in the specification: {unknown:?}");
}

#[test]
fn every_endpoint_that_was_served_is_served() {
    // A route that was dropped would only be counted as missing.
    let server = TestServer::new();
    let served: BTreeSet<(&str, &str)> = served(&server.hs).map(|(method, path)| (*path, method.as_str())).collect();
    let listed: BTreeSet<(&str, &str)> = SERVED.lines().filter_map(|line| line.split_once(' ')).map(|(method, path)| (path, method)).collect();
    let line = |(path, method): &(&str, &str)| format!("{method} {path}\n");
    let gone: String = listed.difference(&served).map(line).collect();
    let new: String = served.difference(&listed).map(line).collect();
    assert!(gone.is_empty() && new.is_empty(), "gone:\n{gone}new, for tests/data/served.txt:\n{new}");
}
