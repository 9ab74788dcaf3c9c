//! Memberships in rooms that this server is not in: joins, knocks, leaves and invitations that
//! other servers have to agree to (Server-Server API, "Joining Rooms", "Knocking upon a room",
//! "Leaving Rooms (Rejecting Invites)").

use super::{
    client::{AskError, PATIENCE},
    join_progress::JoinProgress,
    keys::KnownKeys,
    refused::{Refused, RemoteError},
    template::Template,
    told_state::ToldState,
    v1::{Invite, SendJoin, SendLeave, V1, Wrapped},
};
use crate::{
    body::Body,
    homeserver::Homeserver,
    locks::LockKey,
    room::{self, Draft, Event, RoomInfo, StateHere, Stop, Write},
    tables::{self, Json, Session, UserNid},
};
use ephapse_events::{JsonObject, NewPdu, Pdu, ROOM_VERSIONS, ReceivedPdu, rules_of};
use ruma::{
    CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, RoomVersionId, ServerName, UInt,
    UserId,
    api::federation::{
        membership::{
            RawStrippedState, create_invite, create_join_event, create_knock_event, create_leave_event, prepare_join_event, prepare_knock_event,
            prepare_leave_event,
        },
        query::get_room_information,
    },
    events::TimelineEventType,
    room_version_rules::RoomVersionRules,
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::{RawValue, to_raw_value};
use std::{collections::BTreeMap, rc::Rc, time::Duration};

/// How many servers are asked for one membership at most.
const MOST_CANDIDATES: usize = 12;

/// How long a server may take to answer a join: it sends all of the room's state.
const JOIN_PATIENCE: Duration = Duration::from_secs(180);

/// How many events of a state are judged in one decision.
const AT_ONCE: usize = 200;

/// Bytes of the answer to a join that is not read as it comes: of a server of before 2019.
const LARGEST_WRAPPED: usize = 16 << 20;

/// How many stripped state events are kept of an answer.
const MOST_STRIPPED: usize = 100;

/// Bytes of them.
const LARGEST_STRIPPED: usize = 256 << 10;

/// A membership that a user of this server wants in a room that it is not in.
pub struct WantedMembership<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// Who.
    pub user: &'a UserId,
    /// The same by number.
    pub nid: UserNid,
    /// The content of the member event.
    pub content: JsonObject,
    /// Servers that may be in the room, the most likely first.
    pub candidates: Vec<OwnedServerName>,
}

/// A member event that this server has signed, of a room of this version, and who said what it
/// should be.
struct Signed {
    server: OwnedServerName,
    version: RoomVersionId,
    rules: RoomVersionRules,
    pdu: Pdu,
}

impl Homeserver {
    /// Servers that may be in a room, without this one: those that were named, then the one that
    /// the room's id names.
    pub(crate) fn candidates(&self, room: &RoomId, named: impl IntoIterator<Item = OwnedServerName>) -> Vec<OwnedServerName> {
        let mut candidates: Vec<OwnedServerName> = Vec::new();
        for server in named.into_iter().chain(room.server_name().map(ToOwned::to_owned)) {
            if server != self.server_name() && !candidates.contains(&server) && candidates.len() < MOST_CANDIDATES {
                candidates.push(server);
            }
        }
        candidates
    }

    /// Joins a room through another server.
    ///
    /// # Errors
    /// [`Refused`]: who was asked last, and what it said.
    pub(crate) async fn join_through(&self, wanted: &WantedMembership<'_>) -> Result<(), RemoteError> {
        let mut last = None;
        for server in &wanted.candidates {
            match self.join_through_server(server, wanted).await {
                Ok(()) => return Ok(()),
                Err(RemoteError::Refused(Refused::Server { server, error })) => {
                    tracing::info!("could not join {} through {server}: {error}", wanted.room);
                    let is_final = is_final(&error);
                    last = Some((server, error));
                    if is_final {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Refused::of(wanted.room, last).into())
    }

    async fn join_through_server(&self, server: &ServerName, wanted: &WantedMembership<'_>) -> Result<(), RemoteError> {
        let progress = self.federation.joins.begin(wanted.room, server);
        let of_server = |error: AskError| Refused::Server { server: server.to_owned(), error };
        let mut request = prepare_join_event::v1::Request::new(wanted.room.to_owned(), wanted.user.to_owned());
        request.ver = ROOM_VERSIONS.to_vec();
        let answer = self.ask(server, request).await.map_err(of_server)?;
        let signed = self.sign_template(server, wanted, answer.room_version, &answer.event, "join")?;
        let request = create_join_event::v2::Request::new(wanted.room.to_owned(), signed.pdu.event_id.clone(), raw(&signed.pdu));
        let read = async |body| ToldState::read(self, wanted.room, &signed.rules, body, &progress).await;
        let told = match self.ask_and_read(server, request, JOIN_PATIENCE, &read).await {
            Err(error) if error.is_unrecognized() => {
                let request: V1<SendJoin> = V1::new(wanted.room.to_owned(), signed.pdu.event_id.clone(), raw(&signed.pdu));
                let told: Result<Wrapped<Box<RawValue>>, _> = self.ask_for(server, request, JOIN_PATIENCE, LARGEST_WRAPPED).await;
                read(Body::from(told.map_err(of_server)?.1.get().to_owned())).await.map_err(of_server)?
            }
            told => told.map_err(of_server)?,
        };
        let join = self.signed_join(&signed, told.join.as_deref()).await?;
        self.enter_room(wanted.room, signed, told, join, &progress).await
    }

    /// Signs what another server says a member event should be.
    fn sign_template(
        &self,
        server: &ServerName,
        wanted: &WantedMembership<'_>,
        version: Option<RoomVersionId>,
        template: &RawValue,
        membership: &str,
    ) -> Result<Signed, RemoteError> {
        let version = version.unwrap_or(RoomVersionId::V1);
        let unknown = || room::Refused::UnknownVersion(version.clone());
        let rules = rules_of(&version).ok_or_else(|| Refused::Room(unknown()))?;
        let template = Template::read(template, wanted.room, wanted.user, membership).map_err(|reason| Refused::malformed(server, reason))?;
        let content = wanted.content.clone();
        let (name, key) = (self.server_name(), self.identity.key_pair());
        let pdu = template.sign(content, self.host.now(), self.random_string(18), name, key, &rules);
        let pdu = pdu.map_err(|error| Refused::malformed(server, error.to_string()))?;
        Ok(Signed { server: server.to_owned(), version, rules, pdu })
    }

    /// The join as the other server has signed it too, where it had to.
    async fn signed_join(&self, signed: &Signed, theirs: Option<&RawValue>) -> Result<Pdu, RemoteError> {
        let Some(theirs) = theirs else { return Ok(signed.pdu.clone()) };
        let Ok(received) = ReceivedPdu::parse(theirs.get().as_bytes(), &signed.rules) else { return Ok(signed.pdu.clone()) };
        if received.unverified().event_id != signed.pdu.event_id {
            return Err(Refused::malformed(&signed.server, "the join is another event than the one that was sent").into());
        }
        let verified = self.verified(received, &signed.rules).await?;
        Ok(verified.map_err(|error| Refused::malformed(&signed.server, error.to_string()))?)
    }

    /// Takes in a room in the state that another server tells, with a join that it has accepted.
    async fn enter_room(&self, id: &RoomId, signed: Signed, mut told: ToldState, join: Pdu, progress: &JoinProgress<'_>) -> Result<(), RemoteError> {
        let Signed { server, version, rules, .. } = signed;
        let keys = self.state_keys(told.wanted_keys()).await?;
        let said = told.create(&keys, &rules).as_ref().map(version_of);
        if said.as_ref() != Some(&version) {
            return Err(Refused::malformed(&server, format!("the room is not of version {version}")).into());
        }
        let room = self.room_or_new(id, &version).await?;
        let state = self.add_told_state(&room, told, &keys, progress).await?;
        let generation = self.begin_reading();
        let enter = |write: &mut Write<'_>| write.enter(&state, join.clone());
        match self.write_room(&room, generation, enter).await {
            Ok(_) => Ok(()),
            Err(room::Error::Refused(refused)) => Err(Refused::malformed(&server, refused.to_string()).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the events of a state that a server tells, as far as they can be verified.
    async fn add_told_state(
        &self,
        room: &Rc<RoomInfo>,
        told: ToldState,
        keys: &KnownKeys,
        progress: &JoinProgress<'_>,
    ) -> Result<Rc<StateHere>, RemoteError> {
        let mut events = told.into_events(&room.rules);
        let mut state = StateHere::default();
        loop {
            let (pdus, are_state): (Vec<Pdu>, Vec<bool>) = events.next(self, AT_ONCE, keys).await.into_iter().unzip();
            if pdus.is_empty() {
                return Ok(Rc::new(state));
            }
            let added = self.add_some_outliers(room, &pdus).await?;
            progress.has_kept(pdus.len());
            for event in added.into_iter().zip(are_state).filter_map(|(event, is_state)| event.filter(|_| is_state)) {
                state.add(&event);
            }
        }
    }

    /// Those of some events of a room whose signatures and hashes are good; each only once.
    pub(crate) async fn verified_events(&self, mut received: Vec<ReceivedPdu>, rules: &RoomVersionRules) -> Result<Vec<Pdu>, RemoteError> {
        let keys = self.keys_for_state(&received, rules).await?;
        let mut seen = std::collections::HashSet::with_capacity(received.len());
        received.retain(|event| seen.insert(event.unverified().event_id.clone()));
        let ids: Vec<OwnedEventId> = received.iter().map(|event| event.unverified().event_id.clone()).collect();
        let mut verified = Vec::with_capacity(ids.len());
        for (id, event) in ids.into_iter().zip(self.verify_events(received, &keys, rules).await) {
            match event {
                Ok(pdu) => verified.push(pdu),
                Err(error) => tracing::info!("{id} is left out: {error}"),
            }
        }
        Ok(verified)
    }

    /// Keeps verified events of a room as outliers, each after those that allow it. One whose auth
    /// events are not here is left out.
    pub(crate) async fn add_outliers(&self, room: &Rc<RoomInfo>, events: Vec<Pdu>) -> Result<(), RemoteError> {
        for events in events.chunks(AT_ONCE) {
            self.add_some_outliers(room, events).await?;
        }
        Ok(())
    }

    /// The same in one decision; of each event answers how it is kept.
    async fn add_some_outliers(&self, room: &Rc<RoomInfo>, events: &[Pdu]) -> Result<Vec<Option<Rc<Event>>>, RemoteError> {
        let generation = self.begin_reading();
        let add = |write: &mut Write<'_>| {
            write.look_up_outliers(events)?;
            let add = |event: &Pdu| match write.add_outlier(event.clone()) {
                Ok(event) => Ok(Some(event)),
                Err(Stop::Refused(room::Error::Refused(refused))) => {
                    tracing::info!("{} is left out: {refused}", event.event_id);
                    Ok(None)
                }
                Err(stop) => Err(stop),
            };
            events.iter().map(add).collect::<Result<Vec<_>, Stop>>()
        };
        Ok(self.write_room(room, generation, add).await?)
    }

    /// The room of an id; where it is not known, it is noted, without anything in it. One of which
    /// nothing is here yet has the version that was said last: who said the other one may have
    /// lied.
    ///
    /// # Errors
    /// [`room::Refused::OfVersion`] for a room that is here and has another version.
    pub(crate) async fn room_or_new(&self, id: &RoomId, version: &RoomVersionId) -> Result<Rc<RoomInfo>, RemoteError> {
        let _one_at_a_time = self.lock(LockKey::NewRoom(id.to_owned())).await;
        match self.room(id).await? {
            Some(room) if room.version == *version => Ok(room),
            Some(room) => Ok(self.renote_room(&room, version, self.begin_reading()).await?),
            None => Ok(self.note_room(id, version, self.begin_reading()).await?),
        }
    }

    /// Knocks on a room through another server.
    ///
    /// # Errors
    /// As [`Self::join_through`].
    pub(crate) async fn knock_through(&self, wanted: &WantedMembership<'_>) -> Result<(), RemoteError> {
        let knock = async |server: &ServerName| {
            let mut request = prepare_knock_event::v1::Request::new(wanted.room.to_owned(), wanted.user.to_owned());
            request.ver = ROOM_VERSIONS.to_vec();
            let answer = self.ask(server, request).await?;
            Ok((server.to_owned(), answer))
        };
        let (server, answer) = self.ask_any(&wanted.candidates, knock, is_final).await.map_err(|last| Refused::of(wanted.room, last))?;
        let signed = self.sign_template(&server, wanted, Some(answer.room_version), &answer.event, "knock")?;
        let request = create_knock_event::v1::Request::new(wanted.room.to_owned(), signed.pdu.event_id.clone(), raw(&signed.pdu));
        let answer = self.ask(&server, request).await.map_err(|error| Refused::Server { server: server.clone(), error })?;
        let stripped = stripped(answer.knock_room_state);
        let room = self.room_or_new(wanted.room, &signed.version).await?;
        self.add_membership(&room, wanted.nid, signed.pdu, Some(stripped)).await
    }

    /// Leaves a room that this server is not in: refuses an invitation, or takes back a knock.
    ///
    /// # Errors
    /// As [`Self::join_through`].
    pub(crate) async fn leave_through(&self, wanted: &WantedMembership<'_>) -> Result<(), RemoteError> {
        let leave = async |server: &ServerName| {
            let answer = self.ask(server, prepare_leave_event::v1::Request::new(wanted.room.to_owned(), wanted.user.to_owned())).await?;
            Ok((server.to_owned(), answer))
        };
        let (server, answer) = self.ask_any(&wanted.candidates, leave, |_| false).await.map_err(|last| Refused::of(wanted.room, last))?;
        let signed = self.sign_template(&server, wanted, answer.room_version, &answer.event, "leave")?;
        let request = create_leave_event::v2::Request::new(wanted.room.to_owned(), signed.pdu.event_id.clone(), raw(&signed.pdu));
        let answer = match self.ask_within(&server, request, PATIENCE, 1 << 20).await {
            Err(error) if error.is_unrecognized() => {
                let request: V1<SendLeave> = V1::new(wanted.room.to_owned(), signed.pdu.event_id.clone(), raw(&signed.pdu));
                self.ask_for(&server, request, PATIENCE, 1 << 20).await.map(|_: Wrapped<IgnoredAny>| ())
            }
            answer => answer.map(|_| ()),
        };
        answer.map_err(|error| Refused::Server { server: server.clone(), error })?;
        let room = self.room_or_new(wanted.room, &signed.version).await?;
        self.add_membership(&room, wanted.nid, signed.pdu, None).await
    }

    /// Invites a user of another server, which has to agree.
    ///
    /// # Errors
    /// What [`Write::prepare`] refuses, and what the other server says.
    pub(crate) async fn invite_through(
        self: &Rc<Self>,
        room: &Rc<RoomInfo>,
        generation: u64,
        draft: Draft,
        user: &UserId,
    ) -> Result<Rc<Event>, RemoteError> {
        let server = user.server_name();
        let sender = draft.sender.clone();
        let prepare = |write: &mut Write<'_>| write.prepare(draft.clone());
        let (pdu, before) = self.write_room(room, generation, prepare).await?;
        let told = self.stripped_state(room, before, Some(&sender)).await?;
        let told = told.iter().map(|event| RawStrippedState::Pdu(raw(&event.pdu))).collect();
        let agreed = self.ask_to_invite(server, room, &pdu, told).await;
        let agreed = agreed.map_err(|error| Refused::Server { server: server.to_owned(), error })?;
        let malformed = |why: String| Refused::malformed(server, why);
        let received = ReceivedPdu::parse(agreed.get().as_bytes(), &room.rules).map_err(|error| malformed(error.to_string()))?;
        if received.unverified().event_id != pdu.event_id || received.key_ids(server).is_empty() {
            return Err(malformed("the invitation is not the one that was sent, with its signature".to_owned()).into());
        }
        let pdu = self.verified(received, &room.rules).await?.map_err(|error| malformed(error.to_string()))?;
        let event = self.receive_one(room, pdu, |write, event| write.receive_for_others(event)).await?;
        let not_allowed = |reason: &str| Refused::Room(room::Refused::NotAllowed(reason.to_owned()));
        match &event.rejected {
            Some(reason) => Err(not_allowed(reason).into()),
            None if event.soft_failed => Err(not_allowed("The room has changed meanwhile: try again").into()),
            None => Ok(event),
        }
    }

    /// Asks a server to sign an invitation of its user; `told`: what the user is told of the room.
    async fn ask_to_invite(&self, server: &ServerName, room: &RoomInfo, pdu: &Pdu, told: Vec<RawStrippedState>) -> Result<Box<RawValue>, AskError> {
        #[derive(Deserialize)]
        struct Agreed {
            event: Box<RawValue>,
        }
        let request = create_invite::v2::Request::new(room.id.clone(), pdu.event_id.clone(), room.version.clone(), raw(pdu), told.clone());
        match self.ask_within(server, request, PATIENCE, 1 << 20).await {
            // The first version of this knows only the first format of events.
            Err(error) if error.is_unrecognized() && [RoomVersionId::V1, RoomVersionId::V2].contains(&room.version) => {
                let request: V1<Invite> = V1::new(room.id.clone(), pdu.event_id.clone(), with_told(pdu, &told)?);
                let (_, Agreed { event }): Wrapped<Agreed> = self.ask_for(server, request, PATIENCE, 1 << 20).await?;
                Ok(event)
            }
            answer => Ok(answer?.event),
        }
    }

    /// Where an alias of another server leads.
    ///
    /// # Errors
    /// [`Refused::Server`].
    pub(crate) async fn alias_of_others(&self, alias: &RoomAliasId) -> Result<get_room_information::v1::Response, RemoteError> {
        let server = alias.server_name();
        let answer = self.ask(server, get_room_information::v1::Request::new(alias.to_owned())).await;
        Ok(answer.map_err(|error| Refused::Server { server: server.to_owned(), error })?)
    }

    /// Ends the membership of a user of this server in a room that it is not in, where no server
    /// that is in it can be told: it is known here alone.
    pub(crate) async fn end_membership(&self, room: &Rc<RoomInfo>, session: &Session) -> Result<(), room::Error> {
        let content = [("membership".to_owned(), CanonicalJsonValue::String("leave".to_owned()))];
        let new = NewPdu {
            room_id: Some(room.id.clone()),
            sender: session.user_id.clone(),
            event_type: TimelineEventType::RoomMember,
            state_key: Some(session.user_id.to_string()),
            content: ruma::CanonicalJsonObject::from(content).into(),
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            depth: 1,
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.host.now())),
            redacts: None,
            event_localpart: self.random_string(18),
        };
        let pdu = new.sign(self.server_name(), self.identity.key_pair(), &room.rules).map_err(room::Refused::from)?;
        let generation = self.begin_reading();
        self.write_room(room, generation, |write: &mut Write<'_>| write.add_membership(pdu.clone())).await?;
        Ok(())
    }

    /// Takes in a membership of a user of this server in a room that it is not in.
    pub(crate) async fn add_membership(
        &self,
        room: &Rc<RoomInfo>,
        user: UserNid,
        pdu: Pdu,
        stripped: Option<Vec<Box<RawValue>>>,
    ) -> Result<(), RemoteError> {
        let generation = self.begin_reading();
        let stripped = stripped.map(|events| Json(serde_json::to_string(&events).unwrap_or_else(|_| "[]".to_owned())));
        let add = |write: &mut Write<'_>| {
            if let Some(stripped) = &stripped {
                tables::STRIPPED_STATES.put(write.tx, &(room.nid, user), stripped);
            }
            write.add_membership(pdu.clone())
        };
        self.write_room(room, generation, add).await?;
        Ok(())
    }

    /// The servers that an invitation or a knock of a user came from or went to.
    pub(crate) async fn servers_of_membership(&self, room: &RoomInfo, user: UserNid) -> Result<Vec<OwnedServerName>, room::Error> {
        let Some(membership) = tables::MEMBERSHIPS.get(self.store(), &(user, room.nid)).await? else { return Ok(Vec::new()) };
        let event = self.event_at(room.nid, membership.position).await?;
        let mut servers = vec![event.pdu.sender.server_name().to_owned()];
        // Whom a knock went to is not known: those who were told of in its answer may know.
        if let Some(Json(stripped)) = tables::STRIPPED_STATES.get(self.store(), &(room.nid, user)).await? {
            #[derive(Deserialize)]
            struct Sender {
                sender: OwnedUserId,
            }
            let senders: Vec<Sender> = serde_json::from_str(&stripped).unwrap_or_default();
            servers.extend(senders.into_iter().map(|event| event.sender.server_name().to_owned()));
        }
        Ok(servers)
    }
}

/// The room version that a create event says; 1 where it says none.
fn version_of(create: &Pdu) -> RoomVersionId {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<RoomVersionId>,
    }
    let content: Option<Content> = serde_json::from_str(create.content.get()).ok();
    content.and_then(|content| content.room_version).unwrap_or(RoomVersionId::V1)
}

/// Whether no other server would say something else.
fn is_final(error: &AskError) -> bool {
    let AskError::Refused { status, errcode, .. } = error else { return false };
    status.as_u16() == 403 || errcode == "M_INCOMPATIBLE_ROOM_VERSION"
}

/// The event as servers exchange it.
pub(super) fn raw(pdu: &Pdu) -> Box<RawValue> {
    serde_json::from_slice(&pdu.json).expect("an event is JSON")
}

/// An invitation as it was sent before 2019: with what its user is told of the room inside.
fn with_told(pdu: &Pdu, told: &[RawStrippedState]) -> Result<Box<RawValue>, AskError> {
    let unwritten = |error: serde_json::Error| AskError::Malformed(format!("the request cannot be written: {error}"));
    let mut event: BTreeMap<&str, Box<RawValue>> = serde_json::from_slice(&pdu.json).map_err(unwritten)?;
    let unsigned = to_raw_value(&BTreeMap::from([("invite_room_state", told)])).map_err(unwritten)?;
    event.insert("unsigned", unsigned);
    to_raw_value(&event).map_err(unwritten)
}

/// Stripped state events of an answer, as clients are told of them: so many, and so large, that
/// they can be kept.
pub(super) fn stripped(events: Vec<RawStrippedState>) -> Vec<Box<RawValue>> {
    #[derive(Deserialize, serde::Serialize)]
    struct Stripped {
        content: Box<RawValue>,
        sender: OwnedUserId,
        state_key: String,
        #[serde(rename = "type")]
        event_type: String,
    }
    let mut rest = LARGEST_STRIPPED;
    let mut kept = Vec::new();
    for event in events.into_iter().take(MOST_STRIPPED) {
        let Some(json) = serde_json::value::to_raw_value(&event).ok() else { continue };
        let event: Option<Stripped> = serde_json::from_str(json.get()).ok();
        let Some(written) = event.and_then(|event| serde_json::value::to_raw_value(&event).ok()) else { continue };
        if written.get().len() <= rest {
            rest -= written.get().len();
            kept.push(written);
        }
    }
    kept
}
