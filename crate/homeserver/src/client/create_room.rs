//! `POST /_matrix/client/v3/createRoom` (Client-Server API, "Creation"): every event of a new room
//! in one batch.

use super::{canonical, content, invite_content, member_content, object, part_of_event};
use crate::{
    aliases,
    error::{Error, Result},
    locks::LockKey,
    room::{Draft, Invitee, NewRoom, Stop, Write},
    router::UserCall,
    tables,
    time_slice::TimeSlice,
};
use ephapse_events::JsonObject;
use http::StatusCode;
use ruma::{
    CanonicalJsonValue, OwnedUserId, RoomVersionId, UserId,
    api::{
        client::room::{
            Visibility,
            create_room::v3::{Request, Response, RoomPreset},
        },
        error::ErrorKind,
    },
    events::StateEventType,
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::json;
use std::{borrow::Cow, collections::HashMap};

/// Events of `initial_state` and invitations together.
const MOST_EVENTS: usize = 5_000;

/// A state event that a new room gets.
struct Wanted {
    event_type: StateEventType,
    state_key: String,
    /// JSON, as text: objects take far more memory, and there may be thousands.
    content: String,
}

impl Wanted {
    fn new(event_type: StateEventType, content: serde_json::Value) -> Result<Self> {
        Ok(Self { event_type, state_key: String::new(), content: canonical(&object(&content.to_string())?) })
    }
}

/// Makes a room with its first events, in the order of the specification.
pub async fn create_room(call: UserCall, request: Request) -> Result<Response> {
    let hs = &call.hs;
    let creator = call.session.user_id.clone();
    if !request.invite_3pid.is_empty() {
        return Err(Error::new(
            StatusCode::FORBIDDEN,
            ErrorKind::ThreepidDenied,
            "This server does not support invites by email address or phone number",
        ));
    }
    let version = request.room_version.clone().unwrap_or_else(|| hs.config.default_room_version.clone());
    let rules = version.rules();
    if request.initial_state.len() + request.invite.len() > MOST_EVENTS {
        return Err(Error::too_large(format!("Too many events in initial_state and invites: at most {MOST_EVENTS} are allowed")));
    }
    let preset = request.preset.clone().unwrap_or(match request.visibility {
        Visibility::Public => RoomPreset::PublicChat,
        _ => RoomPreset::PrivateChat,
    });
    let trusted: &[OwnedUserId] = if preset == RoomPreset::TrustedPrivateChat { &request.invite } else { &[] };
    let given = request.creation_content.as_ref().map(|content| part_of_event(content.json().get(), rules.as_ref())).transpose()?;
    let create = create_content(given.unwrap_or_default(), &version, rules.as_ref(), &creator, trusted);

    let alias = request.room_alias_name.as_deref().map(|localpart| aliases::local_alias(hs, localpart)).transpose()?;
    let _alias_lock = match &alias {
        Some(alias) => Some(hs.lock(LockKey::Alias(alias.to_string())).await),
        None => None,
    };
    if let Some(alias) = &alias
        && tables::ALIASES.get(hs.store(), alias).await?.is_some()
    {
        return Err(Error::new(StatusCode::BAD_REQUEST, ErrorKind::RoomInUse, format!("Room alias {alias} already taken")));
    }

    let mut wanted = Vec::new();
    let levels = power_levels(&request, &preset, rules.as_ref(), &creator, trusted)?;
    wanted.push(Wanted { event_type: StateEventType::RoomPowerLevels, state_key: String::new(), content: written(&levels) });
    if let Some(alias) = &alias {
        wanted.push(Wanted::new(StateEventType::RoomCanonicalAlias, json!({ "alias": alias }))?);
    }
    let (join_rule, guest_access) = match preset {
        RoomPreset::PublicChat => ("public", "forbidden"),
        _ => ("invite", "can_join"),
    };
    wanted.push(Wanted::new(StateEventType::RoomJoinRules, json!({ "join_rule": join_rule }))?);
    wanted.push(Wanted::new(StateEventType::RoomHistoryVisibility, json!({ "history_visibility": "shared" }))?);
    wanted.push(Wanted::new(StateEventType::RoomGuestAccess, json!({ "guest_access": guest_access }))?);
    let slice = TimeSlice::new(&*hs.host);
    let mut given: Vec<Wanted> = Vec::with_capacity(request.initial_state.len());
    for event in &request.initial_state {
        let event = initial_state(event.json().get(), rules.as_ref())?;
        if event.event_type == StateEventType::RoomCanonicalAlias {
            // Only the alias that is made with the room leads to it.
            let named = aliases::named(&event.content).map_err(|error| Error::unreadable(&error))?;
            let other = named.iter().find(|named| alias.as_ref().is_none_or(|alias| alias.as_str() != named.as_str()));
            other.map_or(Ok(()), |other| Err(aliases::Refused::LeadsElsewhere(other.clone())))?;
        }
        given.push(event);
        slice.check().await;
    }
    // What the client gives itself takes the place of the preset's.
    wanted.retain(|preset| !given.iter().any(|given| given.event_type == preset.event_type && given.state_key == preset.state_key));
    wanted.extend(given);
    if let Some(name) = &request.name {
        wanted.push(Wanted::new(StateEventType::RoomName, json!({ "name": name }))?);
    }
    if let Some(topic) = &request.topic {
        let topic = json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic }] } });
        wanted.push(Wanted::new(StateEventType::RoomTopic, topic)?);
    }

    let join = member_content(hs, call.session.user, "join", None).await?;
    // At hand when the events are made, so that none of many members is asked for then.
    let mut users = HashMap::from([(creator.clone(), call.session.user)]);
    let mut invitees = HashMap::new();
    let mut invites = Vec::new();
    // Other servers are asked once there is a room to ask about.
    let (here, elsewhere): (Vec<_>, Vec<_>) = request.invite.iter().partition(|user| hs.is_local(user) || !hs.asks_others());
    for user in here {
        users.extend(hs.find_account(user).await?.map(|nid| (user.clone(), nid)));
        invitees.insert(user.clone(), hs.invitee(user).await?);
        let mut content = invite_content(hs, user, None).await?;
        if request.is_direct {
            content.insert("is_direct".to_owned(), CanonicalJsonValue::Bool(true));
        }
        invites.push((user.clone(), content));
        slice.step().await;
    }
    for event in wanted.iter().filter(|event| event.event_type == StateEventType::RoomMember) {
        let Ok(user) = UserId::parse(&*event.state_key) else { continue };
        slice.step().await;
        if is_invite(&event.content) {
            let invitee = hs.invitee(&user).await?;
            invitees.insert(user.clone(), invitee);
            if invitee != Invitee::Reached || !hs.is_local(&user) {
                // It will be refused, and nothing of it kept.
                continue;
            }
        }
        let nid = hs.intern_user(&user).await?;
        users.insert(user, nid);
    }
    let fill = async |write: &mut Write<'_>| -> Result<(), Stop<Error>> {
        write.send(Draft::state(creator.clone(), StateEventType::RoomMember, creator.as_str(), join.clone()))?;
        for event in &wanted {
            let draft = Draft::state(
                creator.clone(),
                event.event_type.clone(),
                event.state_key.clone(),
                content(&event.content, &write.room.rules).map_err(Stop::Refused)?,
            );
            write.send(draft).map_err(|stop| invalid_room_state(stop, &event.event_type))?;
            write.turn().await;
        }
        for (user, content) in &invites {
            write.send(Draft::state(creator.clone(), StateEventType::RoomMember, user.as_str(), content.clone()))?;
            write.turn().await;
        }
        let nid = write.room.nid;
        if let Some(alias) = &alias {
            aliases::put(write.tx, alias, nid, call.session.user);
        }
        if request.visibility == Visibility::Public {
            tables::PUBLISHED_ROOMS.put(write.tx, &nid, &());
        }
        Ok(())
    };
    let events = 2 + wanted.len() + invites.len();
    let new = NewRoom { creator: creator.clone(), id: None, version, content: create, users, invitees, events };
    let room = hs.create_room(new, call.raw.generation, fill).await?;
    for user in elsewhere {
        let mut content = invite_content(hs, user, None).await?;
        if request.is_direct {
            content.insert("is_direct".to_owned(), CanonicalJsonValue::Bool(true));
        }
        let draft = Draft::state(creator.clone(), StateEventType::RoomMember, user.as_str(), content);
        // The room is there, and can be used: who could not be invited can be again.
        if let Err(error) = hs.invite_through(&room, hs.begin_reading(), draft, user).await {
            tracing::warn!("could not invite {user} to {}: {error}", room.id);
        }
    }
    Ok(Response::new(room.id.clone()))
}

/// "The server will ensure that events supplied by the client apply": 400 M_INVALID_ROOM_STATE when
/// they do not.
fn invalid_room_state(stop: Stop, event_type: &StateEventType) -> Stop<Error> {
    match stop.into() {
        Stop::Refused(Error::Matrix(error))
            if error.status_code == StatusCode::FORBIDDEN
                || error.status_code == StatusCode::BAD_REQUEST && *event_type == StateEventType::RoomPowerLevels =>
        {
            let message = format!("The {event_type} event is not allowed: {}", Error::Matrix(error));
            Stop::Refused(Error::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidRoomState, message))
        }
        other => other,
    }
}

/// The content of the first event: `given`, and what the version wants. The `trusted` are creators
/// too, where the version has that.
pub(super) fn create_content(
    given: JsonObject,
    version: &RoomVersionId,
    rules: Option<&RoomVersionRules>,
    creator: &OwnedUserId,
    trusted: &[OwnedUserId],
) -> JsonObject {
    let mut content = given;
    content.insert("room_version".to_owned(), CanonicalJsonValue::String(version.to_string()));
    let authorization = rules.map(|rules| &rules.authorization);
    if authorization.is_some_and(|rules| !rules.use_room_create_sender) {
        content.insert("creator".to_owned(), CanonicalJsonValue::String(creator.to_string()));
    } else {
        content.remove("creator");
    }
    // Since v12 trusted users are creators too.
    if !trusted.is_empty() && authorization.is_some_and(|rules| rules.additional_room_creators) {
        let mut all: Vec<String> = match content.get("additional_creators") {
            Some(CanonicalJsonValue::Array(given)) => given.iter().filter_map(|user| user.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        all.extend(trusted.iter().filter(|user| *user != creator).map(ToString::to_string));
        all.sort_unstable();
        all.dedup();
        content.insert("additional_creators".to_owned(), CanonicalJsonValue::Array(all.into_iter().map(CanonicalJsonValue::String).collect()));
    }
    content
}

/// The default levels, then the preset's, then the client's in place of them.
fn power_levels(
    request: &Request,
    preset: &RoomPreset,
    rules: Option<&RoomVersionRules>,
    creator: &OwnedUserId,
    trusted: &[OwnedUserId],
) -> Result<JsonObject> {
    let privileged = rules.is_some_and(|rules| rules.authorization.explicitly_privilege_room_creators);
    let mut users = serde_json::Map::new();
    if !privileged {
        users.extend(trusted.iter().chain([creator]).map(|user| (user.to_string(), json!(100))));
    }
    let levels = json!({
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.history_visibility": 100,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
            "m.room.tombstone": if privileged { 150 } else { 100 },
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": if *preset == RoomPreset::PublicChat { 50 } else { 0 },
    });
    let mut levels = object(&levels.to_string())?;
    let Some(given) = &request.power_level_content_override else { return Ok(levels.into()) };
    let given = part_of_event(given.json().get(), rules)?;
    levels.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(given.part(levels))
}

fn is_invite(content: &str) -> bool {
    #[derive(Deserialize)]
    struct Member<'a> {
        membership: Cow<'a, str>,
    }
    serde_json::from_str::<Member<'_>>(content).is_ok_and(|member| member.membership == "invite")
}

fn written(content: &JsonObject) -> String {
    content.to_json().expect("canonical JSON can be written")
}

fn initial_state(json: &str, rules: Option<&RoomVersionRules>) -> Result<Wanted> {
    let mut event = part_of_event(json, rules)?;
    let Some(CanonicalJsonValue::String(event_type)) = event.remove("type") else {
        return Err(Error::bad_json("An event in initial_state has no type"));
    };
    let state_key = match event.remove("state_key") {
        None => String::new(),
        Some(CanonicalJsonValue::String(state_key)) => state_key,
        Some(_) => return Err(Error::bad_json("A state_key in initial_state is not a string")),
    };
    let Some(CanonicalJsonValue::Object(content)) = event.remove("content") else {
        return Err(Error::bad_json("An event in initial_state has no content"));
    };
    Ok(Wanted { event_type: event_type.into(), state_key, content: written(&event.part(content)) })
}
