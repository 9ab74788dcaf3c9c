//! What an operator or a page decides about its server.

use crate::glob::{Glob, folded};
use ruma::{OwnedServerName, RoomVersionId, ServerName};
use std::{rc::Rc, time::Duration};

/// Who may register an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Nobody.
    Closed,
    /// Whoever has this token (`m.login.registration_token`).
    Token(String),
    /// Everybody (`m.login.dummy`).
    Open,
}

/// The other servers that this one asks and answers: patterns of their names, in which `*` stands
/// for any characters and `?` for one. A pattern is for the whole name or for its host, so that
/// `evil.example` is also for `evil.example:8448`.
#[derive(Clone, Debug, Default)]
pub struct FederatesWith {
    allowed: Option<Rc<[Glob]>>,
    denied: Rc<[Glob]>,
}

impl FederatesWith {
    /// Servers that match one of `allowed` (all, where there are none), but for those that match
    /// one of `denied`. A pattern that is longer than any name matches nothing.
    pub fn new(allowed: &[String], denied: &[String]) -> Self {
        let globs = |patterns: &[String]| patterns.iter().filter_map(|pattern| Glob::new(pattern)).collect();
        Self { allowed: (!allowed.is_empty()).then(|| globs(allowed)), denied: globs(denied) }
    }

    /// Whether `server` is one of them.
    pub fn includes(&self, server: &ServerName) -> bool {
        let (name, host) = (folded(server.as_str()), folded(server.host()));
        let matches = |patterns: &[Glob]| patterns.iter().any(|pattern| pattern.matches(&name) || pattern.matches(&host));
        self.allowed.as_deref().is_none_or(matches) && !matches(&self.denied)
    }
}

/// The settings of one homeserver.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name to be known by; `None`: the `k51…` name that follows from the node's key. Fixed
    /// when the database is made.
    pub server_name: Option<OwnedServerName>,
    /// Who may register.
    pub registration: Registration,
    /// What an operator's tools have to know to make accounts (`/_synapse/admin/v1/register`);
    /// `None`: there is no such endpoint.
    pub registration_shared_secret: Option<String>,
    /// The version of rooms created without one.
    pub default_room_version: RoomVersionId,
    /// How long a `/sync` is held at most, whatever the client asks.
    pub longest_sync: Duration,
    /// Whether clients that ask too often are answered 429.
    pub rate_limits: bool,
    /// Whether users see who of those they share a room with is there.
    pub presence: bool,
    /// Whether there is federation: other servers are asked, and answered.
    pub federation: bool,
    /// With which other servers.
    pub federates_with: FederatesWith,
    /// Notaries: servers that are asked for the keys of those that do not answer themselves. Empty:
    /// none is asked.
    pub trusted_key_servers: Vec<OwnedServerName>,
    /// The base URL in `/.well-known/matrix/client`; `None`: the one that the request came by,
    /// where it says so.
    pub public_url: Option<String>,
    /// Where a user asks for help when storage is full: a URI, in `admin_contact`.
    pub admin_contact: String,
    /// What clients are told when storage is full: the host knows whether that is a disk or what a
    /// browser grants a site.
    pub storage_full: String,
    /// Bytes that any request's body may have; most endpoints take less.
    pub largest_body: usize,
    /// The largest allowed upload in bytes, unless `Homeserver::set_max_upload` says
    /// another number.
    pub max_upload: u64,
    /// Bytes that all files together may have that one user uploads; `None`: as many as there is
    /// room for.
    pub media_quota: Option<u64>,
    /// Where a user whose files have too many bytes can read about it, a URI: `info_uri` of
    /// `M_USER_LIMIT_EXCEEDED`.
    pub media_quota_info: String,
    /// Bytes that all files together may have that can be had again: of other servers, and
    /// thumbnails. A larger file is not taken from another server.
    pub media_cache: u64,
    /// Whether files are given to users of this server and to other servers only, and not to
    /// whoever knows where they are. A file that came while this was `false` stays open to
    /// everybody.
    pub authenticated_media: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_name: None,
            registration: Registration::Closed,
            registration_shared_secret: None,
            default_room_version: RoomVersionId::V12,
            longest_sync: Duration::from_secs(25),
            rate_limits: true,
            presence: true,
            federation: true,
            federates_with: FederatesWith::default(),
            trusted_key_servers: Vec::new(),
            public_url: None,
            admin_contact: "https://github.com/ephapse/ephapse#storage-is-full".to_owned(),
            storage_full: "Storage is full: leave and forget rooms that you no longer need".to_owned(),
            largest_body: 2 << 20,
            max_upload: 100 << 20,
            media_quota: None,
            media_quota_info: "https://github.com/ephapse/ephapse#storage-is-full".to_owned(),
            media_cache: 1 << 30,
            authenticated_media: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn includes(allowed: &[&str], denied: &[&str], server: &str) -> bool {
        let owned = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        FederatesWith::new(&owned(allowed), &owned(denied)).includes(server.try_into().expect("a name"))
    }

    #[test]
    fn servers_are_allowed_and_denied_by_patterns_of_their_names() {
        for (allowed, denied, server, expected) in [
            (&[][..], &[][..], "one.example", true),
            (&["one.example"], &[], "one.example", true),
            (&["one.example"], &[], "two.example", false),
            (&["ONE.example"], &[], "one.EXAMPLE:8448", true),
            (&["localhost:1"], &[], "localhost:1", true),
            (&["localhost:1"], &[], "localhost:2", false),
            (&["*.example"], &["evil.example"], "good.example", true),
            (&["*.example"], &["evil.example"], "evil.example:8448", false),
            (&["*.example"], &[], "example", false),
            (&[], &["*"], "one.example", false),
            (&[], &["[::1]"], "[::1]:8448", false),
        ] {
            assert_eq!(includes(allowed, denied, server), expected, "{allowed:?} {denied:?} {server}");
        }
        // A pattern that cannot match does not open what it was meant to close.
        assert!(!includes(&[&"a".repeat(300)], &[], "one.example"));
    }
}
