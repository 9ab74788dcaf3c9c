//! Signing keys of other servers: known from their names, from what is stored, or fetched
//! (Server-Server API, "Retrieving server keys").
//!
//! A key that was seen once is kept: events of long ago are verified by it. What a server says of
//! its keys now is kept as it said it, for whoever asks this server as a notary.

use super::client::AskError;
use crate::{
    homeserver::Homeserver,
    identity::{KEY_VERSION, key_of_name, looks_like_a_key},
    locks::LockKey,
    tables::{self, Json, ServerKey, ServerKeyDocument},
    time_slice::TimeSlice,
};
use ephapse_events::{Inserted, Pdu, PduError, ReceivedPdu, Verifier};
use ephapse_store::StoreError;
use futures_util::{StreamExt, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    api::federation::discovery::{ServerSigningKeys, get_remote_server_keys_batch, get_server_keys},
    room_version_rules::RoomVersionRules,
    serde::{Base64, Raw},
    signatures::{PublicKeyMap, verify_json},
};
use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    pin::pin,
    rc::Rc,
    time::Duration,
};

/// How far into the future a server can say that its keys are valid, in ms: "Servers MUST use the
/// lesser of this field and 7 days into the future".
const LONGEST_VALIDITY: u64 = 7 * 24 * 60 * 60 * 1000;

/// How long a server is not asked again whose keys could not be had, or not the wanted ones, in ms:
/// it doubles each time. What was only lost on its way is asked for again soon, and whoever names
/// servers in events does not have them asked for each.
const FIRST_RETRY_AFTER: u64 = 1000;
const LAST_RETRY_AFTER: u64 = 60 * 1000;

/// How long a join waits before it asks again for keys that could not be had, and for those of how
/// many servers: of many, most are gone for good.
const ROUND_PAUSE: Duration = Duration::from_secs(2);
const ASKED_AGAIN: usize = ASKED_AT_ONCE;

/// How many servers are asked at once for one batch of events.
const ASKED_AT_ONCE: usize = 16;

/// Servers that are remembered as having failed.
const MOST_FAILED: usize = 4096;

/// Keys that one server may have, old ones too.
const MOST_KEYS: usize = 64;

/// What memory holds of other servers' keys.
#[derive(Default)]
pub struct Keys {
    /// Until when a server is not asked again, in ms, and how often it has failed.
    failed: RefCell<HashMap<OwnedServerName, (u64, u32)>>,
    /// Keys lately used, with what they are good for.
    known: RefCell<HashMap<(OwnedServerName, String), Rc<ServerKey>>>,
    /// What was computed of the keys that sign most.
    verifier: RefCell<Verifier>,
}

/// Keys kept in memory.
const MOST_KNOWN: usize = 4096;

/// Events whose signatures are verified before others go on.
const VERIFIED_AT_ONCE: usize = 32;

/// Some keys of a server.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Whose.
    pub server: OwnedServerName,
    /// Their ids, `ed25519:...`; those of other algorithms are passed over.
    pub key_ids: Vec<String>,
    /// When they have to be good, in ms; none: at any time, as in room versions 1 to 4.
    pub at: Option<u64>,
}

/// The keys that the signatures of some events need.
#[derive(Default)]
pub struct WantedKeys(BTreeMap<OwnedServerName, Wanted>);

impl WantedKeys {
    /// Those that some events need.
    fn of(events: &[ReceivedPdu], rules: &RoomVersionRules) -> Self {
        let mut wanted = Self::default();
        for event in events {
            wanted.add(event, rules);
        }
        wanted
    }

    /// Adds those that an event needs.
    pub fn add(&mut self, event: &ReceivedPdu, rules: &RoomVersionRules) {
        let at = rules.enforce_key_validity.then(|| u64::from(event.unverified().origin_server_ts.get()));
        for server in event.signing_servers().into_iter().flatten() {
            let key_ids = event.key_ids(server);
            let entry = self.0.entry(server.clone()).or_insert_with(|| Wanted { server: server.clone(), key_ids: Vec::new(), at });
            for id in key_ids {
                if entry.key_ids.len() < MOST_KEYS && !entry.key_ids.contains(&id) {
                    entry.key_ids.push(id);
                }
            }
            // The newest decides whether keys are fetched again.
            entry.at = entry.at.max(at);
        }
    }

    /// The same by server.
    pub fn of_servers(self) -> Vec<Wanted> {
        self.0.into_values().collect()
    }
}

/// Keys that signatures are verified by, each until it stops to be good.
#[derive(Debug, Default)]
pub struct KnownKeys {
    keys: PublicKeyMap,
    /// Until when each is good, in ms, by server and id.
    good_until: HashMap<(String, String), u64>,
    /// Until when all of them are.
    all_good_until: Option<u64>,
}

impl KnownKeys {
    fn add(&mut self, server: &ServerName, id: String, key: &[u8], good_until: u64) {
        self.all_good_until = Some(self.all_good_until.map_or(good_until, |until| until.min(good_until)));
        self.good_until.insert((server.to_string(), id.clone()), good_until);
        self.keys.entry(server.to_string()).or_default().insert(id, Base64::new(key.to_vec()));
    }

    /// Those of some servers that are good at a time, in ms.
    pub fn of<'a>(&self, servers: impl Iterator<Item = &'a str>, time: u64) -> Cow<'_, PublicKeyMap> {
        if self.all_good_until.is_none_or(|until| time <= until) {
            return Cow::Borrowed(&self.keys);
        }
        let good = |server: &str| {
            let is_good = |id: &String| self.good_until.get(&(server.to_owned(), id.clone())).is_some_and(|until| time <= *until);
            let keys = self.keys.get(server).into_iter().flatten().filter(|(id, _)| is_good(id));
            (server.to_owned(), keys.map(|(id, key)| (id.clone(), key.clone())).inserted())
        };
        Cow::Owned(servers.map(good).filter(|(_, keys): &(_, BTreeMap<_, _>)| !keys.is_empty()).inserted())
    }

    /// Verifies one event by itself (checks 2 and 3 on receipt of a PDU); for several there is
    /// [`Homeserver::verify_events`].
    ///
    /// # Errors
    /// [`PduError::Signature`], also where a key is missing.
    pub fn verify(&self, event: ReceivedPdu, rules: &RoomVersionRules) -> Result<Pdu, PduError> {
        let keys = self.of_event(&event, rules)?;
        event.verify(&keys, rules)
    }

    /// Those that an event may be signed by: good when its server says it was sent.
    fn of_event(&self, event: &ReceivedPdu, rules: &RoomVersionRules) -> Result<Cow<'_, PublicKeyMap>, PduError> {
        if !rules.enforce_key_validity {
            return Ok(Cow::Borrowed(&self.keys));
        }
        let time = u64::from(event.unverified().origin_server_ts.get());
        Ok(self.of(event.signing_servers()?.iter().map(|server| server.as_str()), time))
    }
}

impl Homeserver {
    /// Those of the wanted keys that there are. What is not known is fetched; a server that cannot
    /// be asked has none.
    pub(crate) async fn server_keys(&self, wanted: Vec<Wanted>) -> Result<KnownKeys, StoreError> {
        let found = stream::iter(wanted).map(|wanted| async move {
            let keys = self.keys_of_server(&wanted).await;
            (wanted.server, keys)
        });
        let mut found = pin!(found.buffer_unordered(ASKED_AT_ONCE));
        let mut all = KnownKeys::default();
        while let Some((server, keys)) = found.next().await {
            for (id, key, good_until) in keys? {
                all.add(&server, id, &key, good_until);
            }
        }
        Ok(all)
    }

    /// Its id, the key, and until when it is good.
    async fn keys_of_server(&self, wanted: &Wanted) -> Result<Vec<(String, [u8; 32], u64)>, StoreError> {
        let server = &*wanted.server;
        // Any other key for a name that says its own is refused, also from a notary.
        let says_its_own = looks_like_a_key(server);
        if says_its_own || server == self.server_name() {
            let key = if says_its_own { key_of_name(server) } else { Some(self.identity.public_key()) };
            return Ok(key.into_iter().map(|key| (format!("ed25519:{KEY_VERSION}"), key.to_bytes(), u64::MAX)).collect());
        }
        let ids: Vec<&String> = wanted.key_ids.iter().filter(|id| id.starts_with("ed25519:")).take(MOST_KEYS).collect();
        let mut keys = self.known_keys(server, &ids).await?;
        // Of several, those that are not known may be the ones of today.
        if !are_good(&keys, ids.len(), wanted.at) {
            self.fetch_keys(server, &ids, wanted.at).await?;
            keys = self.known_keys(server, &ids).await?;
        }
        Ok(keys)
    }

    /// Those of a server's keys that are stored.
    async fn known_keys(&self, server: &ServerName, ids: &[&String]) -> Result<Vec<(String, [u8; 32], u64)>, StoreError> {
        let mut keys = Vec::new();
        for id in ids {
            let key = self.known_key(server, id).await?;
            keys.extend(key.map(|key| ((*id).clone(), key.key, key.good_until())));
        }
        Ok(keys)
    }

    async fn known_key(&self, server: &ServerName, id: &str) -> Result<Option<Rc<ServerKey>>, StoreError> {
        let place = (server.to_owned(), id.to_owned());
        if let Some(key) = self.federation.keys.known.borrow().get(&place) {
            return Ok(Some(key.clone()));
        }
        let Some(key) = tables::SERVER_KEYS.get(self.store(), &place).await?.map(Rc::new) else { return Ok(None) };
        self.federation.keys.remember(place, key.clone());
        Ok(Some(key))
    }

    /// Asks a server for its keys, and where that fails the notaries; what they say is stored.
    async fn fetch_keys(&self, server: &ServerName, ids: &[&String], at: Option<u64>) -> Result<(), StoreError> {
        let _one_at_a_time = self.lock(LockKey::ServerKeys(server.to_owned())).await;
        let is_fetched = are_good(&self.known_keys(server, ids).await?, ids.len(), at);
        // By somebody else meanwhile.
        if is_fetched || self.federation.keys.has_failed(server, self.host.now()) {
            return Ok(());
        }
        let mut fetched = self.keys_by_server(server).await;
        if fetched.is_err() {
            for notary in &self.config.trusted_key_servers {
                match self.keys_by_notary(notary, server).await {
                    Ok(document) => {
                        fetched = Ok(document);
                        break;
                    }
                    Err(error) => tracing::debug!("{notary} does not say the signing keys of {server}: {error}"),
                }
            }
        }
        match fetched {
            Ok(document) => {
                self.store_keys(server, document).await?;
                match are_good(&self.known_keys(server, ids).await?, ids.len(), at) {
                    true => self.federation.keys.answered(server),
                    // It has no such key: whoever makes up ids must not have it asked for each.
                    false => self.federation.keys.failed(server, self.host.now()),
                }
                Ok(())
            }
            Err(error) => {
                tracing::info!("could not fetch the signing keys of {server}: {error}");
                self.federation.keys.failed(server, self.host.now());
                Ok(())
            }
        }
    }

    async fn keys_by_server(&self, server: &ServerName) -> Result<Document, AskError> {
        let answer = self.ask(server, get_server_keys::v2::Request::new()).await?;
        Document::read(&answer.server_key, server).map_err(AskError::Malformed)
    }

    /// What a notary says of a server's keys; its own signature is verified too.
    async fn keys_by_notary(&self, notary: &ServerName, server: &ServerName) -> Result<Document, AskError> {
        let notary_keys = self.keys_by_server(notary).await?;
        let request = get_remote_server_keys_batch::v2::Request::new([(server.to_owned(), BTreeMap::new())].into());
        let answer = self.ask(notary, request).await?;
        let documents = answer.server_keys.iter().filter_map(|raw| {
            let document = Document::read(raw, server).ok()?;
            let signed: CanonicalJsonObject = raw.deserialize_as_unchecked().ok()?;
            verify_signature_of(notary, &notary_keys, &signed).ok()?;
            Some(document)
        });
        let newest = documents.max_by_key(|document| document.keys.valid_until_ts);
        newest.ok_or_else(|| AskError::Malformed(format!("it has no keys of {server} that are signed by both")))
    }

    async fn store_keys(&self, server: &ServerName, document: Document) -> Result<(), StoreError> {
        let now = self.host.now();
        let valid_until = u64::from(document.keys.valid_until_ts.get()).min(now + LONGEST_VALIDITY);
        let current = document.keys.verify_keys.iter().map(|(id, key)| (id, &key.key, None));
        let old = document.keys.old_verify_keys.iter().map(|(id, key)| (id, &key.key, Some(u64::from(key.expired_ts.get()))));
        let keys: Vec<_> = current
            .chain(old)
            .take(MOST_KEYS)
            .filter_map(|(id, key, expired)| {
                let key = key.as_bytes().try_into().ok()?;
                Some(((server.to_owned(), id.to_string()), Rc::new(ServerKey { key, valid_until, expired })))
            })
            .collect();
        let generation = self.begin_reading();
        // Nobody is told of it, and what is lost is fetched again.
        let written = self.aside(|hs| {
            hs.write(generation, |tx| {
                let stored = ServerKeyDocument { json: Json(document.json.clone()), valid_until, fetched: now };
                tables::SERVER_KEY_DOCUMENTS.put(tx, &server.to_owned(), &stored);
                for (place, key) in &keys {
                    tables::SERVER_KEYS.put(tx, place, key);
                }
            })
        });
        written?.visible();
        keys.into_iter().for_each(|(place, key)| self.federation.keys.remember(place, key));
        Ok(())
    }

    /// What a server says of its keys, valid at least until `until` where it can be had, for
    /// whoever asks this server as a notary.
    pub(super) async fn key_document(&self, server: &ServerName, until: u64) -> Result<Option<ServerKeyDocument>, StoreError> {
        let server = server.to_owned();
        // Nobody says more of the future than that: asking again would not bring it.
        let until = until.min(self.host.now() + LONGEST_VALIDITY / 2);
        let stored = tables::SERVER_KEY_DOCUMENTS.get(self.store(), &server).await?;
        let now = self.host.now();
        // What has passed half of its time is asked for again (`POST /_matrix/key/v2/query`).
        let is_fresh = |stored: &ServerKeyDocument| stored.valid_until >= until && now < stored.fetched / 2 + stored.valid_until / 2;
        if stored.as_ref().is_none_or(|stored| !is_fresh(stored)) && !self.federation.keys.has_failed(&server, now) {
            match self.keys_by_server(&server).await {
                Ok(document) => self.store_keys(&server, document).await?,
                Err(_) => self.federation.keys.failed(&server, now),
            }
            return tables::SERVER_KEY_DOCUMENTS.get(self.store(), &server).await;
        }
        Ok(stored)
    }

    /// The keys that the signatures of these events need, where they can be had.
    pub(crate) async fn keys_for(&self, events: &[ReceivedPdu], rules: &RoomVersionRules) -> Result<KnownKeys, StoreError> {
        self.server_keys(WantedKeys::of(events, rules).of_servers()).await
    }

    /// As [`Self::keys_for`], for what will not come again.
    pub(crate) async fn keys_for_state(&self, events: &[ReceivedPdu], rules: &RoomVersionRules) -> Result<KnownKeys, StoreError> {
        self.state_keys(WantedKeys::of(events, rules)).await
    }

    /// The keys that a state's events need: few servers of which there is no key are asked once
    /// more a little later.
    pub(crate) async fn state_keys(&self, wanted: WantedKeys) -> Result<KnownKeys, StoreError> {
        let wanted = wanted.of_servers();
        let keys = self.server_keys(wanted.clone()).await?;
        let without = wanted.iter().filter(|wanted| !keys.keys.contains_key(wanted.server.as_str())).count();
        if without == 0 || without > ASKED_AGAIN {
            return Ok(keys);
        }
        self.host.sleep(ROUND_PAUSE).await;
        self.server_keys(wanted).await
    }

    /// Verifies events of a room: signatures, and content hashes (checks 2 and 3 on receipt of a
    /// PDU). The answers are in their order; of one that is not what its server signed, which
    /// includes that a key is missing, it is [`PduError::Signature`].
    pub(crate) async fn verify_events(&self, events: Vec<ReceivedPdu>, keys: &KnownKeys, rules: &RoomVersionRules) -> Vec<Result<Pdu, PduError>> {
        let slice = TimeSlice::new(&*self.host);
        let mut verified = Vec::with_capacity(events.len());
        let mut events = events.into_iter();
        while events.len() > 0 {
            let some = events.by_ref().take(VERIFIED_AT_ONCE).map(|event| {
                let keys = keys.of_event(&event, rules);
                (event, keys)
            });
            let some: Vec<_> = some.collect();
            slice.spend(some.len());
            verified.extend(ReceivedPdu::verify_all(some, &mut self.federation.keys.verifier.borrow_mut(), rules));
            slice.check().await;
        }
        verified
    }

    /// Verifies an event of a room, by keys that are fetched where they are not known.
    pub(crate) async fn verified(&self, event: ReceivedPdu, rules: &RoomVersionRules) -> Result<Result<Pdu, PduError>, StoreError> {
        let keys = self.keys_for(std::slice::from_ref(&event), rules).await?;
        Ok(self.verify_events(vec![event], &keys, rules).await.pop().expect("one is verified"))
    }
}

/// Whether these keys are all of so many, and good at a time.
fn are_good(keys: &[(String, [u8; 32], u64)], wanted: usize, at: Option<u64>) -> bool {
    keys.len() == wanted && keys.iter().all(|(_, _, good_until)| at.is_none_or(|at| at <= *good_until))
}

impl Keys {
    fn has_failed(&self, server: &ServerName, now: u64) -> bool {
        self.failed.borrow().get(server).is_some_and(|(until, _)| *until > now)
    }

    fn failed(&self, server: &ServerName, now: u64) {
        let mut failed = self.failed.borrow_mut();
        if failed.len() >= MOST_FAILED {
            failed.retain(|_, (until, _)| *until > now);
        }
        let times = failed.get(server).map_or(0, |(_, times)| *times);
        if times > 0 || failed.len() < MOST_FAILED {
            let pause = FIRST_RETRY_AFTER.saturating_mul(1 << times.min(20)).min(LAST_RETRY_AFTER);
            failed.insert(server.to_owned(), (now + pause, times + 1));
        }
    }

    /// It has said the keys that were wanted.
    fn answered(&self, server: &ServerName) {
        self.failed.borrow_mut().remove(server);
    }

    fn remember(&self, place: (OwnedServerName, String), key: Rc<ServerKey>) {
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(place, key);
    }
}

/// Verifies the signature of one server by its keys of now. Others have signed too: a notary signs
/// what it passes on.
fn verify_signature_of(server: &ServerName, keys: &Document, signed: &CanonicalJsonObject) -> Result<(), String> {
    let mut by_server = signed.clone();
    if let Some(CanonicalJsonValue::Object(signatures)) = by_server.get_mut("signatures") {
        signatures.retain(|signer, _| signer == server.as_str());
    }
    let is_signed = by_server.get("signatures").and_then(CanonicalJsonValue::as_object).is_some_and(|signatures| !signatures.is_empty());
    if !is_signed {
        return Err(format!("it is not signed by {server}"));
    }
    verify_json(&[(server.to_string(), keys.current())].into(), &by_server).map_err(|error| error.to_string())
}

/// What a server says of its keys, signed by itself.
struct Document {
    json: String,
    keys: ServerSigningKeys,
}

impl Document {
    /// Reads and verifies it: one of the keys that it lists must have signed it.
    fn read(raw: &Raw<ServerSigningKeys>, server: &ServerName) -> Result<Self, String> {
        let keys = raw.deserialize().map_err(|error| error.to_string())?;
        if keys.server_name != server {
            return Err(format!("it is about {}", keys.server_name));
        }
        let signed: CanonicalJsonObject = raw.deserialize_as_unchecked().map_err(|error| error.to_string())?;
        let document = Self { json: raw.json().get().to_owned(), keys };
        verify_signature_of(server, &document, &signed)?;
        Ok(document)
    }

    fn current(&self) -> BTreeMap<String, Base64> {
        self.keys.verify_keys.iter().map(|(id, key)| (id.to_string(), key.key.clone())).inserted()
    }
}
