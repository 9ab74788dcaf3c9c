//! Keys of users of other servers (Server-Server API, Device Management, End-to-End encryption).
//!
//! Of users whom somebody here shares a room with, the device list is kept: fetched when it is
//! first asked for or its first EDU comes, changed by the next ones, and fetched again where one of
//! those is missing. It is shown though out of date only while their server does not answer. Of
//! others, and for one-time keys, the server is asked each time.

use super::{
    Error,
    claim::OneTimeKeys,
    cross_signing::checked,
    object,
    query::{Queried, keys_of},
};
use crate::{
    federation::client::{AskError, LARGEST_ANSWER, PeerAuthentication},
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, CachedDeviceList, Change, CrossSigningUse, Json, MembershipKind, UserNid},
    time_slice::TimeSlice,
};
use ephapse_events::Inserted;
use ephapse_store::{Direction, StoreError};
use futures_util::{StreamExt, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::{
        OutgoingRequest,
        federation::{
            device::get_devices::v1 as get_devices,
            keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
            transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
        },
        path_builder::SinglePath,
    },
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde::Deserialize;
use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    pin::pin,
    time::Duration,
};

/// Servers that are asked at once for one request.
const SERVERS_AT_ONCE: usize = 16;
/// Lists that one server is asked for at once.
const LISTS_AT_ONCE: usize = 4;
/// Devices of one user that are kept.
const MOST_DEVICES: usize = 1000;
/// Bytes of the keys of one device.
const LONGEST_KEYS: usize = 64 << 10;
/// How long a server may take, and by how much nobody may make it longer.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_PATIENCE: Duration = Duration::from_secs(30);

/// Servers that did not answer, and why.
pub type Failures = BTreeMap<OwnedServerName, String>;

/// Device lists that are being fetched: the newest version that an EDU has named meanwhile.
#[derive(Default)]
pub struct Fetching(RefCell<HashMap<UserNid, u64>>);

/// Why a list was not fetched.
enum Unfetched {
    Asked(AskError),
    Failed(Error),
}

impl From<StoreError> for Unfetched {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// A user's list as it is kept.
#[derive(PartialEq, Eq)]
struct List {
    devices: BTreeMap<OwnedDeviceId, Json>,
    cross_signing: BTreeMap<CrossSigningUse, Json>,
}

/// Adds the keys of users of other servers to what is `queried` of this one's, as `viewer` may see
/// them; answers which servers could not be asked.
pub async fn query_others(
    hs: &Homeserver,
    viewer: UserNid,
    users: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    patience: Option<Duration>,
    queried: &mut Queried,
) -> Result<Failures, Error> {
    let deadline = deadline(hs, patience);
    let slice = TimeSlice::new(&*hs.host);
    let mut servers: BTreeMap<OwnedServerName, Vec<(&OwnedUserId, &Vec<OwnedDeviceId>)>> = BTreeMap::new();
    for (user, devices) in users.iter().filter(|(user, _)| !hs.is_local(user)) {
        servers.entry(user.server_name().to_owned()).or_default().push((user, devices));
        slice.step().await;
    }
    let asked = stream::iter(servers).map(|(server, users)| async move {
        let answer = of_server(hs, viewer, &server, users, deadline).await;
        (server, answer)
    });
    let mut asked = pin!(asked.buffer_unordered(SERVERS_AT_ONCE));
    let mut failures = Failures::new();
    while let Some((server, answer)) = asked.next().await {
        let (found, failure) = answer?;
        queried.devices.extend(found.devices);
        queried.master.extend(found.master);
        queried.self_signing.extend(found.self_signing);
        failures.extend(failure.map(|failure| (server, failure)));
        slice.step().await;
    }
    Ok(failures)
}

/// Until when servers are asked for one request, in ms: however many it names, it takes no longer.
fn deadline(hs: &Homeserver, patience: Option<Duration>) -> u64 {
    hs.host.now() + patience.unwrap_or(PATIENCE).min(LONGEST_PATIENCE).as_millis() as u64
}

async fn ask_until<R>(hs: &Homeserver, deadline: u64, server: &ServerName, request: R) -> Result<R::IncomingResponse, AskError>
where
    R: OutgoingRequest<PathBuilder = SinglePath, Authentication: PeerAuthentication>,
{
    match deadline.saturating_sub(hs.host.now()) {
        0 => Err(AskError::TimedOut),
        left => hs.ask_within(server, request, Duration::from_millis(left), LARGEST_ANSWER).await,
    }
}

/// The keys of users of one server, and why it could not be asked for some of them.
async fn of_server(
    hs: &Homeserver,
    viewer: UserNid,
    server: &OwnedServerName,
    users: Vec<(&OwnedUserId, &Vec<OwnedDeviceId>)>,
    deadline: u64,
) -> Result<(Queried, Option<String>), Error> {
    let mut found = Queried::default();
    let mut failure = None;
    let (mut kept, mut others) = (Vec::new(), BTreeMap::new());
    for (user, devices) in users {
        match hs.find_user(user).await? {
            Some(nid) if hs.shares_room(nid).await? => kept.push((user, devices, nid)),
            _ => drop(others.insert(user.clone(), devices.clone())),
        }
    }
    let fetched = stream::iter(kept).map(|(user, devices, nid)| async move {
        let current = make_current(hs, viewer, user, nid, deadline).await;
        (user, devices, nid, current)
    });
    let mut fetched = pin!(fetched.buffer_unordered(LISTS_AT_ONCE));
    while let Some((user, devices, nid, current)) = fetched.next().await {
        match current {
            Ok(()) => {}
            Err(Unfetched::Asked(error)) => failure = Some(error.to_string()),
            Err(Unfetched::Failed(error)) => return Err(error),
        }
        // What there is, though it may be out of date.
        if tables::CACHED_DEVICE_LISTS.get(hs.store(), &nid).await?.is_some() {
            let keys = keys_of(hs, nid, user, Some(viewer), devices).await?;
            found.add(viewer, user, keys)?;
        }
    }
    if !others.is_empty() && failure.is_none() {
        match ask_until(hs, deadline, server, get_keys::Request::new(others.clone())).await {
            Ok(answer) => found.add_answer(answer, &others),
            Err(error) => failure = Some(error.to_string()),
        }
    }
    Ok((found, failure))
}

impl Queried {
    fn add(&mut self, viewer: UserNid, user: &OwnedUserId, keys: super::query::UserKeys) -> Result<(), Error> {
        let mut devices = BTreeMap::new();
        for (device, keys) in keys.devices {
            devices.insert(device, keys.shown(Some(viewer))?);
        }
        self.devices.insert(user.clone(), devices);
        self.master.extend(keys.master.map(|key| (user.clone(), key)));
        self.self_signing.extend(keys.self_signing.map(|key| (user.clone(), key)));
        Ok(())
    }

    /// Adds what a server says of those users that it was asked for; malformed keys are left out.
    fn add_answer(&mut self, answer: get_keys::Response, asked: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>) {
        for (user, devices) in answer.device_keys.into_iter().filter(|(user, _)| asked.contains_key(user)) {
            let good = devices.into_iter().filter(|(device, keys)| device_keys(&user, device, keys, None).is_some());
            self.devices.insert(user.clone(), good.inserted());
        }
        let is_good = |user: &OwnedUserId, key: &Raw<CrossSigningKey>, used_for| asked.contains_key(user) && checked(user, used_for, key).is_ok();
        self.master.extend(answer.master_keys.into_iter().filter(|(user, key)| is_good(user, key, CrossSigningUse::Master)));
        self.self_signing.extend(answer.self_signing_keys.into_iter().filter(|(user, key)| is_good(user, key, CrossSigningUse::SelfSigning)));
    }
}

/// Whose keys they say they are.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    device_id: Option<Cow<'a, str>>,
}

/// The keys of a device as they are kept, with the name that its owner gives it: whatever their
/// server says, but for those that claim to be another device's. Clients check the rest.
fn device_keys(user: &UserId, device: &OwnedDeviceId, keys: &Raw<DeviceKeys>, name: Option<&str>) -> Option<CanonicalJsonObject> {
    if keys.json().get().len() > LONGEST_KEYS {
        return None;
    }
    let named: Named<'_> = serde_json::from_str(keys.json().get()).ok()?;
    if named.user_id.is_some_and(|named| named != user.as_str()) || named.device_id.is_some_and(|named| named != device.as_str()) {
        return None;
    }
    let mut keys = object(keys.json().get()).ok()?;
    keys.remove("unsigned");
    if let Some(name) = name {
        let named = [("device_display_name".to_owned(), CanonicalJsonValue::String(name.to_owned()))].into();
        keys.insert("unsigned".to_owned(), CanonicalJsonValue::Object(named));
    }
    Some(keys)
}

fn stored(object: CanonicalJsonObject) -> Json {
    Json(CanonicalJsonValue::Object(object).to_string())
}

impl Homeserver {
    /// Whether a user of another server is in a room that a user of this one is in.
    async fn shares_room(&self, user: UserNid) -> Result<bool, Error> {
        let slice = TimeSlice::new(&*self.host);
        for ((_, room), membership) in tables::MEMBERSHIPS.scan(self.store(), &user, Direction::Forward, usize::MAX).await? {
            if membership.kind == MembershipKind::Join && self.is_resident(room).await.map_err(internal)? {
                return Ok(true);
            }
            slice.step().await;
        }
        Ok(false)
    }

    /// Whether what is kept of a user's list was kept up to date since it was fetched: a room is
    /// shared in which nobody's membership changed since.
    async fn is_current(&self, viewer: UserNid, user: UserNid, list: &CachedDeviceList) -> Result<bool, Error> {
        if list.is_stale {
            return Ok(false);
        }
        let mine = self.user_rooms(viewer).await?;
        let slice = TimeSlice::new(&*self.host);
        let theirs = tables::MEMBERSHIPS.scan(self.store(), &user, Direction::Forward, usize::MAX).await?;
        for ((_, room), theirs) in theirs {
            let mine = mine.get(room);
            let both = mine.iter().chain([&theirs]);
            let since_then = |membership: &tables::Membership| membership.kind == MembershipKind::Join && membership.position <= list.fetched;
            if mine.is_some() && both.into_iter().all(since_then) {
                return Ok(true);
            }
            slice.step().await;
        }
        Ok(false)
    }
}

fn internal(error: crate::room::Error) -> Error {
    error.map(|refused| super::Refused::Invalid(refused.to_string()))
}

/// Fetches a user's list where what is kept is not current.
async fn make_current(hs: &Homeserver, viewer: UserNid, user: &OwnedUserId, nid: UserNid, deadline: u64) -> Result<(), Unfetched> {
    let is_current = async || {
        let list = tables::CACHED_DEVICE_LISTS.get(hs.store(), &nid).await?;
        match &list {
            Some(list) => hs.is_current(viewer, nid, list).await.map_err(Unfetched::Failed),
            None => Ok(false),
        }
    };
    if is_current().await? {
        return Ok(());
    }
    // Others may fetch it meanwhile.
    let _lock = hs.lock(LockKey::DeviceList(user.to_string())).await;
    if is_current().await? {
        return Ok(());
    }
    fetch(hs, user, nid, deadline).await
}

/// Fetches a user's list, for who holds its lock.
async fn fetch(hs: &Homeserver, user: &OwnedUserId, nid: UserNid, deadline: u64) -> Result<(), Unfetched> {
    let fetched = hs.positions.newest();
    hs.federation.device_lists.0.borrow_mut().insert(nid, 0);
    let answer = ask_until(hs, deadline, user.server_name(), get_devices::Request::new(user.clone())).await;
    let newest = hs.federation.device_lists.0.borrow_mut().remove(&nid).unwrap_or_default();
    let answer = answer.map_err(Unfetched::Asked)?;
    if answer.user_id != *user {
        return Err(Unfetched::Asked(AskError::Malformed(format!("it is about {}", answer.user_id))));
    }
    let version = answer.stream_id.into();
    let list = List::of(user, answer);
    keep(hs, user, nid, list, CachedDeviceList { version, fetched, is_stale: newest > version }).await.map_err(Unfetched::Failed)
}

impl List {
    /// What a server says; malformed keys are left out.
    fn of(user: &UserId, answer: get_devices::Response) -> Self {
        let devices = answer.devices.into_iter().take(MOST_DEVICES).filter_map(|device| {
            let keys = device_keys(user, &device.device_id, &device.keys, device.device_display_name.as_deref())?;
            Some((device.device_id, stored(keys)))
        });
        let keys = [(CrossSigningUse::Master, answer.master_key), (CrossSigningUse::SelfSigning, answer.self_signing_key)];
        let cross_signing = keys.into_iter().filter_map(|(used_for, key)| Some((used_for, stored(checked(user, used_for, &key?).ok()?))));
        Self { devices: devices.inserted(), cross_signing: cross_signing.inserted() }
    }

    async fn kept(hs: &Homeserver, user: UserNid) -> Result<Self, StoreError> {
        let devices = tables::DEVICE_KEYS.scan(hs.store(), &user, Direction::Forward, usize::MAX).await?;
        let devices = devices.into_iter().map(|((_, device), keys)| (device, keys)).inserted();
        let mut cross_signing = BTreeMap::new();
        for used_for in [CrossSigningUse::Master, CrossSigningUse::SelfSigning] {
            let key = tables::CROSS_SIGNING_KEYS.get(hs.store(), &(user, used_for as u8)).await?;
            cross_signing.extend(key.map(|key| (used_for, key)));
        }
        Ok(Self { devices, cross_signing })
    }
}

/// Keeps a list in place of the one that was kept. Clients are told where it is another one.
async fn keep(hs: &Homeserver, user: &UserId, nid: UserNid, list: List, row: CachedDeviceList) -> Result<(), Error> {
    let _lock = hs.lock(LockKey::Account(user.to_string())).await;
    let generation = hs.begin_reading();
    let had = tables::CACHED_DEVICE_LISTS.get(hs.store(), &nid).await?.is_some();
    let is_other = List::kept(hs, nid).await? != list;
    hs.user_rooms(nid).await?;
    let kept = hs.write(generation, |tx| {
        tables::CACHED_DEVICE_LISTS.put(tx, &nid, &row);
        if is_other {
            tables::DEVICE_KEYS.delete_all(tx, &nid);
            tables::CROSS_SIGNING_KEYS.delete_all(tx, &nid);
            list.devices.iter().for_each(|(device, keys)| tables::DEVICE_KEYS.put(tx, &(nid, device.clone()), keys));
            list.cross_signing.iter().for_each(|(used_for, key)| tables::CROSS_SIGNING_KEYS.put(tx, &(nid, *used_for as u8), key));
            if had {
                tx.change(Change::DeviceList { user: nid });
            }
        }
    });
    kept?.visible();
    Ok(())
}

/// What changed in the device list of a user, as their server says it.
pub async fn device_list_updated(hs: &Homeserver, update: DeviceListUpdateContent) -> Result<(), Error> {
    let user = &update.user_id;
    let Some(nid) = hs.find_user(user).await? else { return Ok(()) };
    let lock = hs.lock(LockKey::Account(user.to_string())).await;
    let generation = hs.begin_reading();
    let known = tables::CACHED_DEVICE_LISTS.get(hs.store(), &nid).await?;
    if !hs.shares_room(nid).await? {
        return forget(hs, generation, nid, known.is_some());
    }
    let version = u64::from(update.stream_id);
    if let Some(newest) = hs.federation.device_lists.0.borrow_mut().get_mut(&nid) {
        *newest = version.max(*newest);
    }
    let is_known = known.as_ref().is_some_and(|known| !known.is_stale && version <= known.version);
    if is_known {
        return Ok(());
    }
    hs.user_rooms(nid).await?;
    let follows = |known: &CachedDeviceList| !known.is_stale && update.prev_id.iter().all(|previous| u64::from(*previous) == known.version);
    // A list that is full is fetched anew, of which the first are kept.
    let place = (nid, update.device_id.clone());
    let is_known_device = tables::DEVICE_KEYS.get(hs.store(), &place).await?.is_some();
    let has_room = is_known_device || tables::DEVICE_KEYS.scan(hs.store(), &nid, Direction::Forward, MOST_DEVICES).await?.len() < MOST_DEVICES;
    let mut was_stale = false;
    let mut is_gap = false;
    let Some(known) = known else {
        // Nobody here has asked for it yet, who would have to look at it again.
        drop(lock);
        fetch_again(hs, user, nid);
        return Ok(());
    };
    let told = hs.write(generation, |tx| {
        tx.change(Change::DeviceList { user: nid });
        let is_next = !update.prev_id.is_empty() && follows(&known) && has_room;
        was_stale = known.is_stale;
        is_gap = !is_next;
        let version = if is_next { version } else { known.version };
        tables::CACHED_DEVICE_LISTS.put(tx, &nid, &CachedDeviceList { version, is_stale: is_gap, ..known });
        if is_next {
            let keys = update.keys.as_ref().filter(|_| update.deleted != Some(true));
            match keys.and_then(|keys| device_keys(user, &update.device_id, keys, update.device_display_name.as_deref())) {
                Some(keys) => tables::DEVICE_KEYS.put(tx, &place, &stored(keys)),
                None => tables::DEVICE_KEYS.delete(tx, &place),
            }
        }
    });
    told?.visible();
    drop(lock);
    if is_gap && !was_stale {
        fetch_again(hs, user, nid);
    }
    Ok(())
}

/// Fetches a list of which something is missing, or all, once.
fn fetch_again(hs: &Homeserver, user: &OwnedUserId, nid: UserNid) {
    let Some(hs) = hs.me() else { return };
    let user = user.clone();
    hs.clone().host.spawn(Box::pin(async move {
        let _lock = hs.lock(LockKey::DeviceList(user.to_string())).await;
        hs.begin_reading();
        // Somebody may have asked for it meanwhile.
        let is_stale = tables::CACHED_DEVICE_LISTS.get(hs.store(), &nid).await.is_ok_and(|list| list.is_none_or(|list| list.is_stale));
        if !is_stale {
            return;
        }
        match fetch(&hs, &user, nid, deadline(&hs, Some(LONGEST_PATIENCE))).await {
            Ok(()) => {}
            // Whoever asks for it next has it tried again.
            Err(Unfetched::Asked(error)) => tracing::debug!("could not fetch the devices of {user}: {error}"),
            Err(Unfetched::Failed(error)) => tracing::debug!("could not keep the devices of {user}: {error}"),
        }
    }));
}

/// Nobody here shares a room with the user any more: the list is not kept up to date.
fn forget(hs: &Homeserver, generation: u64, user: UserNid, was_kept: bool) -> Result<(), Error> {
    if was_kept {
        let forgotten = hs.write(generation, |tx| {
            tables::CACHED_DEVICE_LISTS.delete(tx, &user);
            tables::DEVICE_KEYS.delete_all(tx, &user);
            tables::CROSS_SIGNING_KEYS.delete_all(tx, &user);
        });
        forgotten?.visible();
    }
    Ok(())
}

/// The cross-signing keys of a user are other ones, as their server says.
pub async fn signing_keys_updated(hs: &Homeserver, update: SigningKeyUpdateContent) -> Result<(), Error> {
    let user = &update.user_id;
    let Some(nid) = hs.find_user(user).await? else { return Ok(()) };
    let given = [(CrossSigningUse::Master, &update.master_key), (CrossSigningUse::SelfSigning, &update.self_signing_key)];
    let mut keys = Vec::new();
    for (used_for, key) in given {
        if let Some(key) = key {
            keys.push((used_for, stored(checked(user, used_for, key)?)));
        }
    }
    let _lock = hs.lock(LockKey::Account(user.to_string())).await;
    let generation = hs.begin_reading();
    let is_kept = tables::CACHED_DEVICE_LISTS.get(hs.store(), &nid).await?.is_some();
    if !hs.shares_room(nid).await? {
        return forget(hs, generation, nid, is_kept);
    }
    let old = List::kept(hs, nid).await?.cross_signing;
    if is_kept && keys.iter().all(|(used_for, key)| old.get(used_for) == Some(key)) {
        return Ok(());
    }
    hs.user_rooms(nid).await?;
    let told = hs.write(generation, |tx| {
        tx.change(Change::DeviceList { user: nid });
        for (used_for, key) in keys.iter().filter(|_| is_kept) {
            tables::CROSS_SIGNING_KEYS.put(tx, &(nid, *used_for as u8), key);
        }
    });
    told?.visible();
    Ok(())
}

/// Adds one-time keys of devices of users of other servers to what is `claimed` of this one's;
/// answers which servers could not be asked.
pub async fn claim_others(
    hs: &Homeserver,
    claims: &BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
    patience: Option<Duration>,
    claimed: &mut BTreeMap<OwnedUserId, OneTimeKeys>,
) -> Result<Failures, Error> {
    let deadline = deadline(hs, patience);
    let slice = TimeSlice::new(&*hs.host);
    let mut servers: BTreeMap<OwnedServerName, claim_keys::OneTimeKeyClaims> = BTreeMap::new();
    for (user, devices) in claims.iter().filter(|(user, _)| !hs.is_local(user)) {
        servers.entry(user.server_name().to_owned()).or_default().insert(user.clone(), devices.clone());
        slice.step().await;
    }
    let asked = stream::iter(servers).map(|(server, claims)| async move {
        let request = claim_keys::Request::new(claims.clone());
        let answer = ask_until(hs, deadline, &server, request).await;
        (server, claims, answer)
    });
    let mut asked = pin!(asked.buffer_unordered(SERVERS_AT_ONCE));
    let mut failures = Failures::new();
    while let Some((server, claims, answer)) = asked.next().await {
        match answer {
            // A server speaks of its own users, and of what it was asked for.
            Ok(answer) => claimed.extend(answer.one_time_keys.into_iter().filter_map(|(user, mut devices)| {
                let asked = claims.get(&user)?;
                devices.retain(|device, _| asked.contains_key(device));
                Some((user, devices))
            })),
            Err(error) => drop(failures.insert(server, error.to_string())),
        }
        slice.step().await;
    }
    Ok(failures)
}
