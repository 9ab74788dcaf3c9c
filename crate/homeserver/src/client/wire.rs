//! Requests and responses that ruma's types read or write otherwise than the specification.

pub use crate::json_answer::{Json, Own};
use crate::{push::NewRule, router::parameter};
use ephapse_events::Inserted;
use ruma::{
    OneTimeKeyAlgorithm, OwnedEventId, OwnedRoomId, OwnedUserId, UInt,
    api::{
        IncomingRequest, Metadata,
        auth_scheme::AccessToken,
        client::{
            directory::set_room_visibility,
            message::{get_message_events, send_message_event},
            profile::set_profile_field,
            push::set_pushrule,
            redact::redact_event,
            room::Visibility,
            session::login,
            sync::sync_events::{
                DeviceLists, UnreadNotificationsCount,
                v3::{
                    self as sync_events, GlobalAccountData, InvitedRoom, JoinedRoom, KnockedRoom, LeftRoom, Presence, RoomSummary, State, Timeline,
                    ToDevice,
                },
            },
            typing::create_typing_event,
        },
        error::{DeserializationError, Error as MatrixError},
        metadata,
    },
    events::{AnyRoomAccountDataEvent, AnySyncEphemeralRoomEvent, AnySyncStateEvent, AnySyncTimelineEvent},
    push::{Action, RuleKind},
    serde::Raw,
};
use serde::{Deserialize, Serialize, de};
use serde_json::{Value, json, value::RawValue};
use std::collections::BTreeMap;

/// A request of ruma's that may hold a password for user-interactive authentication; before r0.4
/// the user stood beside it, as some clients still write it. An empty `auth` is none: "It should be
/// left empty, or omitted".
pub struct Confirmed<R>(pub R);

impl<R: Metadata> Metadata for Confirmed<R> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: R::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for Confirmed<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct Body {
            auth: Option<Value>,
        }
        let (parts, body) = request.into_parts();
        let auth = serde_json::from_slice::<Body>(body)?.auth;
        let is_empty = auth.as_ref().and_then(Value::as_object).is_some_and(serde_json::Map::is_empty);
        let rewritten = if is_empty { Some(Value::Null) } else { auth.as_ref().and_then(by_user) };
        let named = match rewritten {
            Some(auth) => {
                let mut body: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body)?;
                body.insert("auth".to_owned(), serde_json::value::to_raw_value(&auth)?);
                Some(serde_json::to_vec(&body)?)
            }
            None => None,
        };
        R::try_from_http_request_inner(http::Request::from_parts(parts, named.as_deref().unwrap_or(body)), path_args).map(Self)
    }
}

/// A password's stage with an `identifier`, if it names the `user` alone.
fn by_user(auth: &Value) -> Option<Value> {
    let mut auth = auth.as_object()?.clone();
    if auth.get("type")? != "m.login.password" || auth.contains_key("identifier") {
        return None;
    }
    let user = auth.remove("user")?;
    auth.insert("identifier".to_owned(), json!({ "type": "m.id.user", "user": user }));
    Some(Value::Object(auth))
}

/// The answer to a sync. Of the rooms in it everything is said that Synapse says, also where it is
/// empty: the specification lets servers leave it out, and clients have come to rely on it.
#[derive(Serialize)]
pub struct Synced {
    next_batch: String,
    #[serde(skip_serializing_if = "SyncedRooms::is_empty")]
    rooms: SyncedRooms,
    #[serde(skip_serializing_if = "Presence::is_empty")]
    presence: Presence,
    #[serde(skip_serializing_if = "GlobalAccountData::is_empty")]
    account_data: GlobalAccountData,
    #[serde(skip_serializing_if = "ToDevice::is_empty")]
    to_device: ToDevice,
    #[serde(skip_serializing_if = "DeviceLists::is_empty")]
    device_lists: DeviceLists,
    device_one_time_keys_count: BTreeMap<OneTimeKeyAlgorithm, UInt>,
    device_unused_fallback_key_types: Option<Vec<OneTimeKeyAlgorithm>>,
}

#[derive(Serialize)]
struct SyncedRooms {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    join: BTreeMap<OwnedRoomId, WholeRoom>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    invite: BTreeMap<OwnedRoomId, InvitedRoom>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    knock: BTreeMap<OwnedRoomId, KnockedRoom>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    leave: BTreeMap<OwnedRoomId, WholeRoom>,
}

/// A room that the user is in or has left; what is `None` belongs to the other.
#[derive(Serialize)]
struct WholeRoom {
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<RoomSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_notifications: Option<UnreadNotificationsCount>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unread_thread_notifications: BTreeMap<OwnedEventId, UnreadNotificationsCount>,
    timeline: WholeTimeline,
    /// Of it and the next only what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Events<AnySyncStateEvent>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_after: Option<Events<AnySyncStateEvent>>,
    account_data: Events<AnyRoomAccountDataEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ephemeral: Option<Events<AnySyncEphemeralRoomEvent>>,
}

#[derive(Serialize)]
struct WholeTimeline {
    limited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    events: Vec<Raw<AnySyncTimelineEvent>>,
}

#[derive(Serialize)]
#[serde(bound = "")]
struct Events<E> {
    events: Vec<Raw<E>>,
}

impl Synced {
    /// `response` as it is written.
    pub fn of(response: sync_events::Response) -> Self {
        let rooms = response.rooms;
        Self {
            next_batch: response.next_batch,
            rooms: SyncedRooms {
                join: rooms.join.into_iter().map(|(id, room)| (id, WholeRoom::joined(room))).inserted(),
                invite: rooms.invite,
                knock: rooms.knock,
                leave: rooms.leave.into_iter().map(|(id, room)| (id, WholeRoom::left(room))).inserted(),
            },
            presence: response.presence,
            account_data: response.account_data,
            to_device: response.to_device,
            device_lists: response.device_lists,
            device_one_time_keys_count: response.device_one_time_keys_count,
            device_unused_fallback_key_types: response.device_unused_fallback_key_types,
        }
    }
}

impl SyncedRooms {
    fn is_empty(&self) -> bool {
        self.join.is_empty() && self.invite.is_empty() && self.knock.is_empty() && self.leave.is_empty()
    }
}

impl WholeRoom {
    fn left(room: LeftRoom) -> Self {
        let LeftRoom { timeline: Timeline { limited, prev_batch, events, .. }, state, account_data, .. } = room;
        let (state, state_after) = match state {
            State::Before(state) => (Some(Events { events: state.events }), None),
            State::After(state) => (None, Some(Events { events: state.events })),
            // `sync` makes no other.
            _ => (None, None),
        };
        Self {
            summary: None,
            unread_notifications: None,
            unread_thread_notifications: BTreeMap::new(),
            timeline: WholeTimeline { limited, prev_batch, events },
            state,
            state_after,
            account_data: Events { events: account_data.events },
            ephemeral: None,
        }
    }

    fn joined(room: JoinedRoom) -> Self {
        let mut shared = LeftRoom::new();
        (shared.timeline, shared.state, shared.account_data) = (room.timeline, room.state, room.account_data);
        Self {
            summary: Some(room.summary),
            unread_notifications: Some(room.unread_notifications),
            unread_thread_notifications: room.unread_thread_notifications,
            ephemeral: Some(Events { events: room.ephemeral.events }),
            ..Self::left(shared)
        }
    }
}

/// `POST /_matrix/client/v3/login`: ruma panics when the body has no `type`.
pub struct Login(pub login::v3::Request);

impl Metadata for Login {
    const METHOD: http::Method = login::v3::Request::METHOD;
    const RATE_LIMITED: bool = login::v3::Request::RATE_LIMITED;
    type Authentication = <login::v3::Request as Metadata>::Authentication;
    type PathBuilder = <login::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = login::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for Login {
    type EndpointError = MatrixError;
    type OutgoingResponse = login::v3::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct HasType {
            #[serde(rename = "type")]
            _type: String,
        }
        serde_json::from_slice::<HasType>(request.body())?;
        login::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`: what is missing or wrong in the body has
/// errors of its own here, so it comes as it was sent.
pub struct SetProfileField {
    /// Whose profile.
    pub user_id: OwnedUserId,
    /// The field.
    pub field: String,
    /// What the body says of it, if anything.
    pub value: Option<Box<RawValue>>,
}

impl Metadata for SetProfileField {
    const METHOD: http::Method = set_profile_field::v3::Request::METHOD;
    const RATE_LIMITED: bool = set_profile_field::v3::Request::RATE_LIMITED;
    type Authentication = <set_profile_field::v3::Request as Metadata>::Authentication;
    type PathBuilder = <set_profile_field::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = set_profile_field::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetProfileField {
    type EndpointError = MatrixError;
    type OutgoingResponse = set_profile_field::v3::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let arguments = de::value::SeqDeserializer::<_, de::value::Error>::new(path_args.iter().copied());
        let (user_id, field): (OwnedUserId, String) = Deserialize::deserialize(arguments)?;
        let mut body: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(request.body())?;
        let value = body.remove(&field);
        Ok(Self { user_id, field, value })
    }
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`: ruma wants `conditions`, which "a
/// rule with no conditions" has not, and ids of rooms and users for rules of theirs.
pub struct SetPushRule {
    /// The rule.
    pub rule: NewRule,
    /// The rule in front of which it goes.
    pub before: Option<String>,
    /// The rule after which it goes.
    pub after: Option<String>,
}

impl Metadata for SetPushRule {
    const METHOD: http::Method = set_pushrule::v3::Request::METHOD;
    const RATE_LIMITED: bool = set_pushrule::v3::Request::RATE_LIMITED;
    type Authentication = <set_pushrule::v3::Request as Metadata>::Authentication;
    type PathBuilder = <set_pushrule::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = set_pushrule::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetPushRule {
    type EndpointError = MatrixError;
    type OutgoingResponse = set_pushrule::v3::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct Simple {
            actions: Vec<Action>,
        }
        let (parts, body) = request.into_parts();
        if let [kind @ ("room" | "sender"), rule_id] = path_args {
            let Simple { actions } = serde_json::from_slice(body)?;
            let place = |name| parameter(parts.uri.query()?, name);
            let rule = NewRule::Simple { kind: (*kind).into(), rule_id: (*rule_id).to_owned(), actions };
            return Ok(Self { rule, before: place("before"), after: place("after") });
        }
        let mut body: BTreeMap<String, Value> = serde_json::from_slice(body)?;
        body.entry("conditions".to_owned()).or_insert_with(|| Value::Array(Vec::new()));
        let body = serde_json::to_vec(&body)?;
        let request = http::Request::from_parts(parts, body.as_slice());
        let request = set_pushrule::v3::Request::try_from_http_request_inner(request, path_args)?;
        Ok(Self { rule: NewRule::Other(request.rule), before: request.before, after: request.after })
    }
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/`
pub struct RulesOfKind {
    /// Which.
    pub kind: RuleKind,
}

metadata! {
    @for RulesOfKind,
    method: GET,
    rate_limited: false,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/pushrules/global/{kind}/",
        1.1 => "/_matrix/client/v3/pushrules/global/{kind}/",
    }
}

impl IncomingRequest for RulesOfKind {
    type EndpointError = MatrixError;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(_: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let arguments = de::value::SeqDeserializer::<_, de::value::Error>::new(path_args.iter().copied());
        let (kind,): (RuleKind,) = Deserialize::deserialize(arguments)?;
        Ok(Self { kind })
    }
}

/// A request of ruma's without the transaction id at the end of its path, as clients of before r0
/// sent it with POST.
pub struct WithoutTxnId<R>(pub R);

metadata! {
    @for WithoutTxnId<send_message_event::v3::Request>,
    method: POST,
    rate_limited: false,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/rooms/{room_id}/send/{event_type}",
        1.1 => "/_matrix/client/v3/rooms/{room_id}/send/{event_type}",
    }
}

metadata! {
    @for WithoutTxnId<redact_event::v3::Request>,
    method: POST,
    rate_limited: false,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/rooms/{room_id}/redact/{event_id}",
        1.1 => "/_matrix/client/v3/rooms/{room_id}/redact/{event_id}",
    }
}

impl<R: IncomingRequest> IncomingRequest for WithoutTxnId<R>
where
    Self: Metadata,
{
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        // Nobody looks at the one that stands in for it.
        let path_args: Vec<&str> = path_args.iter().copied().chain([""]).collect();
        R::try_from_http_request_inner(request, &path_args).map(Self)
    }
}

/// `GET /_matrix/client/v3/rooms/{roomId}/messages`: ruma wants a direction; without one other
/// servers read forwards.
pub struct ReadMessages(pub get_message_events::v3::Request);

impl Metadata for ReadMessages {
    const METHOD: http::Method = get_message_events::v3::Request::METHOD;
    const RATE_LIMITED: bool = get_message_events::v3::Request::RATE_LIMITED;
    type Authentication = <get_message_events::v3::Request as Metadata>::Authentication;
    type PathBuilder = <get_message_events::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = get_message_events::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for ReadMessages {
    type EndpointError = MatrixError;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(mut request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let query = request.uri().query().unwrap_or_default();
        if parameter(query, "dir").is_none() {
            let forwards = format!("{}?dir=f&{query}", request.uri().path());
            // With one parameter more it is as good as the one that was sent.
            *request.uri_mut() = forwards.parse().unwrap_or_else(|_| request.uri().clone());
        }
        get_message_events::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`: ruma wants a `timeout` of whoever
/// types, which the specification does not require.
pub struct SetTyping(pub create_typing_event::v3::Request);

/// How long a user types who does not say, in ms.
const TYPES_FOR: u64 = 30_000;

impl Metadata for SetTyping {
    const METHOD: http::Method = create_typing_event::v3::Request::METHOD;
    const RATE_LIMITED: bool = create_typing_event::v3::Request::RATE_LIMITED;
    type Authentication = <create_typing_event::v3::Request as Metadata>::Authentication;
    type PathBuilder = <create_typing_event::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = create_typing_event::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetTyping {
    type EndpointError = MatrixError;
    type OutgoingResponse = create_typing_event::v3::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let mut body: BTreeMap<String, Value> = serde_json::from_slice(body)?;
        body.entry("timeout".to_owned()).or_insert_with(|| TYPES_FOR.into());
        let body = serde_json::to_vec(&body)?;
        let request = http::Request::from_parts(parts, body.as_slice());
        create_typing_event::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// `PUT /_matrix/client/v3/directory/list/room/{roomId}`: ruma wants a `visibility`, which
/// "defaults to `public`".
pub struct SetVisibility(pub set_room_visibility::v3::Request);

impl Metadata for SetVisibility {
    const METHOD: http::Method = set_room_visibility::v3::Request::METHOD;
    const RATE_LIMITED: bool = set_room_visibility::v3::Request::RATE_LIMITED;
    type Authentication = <set_room_visibility::v3::Request as Metadata>::Authentication;
    type PathBuilder = <set_room_visibility::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = set_room_visibility::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetVisibility {
    type EndpointError = MatrixError;
    type OutgoingResponse = set_room_visibility::v3::Response;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct Body {
            visibility: Option<Visibility>,
        }
        let arguments = de::value::SeqDeserializer::<_, de::value::Error>::new(path_args.iter().copied());
        let (room_id,): (OwnedRoomId,) = Deserialize::deserialize(arguments)?;
        let body: Body = serde_json::from_slice(request.body())?;
        Ok(Self(set_room_visibility::v3::Request::new(room_id, body.visibility.unwrap_or(Visibility::Public))))
    }
}
