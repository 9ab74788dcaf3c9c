//! A new room: its first event, which since v12 also gives it its id (rooms/v12, "Room IDs as
//! hashes of the create event").

use super::{
    append::Verdict,
    error::{Error, Refused, Result},
    invitee::Invitee,
    rooms::RoomInfo,
    state_tree::NodeId,
    stop::Stop,
    write::Write,
};
use crate::{
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, Room, UserNid},
};
use ephapse_events::{JsonObject, NewPdu, Pdu, rules_of};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UInt, events::TimelineEventType};
use std::{collections::HashMap, rc::Rc};

/// What a room begins with.
pub struct NewRoom {
    /// Who makes it.
    pub creator: OwnedUserId,
    /// Its id, where that is known before; since v12 it follows from the create event.
    pub id: Option<OwnedRoomId>,
    /// Its version.
    pub version: RoomVersionId,
    /// The content of its create event.
    pub content: JsonObject,
    /// Those whose memberships it begins with.
    pub users: HashMap<OwnedUserId, UserNid>,
    /// Those whom it invites.
    pub invitees: HashMap<OwnedUserId, Invitee>,
    /// How many events it begins with, about.
    pub events: usize,
}

impl Homeserver {
    /// Makes a room: `fill` adds the events that follow the create event. All of it is one batch.
    ///
    /// # Errors
    /// [`Refused::UnknownVersion`], [`Refused::TooLarge`], and whatever `fill` refuses with.
    pub async fn create_room<E: From<Error>>(
        &self,
        new: NewRoom,
        generation: u64,
        mut fill: impl AsyncFnMut(&mut Write<'_>) -> Result<(), Stop<E>>,
    ) -> Result<Rc<RoomInfo>, E> {
        let NewRoom { creator, id, version, content, users, invitees, events } = new;
        let unsupported = || Error::from(Refused::UnknownVersion(version.clone()));
        let rules = rules_of(&version).ok_or_else(unsupported)?;
        let room_id = match rules.authorization.room_create_event_id_as_room_id {
            true => None,
            false => Some(id.unwrap_or_else(|| self.random_room_id())),
        };
        let event_localpart = self.random_string(18);
        let sign = |created: u64| {
            let create = NewPdu {
                room_id: room_id.clone(),
                sender: creator.clone(),
                event_type: TimelineEventType::RoomCreate,
                state_key: Some(String::new()),
                content: content.clone(),
                prev_events: Vec::new(),
                auth_events: Vec::new(),
                depth: 1,
                origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::new_saturating(created)),
                redacts: None,
                event_localpart: event_localpart.clone(),
            };
            create.sign(self.server_name(), self.identity.key_pair(), &rules).map_err(|error| Error::from(Refused::from(error)))
        };
        // Since v12: the time is all that tells apart two rooms which somebody makes alike, so it
        // is never given twice.
        let mut create = sign(self.rooms.next_creation(self.host.now()))?;
        while self.room(&create.room_id).await?.is_some() {
            create = sign(self.rooms.next_creation(self.host.now()))?;
        }
        let info = Rc::new(RoomInfo { nid: self.rooms.next_nid(), id: create.room_id.clone(), version, rules });
        self.write_new_room(&info, generation, events, users, invitees, async |write: &mut Write<'_>| {
            write.begin(create.clone()).map_err(|stop| stop.map(E::from))?;
            fill(write).await
        })
        .await?;
        Ok(info)
    }

    /// Notes a room of other servers that is not known: nothing of it is here yet.
    pub(crate) async fn note_room(&self, id: &RoomId, version: &RoomVersionId, generation: u64) -> Result<Rc<RoomInfo>> {
        let rules = rules_of(version).ok_or_else(|| Refused::UnknownVersion(version.clone()))?;
        let info = Rc::new(RoomInfo { nid: self.rooms.next_nid(), id: id.to_owned(), version: version.clone(), rules });
        let note = async |write: &mut Write<'_>| -> Result<(), Stop> {
            write.name();
            Ok(())
        };
        self.write_new_room(&info, generation, 1, HashMap::new(), HashMap::new(), note).await?;
        Ok(info)
    }

    /// Notes another version of a room of which nothing is here yet.
    pub(crate) async fn renote_room(&self, room: &Rc<RoomInfo>, version: &RoomVersionId, generation: u64) -> Result<Rc<RoomInfo>> {
        let rules = rules_of(version).ok_or_else(|| Refused::UnknownVersion(version.clone()))?;
        let _lock = self.lock(LockKey::Room(room.nid)).await;
        if self.room_head(room.nid).await?.create.is_some() {
            return Err(Refused::OfVersion(room.id.clone(), room.version.clone()).into());
        }
        let info = Rc::new(RoomInfo { nid: room.nid, id: room.id.clone(), version: version.clone(), rules });
        let (known, stored) = (info.clone(), Room { id: room.id.clone(), version: version.clone() });
        let noted = self.write(generation, |tx| {
            tables::ROOMS.put(tx, &known.nid, &stored);
            tx.then(move |hs| hs.rooms.set_info(&known));
        });
        noted?.visible();
        Ok(info)
    }

    /// An id for a room of a version before v12.
    pub fn random_room_id(&self) -> OwnedRoomId {
        let id = format!("!{}:{}", self.random_string(18), self.server_name());
        OwnedRoomId::try_from(id).expect("letters and a server name are a room id")
    }
}

impl Write<'_> {
    /// Puts its id and version where they are found.
    fn name(&mut self) {
        let room = Room { id: self.room.id.clone(), version: self.room.version.clone() };
        tables::ROOM_NIDS.put(self.tx, &room.id, &self.room.nid);
        tables::ROOMS.put(self.tx, &self.room.nid, &room);
    }

    /// Puts the create event first.
    pub(super) fn begin(&mut self, create: Pdu) -> Result<(), Stop> {
        self.name();
        if let Err(reason) = self.check_by_auth_events(&create)? {
            return Err(Refused::Malformed(reason).into());
        }
        self.append(create, NodeId::EMPTY, Verdict::default(), None)?;
        Ok(())
    }
}
