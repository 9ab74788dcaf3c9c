//! What a room says of itself to those outside of it, as the directory, hierarchies of spaces and
//! summaries show it; and who outside of it may know of it (Client-Server API, "Published room
//! directory", "Spaces", and `GET /room_summary/{roomIdOrAlias}`).

use crate::{
    homeserver::Homeserver,
    requester::Requester,
    room::{NodeId, Result, RoomInfo},
    tables::{self, MembershipKind, Session},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use ruma::{
    OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, ServerName,
    events::StateEventType::{
        self, RoomAvatar, RoomCanonicalAlias, RoomCreate, RoomEncryption, RoomGuestAccess, RoomHistoryVisibility, RoomJoinRules, RoomName, RoomTopic,
    },
    room_version_rules::AuthorizationRules,
};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{collections::HashMap, rc::Rc};

/// The state that a summary is made of.
const SHOWN: [StateEventType; 9] =
    [RoomCreate, RoomName, RoomTopic, RoomCanonicalAlias, RoomAvatar, RoomJoinRules, RoomHistoryVisibility, RoomGuestAccess, RoomEncryption];

/// Of how many rooms it is told at most that their members may join a restricted one.
const MOST_ALLOWED: usize = 100;
/// How many members are looked at at once.
const PORTION: usize = 256;

/// A room as those outside of it see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSummary {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its main alias.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<OwnedRoomAliasId>,
    /// Its name.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its topic, as plain text.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its picture.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<OwnedMxcUri>,
    /// Its type, such as `m.space`.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// How many have joined it.
    #[serde(default)]
    pub num_joined_members: u64,
    /// Who may join: "When not present, the room is assumed to be `public`."
    #[serde(default = "public")]
    pub join_rule: String,
    /// The rooms whose members may join, where the rule is `restricted` or `knock_restricted`.
    #[serde(default, deserialize_with = "lenient_list", skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    /// Whether everybody may read it.
    #[serde(default)]
    pub world_readable: bool,
    /// Whether guests may join it.
    #[serde(default)]
    pub guest_can_join: bool,
    /// The algorithm that it is encrypted with.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// Its version.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub room_version: Option<String>,
}

/// A value as another server tells it: one that is not what it should be is none.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    Ok(T::deserialize(Value::deserialize(from)?).ok())
}

/// The same of many, each by itself.
fn lenient_list<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    let values = Value::deserialize(from)?;
    Ok(values.as_array().into_iter().flatten().filter_map(|value| T::deserialize(value).ok()).take(MOST_ALLOWED).collect())
}

fn public() -> String {
    "public".to_owned()
}

/// The contents of the events that a summary is made of; of one that is not there or cannot be
/// read, nothing.
struct Contents(HashMap<StateEventType, Value>);

impl Contents {
    async fn read(hs: &Homeserver, room: &RoomInfo, state: NodeId) -> Result<Self> {
        let keys: Vec<_> = SHOWN.into_iter().map(|kind| (kind, String::new())).collect();
        let positions: Vec<_> = hs.state_get(room.nid, state, &keys).await?.into_iter().flatten().collect();
        let events = hs.events_at(room.nid, &positions).await?.into_iter().flatten();
        let content = |json: &str| serde_json::from_str(json).unwrap_or_default();
        Ok(Self(events.filter_map(|event| Some((event.pdu.key()?.0, content(event.pdu.content.get())))).collect()))
    }

    fn of(&self, kind: &StateEventType) -> &Value {
        self.0.get(kind).unwrap_or(&Value::Null)
    }

    /// A string that says something.
    fn text(&self, kind: &StateEventType, property: &str) -> Option<String> {
        self.of(kind)[property].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn parsed<T: DeserializeOwned>(&self, kind: &StateEventType, property: &str) -> Option<T> {
        T::deserialize(self.text(kind, property).map(Value::String)?).ok()
    }

    /// "The plain text topic of the room."
    fn topic(&self) -> Option<String> {
        let content = self.of(&RoomTopic);
        let forms = content["m.topic"]["m.text"].as_array().into_iter().flatten();
        let mut plain = forms.filter(|form| form["mimetype"].as_str().is_none_or(|kind| kind == "text/plain"));
        let plain = plain.find_map(|form| form["body"].as_str()).filter(|text| !text.is_empty());
        plain.map(str::to_owned).or_else(|| self.text(&RoomTopic, "topic"))
    }

    fn allowed_rooms(&self) -> Vec<OwnedRoomId> {
        let allow = self.of(&RoomJoinRules)["allow"].as_array().into_iter().flatten();
        let rooms =
            allow.filter(|allow| allow["type"] == "m.room_membership").filter_map(|allow| OwnedRoomId::try_from(allow["room_id"].as_str()?).ok());
        rooms.take(MOST_ALLOWED).collect()
    }
}

impl RoomSummary {
    /// A room that this server is in, as it is now.
    pub async fn of(hs: &Homeserver, room: &RoomInfo) -> Result<Self> {
        let head = hs.room_head(room.nid).await?;
        let contents = Contents::read(hs, room, NodeId(head.state)).await?;
        // Without one only who is invited may join.
        let join_rule = contents.text(&RoomJoinRules, "join_rule").unwrap_or_else(|| "invite".to_owned());
        let is_restricted = matches!(join_rule.as_str(), "restricted" | "knock_restricted");
        Ok(Self {
            room_id: room.id.clone(),
            canonical_alias: contents.parsed(&RoomCanonicalAlias, "alias"),
            name: contents.text(&RoomName, "name"),
            topic: contents.topic(),
            avatar_url: contents.parsed(&RoomAvatar, "url"),
            room_type: contents.text(&RoomCreate, "type"),
            num_joined_members: head.joined.into(),
            allowed_room_ids: if is_restricted { contents.allowed_rooms() } else { Vec::new() },
            join_rule,
            world_readable: contents.of(&RoomHistoryVisibility)["history_visibility"] == "world_readable",
            guest_can_join: contents.of(&RoomGuestAccess)["guest_access"] == "can_join",
            encryption: contents.text(&RoomEncryption, "algorithm"),
            room_version: Some(room.version.to_string()),
        })
    }

    /// Whether it is a space.
    pub fn is_space(&self) -> bool {
        self.room_type.as_deref() == Some("m.space")
    }

    /// What the directory shows of it.
    pub fn published(self) -> Self {
        Self { allowed_room_ids: Vec::new(), encryption: None, room_version: None, ..self }
    }

    /// Bytes that it takes as JSON, at most roughly.
    pub fn weight(&self) -> usize {
        let texts = [&self.name, &self.topic, &self.room_type, &self.encryption];
        let ids = self.room_id.as_str().len() * (1 + self.allowed_room_ids.len()) + self.avatar_url.as_ref().map_or(0, |url| url.as_str().len());
        512 + ids + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

/// Whether somebody may know of a room: who is in it or may come in, and everybody where everybody
/// may, or may ask to (`GET /rooms/{roomId}/hierarchy`, "The server should return any rooms where
/// at least one of the following conditions is true").
pub async fn may_know(hs: &Homeserver, room: &RoomInfo, summary: &RoomSummary, requester: Option<Requester<'_>>) -> Result<bool> {
    if is_open(summary, Some(&room.rules.authorization)) {
        return Ok(true);
    }
    let allowed: &[OwnedRoomId] = if room.rules.authorization.restricted_join_rule { &summary.allowed_room_ids } else { &[] };
    match requester {
        None => Ok(false),
        Some(Requester::User(session) | Requester::Guest(session)) => {
            Ok(is_asked_in(hs, room, session).await? || is_in_any(hs, allowed, session).await?)
        }
        Some(Requester::Server(server)) => {
            if hs.servers_in(room.nid).await?.contains_key(server) || is_invited(hs, room, server).await? {
                return Ok(true);
            }
            for allowed in known(hs, allowed).await? {
                if hs.servers_in(allowed.nid).await?.contains_key(server) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// As [`may_know`], of a room that this server is not in, by what another server says of it.
pub async fn may_know_of_remote(hs: &Homeserver, summary: &RoomSummary, requester: Option<Requester<'_>>) -> Result<bool> {
    if is_open(summary, None) {
        return Ok(true);
    }
    let Some(session) = requester.and_then(Requester::session) else { return Ok(false) };
    let is_asked_in = match hs.room(&summary.room_id).await? {
        Some(room) => is_asked_in(hs, &room, session).await?,
        None => false,
    };
    Ok(is_asked_in || is_in_any(hs, &summary.allowed_room_ids, session).await?)
}

/// Whether everybody may join a room, ask to, or read it; by the rules of its version, where that
/// is known.
fn is_open(summary: &RoomSummary, rules: Option<&AuthorizationRules>) -> bool {
    let by_join_rule = match summary.join_rule.as_str() {
        "public" => true,
        "knock" => rules.is_none_or(|rules| rules.knocking),
        "knock_restricted" => rules.is_none_or(|rules| rules.knock_restricted_join_rule),
        _ => false,
    };
    by_join_rule || summary.world_readable
}

/// Whether a user is in a room or invited to it.
async fn is_asked_in(hs: &Homeserver, room: &RoomInfo, session: &Session) -> Result<bool> {
    let membership = tables::MEMBERSHIPS.get(hs.store(), &(session.user, room.nid)).await?;
    Ok(membership.is_some_and(|own| matches!(own.kind, MembershipKind::Join | MembershipKind::Invite)))
}

/// Whether a user is in one of these rooms.
async fn is_in_any(hs: &Homeserver, rooms: &[OwnedRoomId], session: &Session) -> Result<bool> {
    for room in known(hs, rooms).await? {
        let membership = tables::MEMBERSHIPS.get(hs.store(), &(session.user, room.nid)).await?;
        if membership.is_some_and(|own| own.kind == MembershipKind::Join) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a user of a server is invited to a room.
async fn is_invited(hs: &Homeserver, room: &RoomInfo, server: &ServerName) -> Result<bool> {
    let slice = TimeSlice::new(&*hs.host);
    let mut range = tables::MEMBERS.range(&(room.nid, MembershipKind::Invite as u8));
    loop {
        let invited = tables::MEMBERS.scan_range(hs.store(), range.clone(), Direction::Forward, PORTION).await?;
        let Some((last, _)) = invited.last() else { return Ok(false) };
        // The first key after it.
        range.start = [&tables::MEMBERS.key(last)[..], &[0]].concat();
        let numbers: Vec<_> = invited.iter().map(|((_, _, user), _)| *user).collect();
        let users = tables::USERS.get_many(hs.store(), &numbers).await?;
        if users.into_iter().flatten().any(|user| user.server_name() == server) {
            return Ok(true);
        }
        slice.step().await;
    }
}

/// Those of `rooms` that are known here.
async fn known(hs: &Homeserver, rooms: &[OwnedRoomId]) -> Result<Vec<Rc<RoomInfo>>> {
    let mut known = Vec::new();
    for id in rooms {
        known.extend(hs.room(id).await?);
    }
    Ok(known)
}
