//! `POST /rooms/{roomId}/upgrade` (Client-Server API, "Room upgrades"): a room of another version
//! that takes the place of one.

use super::{create_room::create_content, member_content};
use crate::{
    aliases,
    error::{Error, Result},
    homeserver::Homeserver,
    room::state_tree::Part,
    room::{self, Draft, Event, NewRoom, NodeId, RoomInfo, Stop, Write},
    router::UserCall,
    tables::{self, Alias, MembershipKind},
};
use ephapse_events::{JsonObject, rules_of};
use ephapse_store::Direction;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedRoomAliasId, OwnedRoomId, RoomId, RoomVersionId, UserId,
    api::client::room::upgrade_room::v3::{Request, Response},
    events::StateEventType,
    room_version_rules::AuthorizationRules,
};
use std::{collections::HashMap, rc::Rc};

/// What the new room begins with as the old one has it, in this order.
const COPIED: [StateEventType; 10] = [
    StateEventType::RoomCanonicalAlias,
    StateEventType::RoomJoinRules,
    StateEventType::RoomHistoryVisibility,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomName,
    StateEventType::RoomTopic,
    StateEventType::RoomAvatar,
    StateEventType::RoomEncryption,
    StateEventType::RoomServerAcl,
    StateEventType::SpaceChild,
];

/// How many bans, and aliases, the new room gets at most.
const MOST: usize = 5_000;

/// The room that is replaced, as its replacement needs to know it.
struct Old {
    room: Rc<RoomInfo>,
    create: JsonObject,
    levels: JsonObject,
    /// Events of the types that are copied, then bans.
    copied: Vec<Rc<Event>>,
    aliases: Vec<(OwnedRoomAliasId, Alias)>,
    published: bool,
}

/// Makes the new room, has its aliases lead to it, and closes the old one.
pub async fn upgrade(call: UserCall, request: Request) -> Result<Response> {
    let hs = &call.hs;
    let (user, generation) = (&call.session.user_id, call.raw.generation);
    let version = request.new_version;
    let rules = rules_of(&version);
    let rules = rules.ok_or_else(|| room::Error::from(room::Refused::UnknownVersion(version.clone())))?;
    hs.room(&request.room_id).await?.ok_or_else(|| Error::not_found("Room not found"))?;
    let (room, _) = hs.joined_room(call.session.user, &request.room_id).await?;
    if !hs.may_send_state(&room, user, StateEventType::RoomTombstone).await? {
        return Err(Error::forbidden("You don't have permission to upgrade this room"));
    }
    let old = read(hs, room).await?;
    let tombstone = |replacement: &RoomId| {
        let body = CanonicalJsonValue::String("This room has been replaced".to_owned());
        let replacement = CanonicalJsonValue::String(replacement.to_string());
        let content: CanonicalJsonObject = [("body".to_owned(), body), ("replacement_room".to_owned(), replacement)].into();
        Draft::state(user.clone(), StateEventType::RoomTombstone, "", content)
    };

    // Before v12 the new room names the event that closes the old one, so that comes first. Who is
    // stopped between the two upgrades again.
    let mut id = None;
    let mut predecessor = CanonicalJsonObject::from([("room_id".to_owned(), CanonicalJsonValue::String(old.room.id.to_string()))]);
    if !rules.authorization.room_create_event_id_as_room_id {
        let new_id = hs.random_room_id();
        let end = |write: &mut Write<'_>| Ok::<_, Stop<Error>>(write.send(tombstone(&new_id))?);
        let end = hs.write_room(&old.room, generation, end).await?;
        predecessor.insert("event_id".to_owned(), CanonicalJsonValue::String(end.pdu.event_id.to_string()));
        id = Some(new_id);
    }
    let ended = id.is_some();

    let mut create = old.create.clone();
    for own in ["creator", "additional_creators"] {
        create.remove(own);
    }
    create.insert("predecessor".to_owned(), CanonicalJsonValue::Object(predecessor));
    let create = create_content(create, &version, Some(&rules), user, &request.additional_creators);
    let replacement = make(&call, &old, id, version, create).await?;

    let close = |write: &mut Write<'_>| {
        if !ended {
            write.send(tombstone(&replacement))?;
        }
        if !old.aliases.is_empty() && old.copied.iter().any(|event| event.pdu.event_type == StateEventType::RoomCanonicalAlias.into()) {
            allowed(write.send(Draft::state(user.clone(), StateEventType::RoomCanonicalAlias, "", JsonObject::default())))?;
        }
        // "Setting both of these to the greater of 50 and users_default + 1"
        let mut levels = old.levels.clone();
        let quiet = level(old.levels.get("users_default")).unwrap_or(0).saturating_add(1).max(50);
        for what in ["events_default", "invite"] {
            let raised = level(old.levels.get(what)).unwrap_or(0).max(quiet);
            levels.insert(what.to_owned(), CanonicalJsonValue::Integer(Int::new_saturating(raised)));
        }
        allowed(write.send(Draft::state(user.clone(), StateEventType::RoomPowerLevels, "", levels)))?;
        tables::PUBLISHED_ROOMS.delete(write.tx, &old.room.nid);
        Ok::<_, Stop<Error>>(())
    };
    hs.write_room(&old.room, hs.store().generation(), close).await?;
    Ok(Response::new(replacement))
}

async fn read(hs: &Homeserver, room: Rc<RoomInfo>) -> Result<Old> {
    let state = NodeId(hs.room_head(room.nid).await?.state);
    let content = async |event_type: StateEventType| -> Result<JsonObject> {
        let event = hs.state_event(room.nid, state, (event_type, String::new())).await?;
        Ok(event.and_then(|event| event.pdu.content_object(&room.rules).ok()).unwrap_or_default())
    };
    let create = content(StateEventType::RoomCreate).await?;
    let levels = content(StateEventType::RoomPowerLevels).await?;
    let is_space = create.get("type").and_then(CanonicalJsonValue::as_str) == Some("m.space");
    let wanted = |(event_type, state_key): &(StateEventType, String)| {
        let number = COPIED.iter().position(|copied| copied == event_type)?;
        let is_child = *event_type == StateEventType::SpaceChild;
        (if is_child { is_space } else { state_key.is_empty() }).then_some(number)
    };
    let entries = hs.state_entries(room.nid, state, Part::WithoutMembers).await?;
    let mut positions: Vec<_> = entries.iter().filter_map(|(key, position)| Some((wanted(key)?, *position))).collect();
    positions.sort_unstable();
    let bans = tables::MEMBERS.scan(hs.store(), &(room.nid, MembershipKind::Ban as u8), Direction::Forward, MOST).await?;
    let positions: Vec<_> = positions.into_iter().map(|(_, position)| position).chain(bans.into_iter().map(|(_, position)| position)).collect();
    let copied = hs.events_at(room.nid, &positions).await?.into_iter().flatten().collect();
    let mut named = Vec::new();
    for alias in aliases::of_room(hs, room.nid).await? {
        named.extend(tables::ALIASES.get(hs.store(), &alias).await?.map(|known| (alias, known)));
    }
    let published = tables::PUBLISHED_ROOMS.get(hs.store(), &room.nid).await?.is_some();
    Ok(Old { room, create, levels, copied, aliases: named, published })
}

/// The new room, with its aliases.
async fn make(call: &UserCall, old: &Old, id: Option<OwnedRoomId>, version: RoomVersionId, create: JsonObject) -> Result<OwnedRoomId> {
    let (hs, creator) = (&call.hs, &call.session.user_id);
    let join = member_content(hs, call.session.user, "join", None).await?;
    let rules = version.rules().expect("it was looked up before");
    let levels = new_levels(old, &create, creator, &rules.authorization);
    let mut users = HashMap::from([(creator.clone(), call.session.user)]);
    for event in old.copied.iter().filter(|event| event.pdu.event_type == StateEventType::RoomMember.into()) {
        let Some(user) = event.pdu.state_key.as_deref().and_then(|user| UserId::parse(user).ok()) else { continue };
        let nid = hs.intern_user(&user).await?;
        users.insert(user, nid);
    }
    let fill = async |write: &mut Write<'_>| -> Result<(), Stop<Error>> {
        write.send(Draft::state(creator.clone(), StateEventType::RoomMember, creator.as_str(), join.clone()))?;
        let set = |levels: &JsonObject| Draft::state(creator.clone(), StateEventType::RoomPowerLevels, "", levels.clone());
        write.send(set(&levels.first))?;
        for event in &old.copied {
            let (event_type, state_key) = (event.pdu.event_type.to_string(), event.pdu.state_key.clone().unwrap_or_default());
            let Ok(content) = event.pdu.content_object(&old.room.rules) else { continue };
            // What the new version does not allow, such as a join rule it does not know, is left.
            allowed(write.send(Draft::state(creator.clone(), event_type.into(), state_key, content)))?;
            write.turn().await;
        }
        if let Some(levels) = &levels.then {
            write.send(set(levels))?;
        }
        let nid = write.room.nid;
        for (alias, known) in &old.aliases {
            tables::ROOM_ALIASES.delete(write.tx, &(old.room.nid, alias.clone()));
            aliases::put(write.tx, alias, nid, known.creator);
        }
        if old.published {
            tables::PUBLISHED_ROOMS.put(write.tx, &nid, &());
        }
        Ok(())
    };
    let events = 4 + old.copied.len();
    let new = NewRoom { creator: creator.clone(), id, version, content: create, users, invitees: HashMap::new(), events };
    // What it stands on is the old room as it was read.
    Ok(hs.create_room(new, hs.store().generation(), fill).await?.id.clone())
}

/// What the rules do not allow is not done.
fn allowed<T>(sent: Result<T, Stop>) -> Result<(), Stop> {
    match sent {
        Ok(_) | Err(Stop::Refused(room::Error::Refused(_))) => Ok(()),
        Err(stop) => Err(stop),
    }
}

/// The power levels of the new room.
struct Levels {
    /// With which its maker can do everything that is copied.
    first: JsonObject,
    /// Those that stay, where they are others.
    then: Option<JsonObject>,
}

fn new_levels(old: &Old, create: &JsonObject, creator: &UserId, rules: &AuthorizationRules) -> Levels {
    let mut levels = as_integers(&old.levels);
    if rules.explicitly_privilege_room_creators {
        // Those who made the room have no level, and must not have one.
        let others = match create.get("additional_creators") {
            Some(CanonicalJsonValue::Array(others)) => others.iter().filter_map(CanonicalJsonValue::as_str).collect(),
            _ => Vec::new(),
        };
        if let Some(CanonicalJsonValue::Object(users)) = levels.get_mut("users") {
            users.retain(|user, _| user != creator.as_str() && !others.contains(&user.as_str()));
        }
        return Levels { first: levels, then: None };
    }
    if old.room.rules.authorization.explicitly_privilege_room_creators || old.levels.is_empty() {
        set_level(&mut levels, creator, 100);
    }
    let events = match levels.get("events") {
        Some(CanonicalJsonValue::Object(events)) => events.values().filter_map(|value| level(Some(value))).max(),
        _ => None,
    };
    let users = match levels.get("users") {
        Some(CanonicalJsonValue::Object(users)) => users.get(creator.as_str()).and_then(|value| level(Some(value))),
        _ => None,
    };
    let of = |name: &str| level(levels.get(name));
    let own = users.or(of("users_default")).unwrap_or(0);
    let needed = [events, of("state_default").or(Some(50)), of("ban").or(Some(50))].into_iter().flatten().max().unwrap_or(50);
    if own >= needed {
        return Levels { first: levels, then: None };
    }
    let mut first = levels.clone();
    set_level(&mut first, creator, needed);
    Levels { first, then: Some(levels) }
}

fn set_level(levels: &mut JsonObject, user: &UserId, level: i64) {
    let users = levels.entry("users".to_owned()).or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    if let CanonicalJsonValue::Object(users) = users {
        users.insert(user.to_string(), CanonicalJsonValue::Integer(Int::new_saturating(level)));
    }
}

/// A power level, which old rooms may have as a string.
fn level(value: Option<&CanonicalJsonValue>) -> Option<i64> {
    match value? {
        CanonicalJsonValue::Integer(level) => Some((*level).into()),
        CanonicalJsonValue::String(level) => level.trim().parse().ok(),
        _ => None,
    }
}

/// Newer versions take no strings for levels.
fn as_integers(levels: &JsonObject) -> JsonObject {
    fn convert(value: &mut CanonicalJsonValue) {
        match value {
            CanonicalJsonValue::Object(map) => map.values_mut().for_each(convert),
            CanonicalJsonValue::String(_) => {
                if let Some(number) = level(Some(value)) {
                    *value = CanonicalJsonValue::Integer(Int::new_saturating(number));
                }
            }
            _ => {}
        }
    }
    let mut levels = levels.clone();
    levels.values_mut().for_each(convert);
    levels
}
