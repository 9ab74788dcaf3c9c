//! `PUT /_matrix/federation/v1/send/{txnId}`: events and messages that another server pushes
//! (Server-Server API, "Transactions" and "PDUs").
//!
//! A transaction is read leniently: an event that cannot be read costs itself alone. What was
//! answered is kept, and a transaction that comes again gets the same answer.

use super::{acl, edus, missing};
use crate::{
    body::Body,
    error::{Error, Result},
    failure::Failure,
    homeserver::Homeserver,
    locks::LockKey,
    room::{self, Received, RoomInfo},
    router::PeerCall,
    tables::{self, AnsweredTransaction, Json},
    time_slice::TimeSlice,
};
use ephapse_events::{Pdu, ReceivedPdu};
use ephapse_store::Direction;
use futures_util::future::{join_all, select};
use http::{Response, header};
use ruma::{OwnedEventId, RoomId, ServerName};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt,
    pin::pin,
    rc::Rc,
    time::Duration,
};

/// "A maximum of 50 PDUs" and "100 EDUs".
const MOST_PDUS: usize = 50;
const MOST_EDUS: usize = 100;
/// How long an event waits for its room to be joined.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a transaction's id.
const LONGEST_TXN_ID: usize = 255;
/// How long an answer is kept, in ms.
const RETENTION: u64 = 15 * 24 * 60 * 60 * 1000;
/// How many outdated answers go in one batch.
const CLEARED_AT_ONCE: usize = 256;

/// Why events of a room are refused that nobody here is in.
const NOT_IN_ROOM: &str = "No user of this server is in the room";

/// A transaction as it is read at first: its events one by one, each as it stands.
#[derive(Deserialize)]
struct Transaction<'a> {
    #[serde(borrow)]
    origin: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pdus: AtMost<'a, MOST_PDUS>,
    #[serde(borrow, default)]
    edus: AtMost<'a, MOST_EDUS>,
}

/// At most so many values; more are not read.
#[derive(Default)]
struct AtMost<'a, const MOST: usize>(Vec<&'a RawValue>);

impl<'de: 'a, 'a, const MOST: usize> Deserialize<'de> for AtMost<'a, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(AtMostVisitor)
    }
}

struct AtMostVisitor<const MOST: usize>;

impl<'de, const MOST: usize> Visitor<'de> for AtMostVisitor<MOST> {
    type Value = AtMost<'de, MOST>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at most {MOST} of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = values.next_element()? {
            if all.len() == MOST {
                return Err(de::Error::invalid_length(MOST + 1, &self));
            }
            all.push(value);
        }
        Ok(AtMost(all))
    }
}

/// Where an event belongs, before its room's version says how to read it.
#[derive(Deserialize)]
struct Place<'a> {
    #[serde(borrow)]
    room_id: Option<Cow<'a, str>>,
}

/// What became of each event that has an id.
#[derive(Default, Serialize)]
struct Answer {
    pdus: BTreeMap<OwnedEventId, Outcome>,
}

#[derive(Default, Serialize)]
struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The events of a transaction that are of one room.
struct OfRoom<'a> {
    room: Rc<RoomInfo>,
    events: Vec<&'a RawValue>,
}

/// `PUT /_matrix/federation/v1/send/{txnId}`
pub async fn send(call: PeerCall, arguments: Vec<String>) -> Result<Response<Body>> {
    let (hs, origin) = (&call.hs, &call.origin);
    let txn_id = arguments.into_iter().next().filter(|id| id.len() <= LONGEST_TXN_ID);
    let txn_id = txn_id.ok_or_else(|| Error::invalid_param("The transaction id is too long"))?;
    let body = str::from_utf8(&call.raw.body).map_err(|_| Error::not_json("invalid UTF-8"))?;
    let transaction = read(body, origin)?;
    if hs.config.rate_limits {
        hs.rate_limits.transactions.take(origin.as_str(), hs.host.now())?;
    }
    // One after the other, as their sender sends them.
    let _one_at_a_time = hs.lock(LockKey::Transactions(origin.clone())).await;
    let place = (origin.clone(), txn_id);
    if let Some(answered) = tables::ANSWERED_TRANSACTIONS.get(hs.store(), &place).await? {
        return Ok(written(answered.response.0));
    }
    let mut answer = Answer::default();
    take_in(&call, transaction.pdus.0, &mut answer).await?;
    edus::received(hs, origin, &transaction.edus.0).await?;
    let answer = serde_json::to_string(&answer).map_err(|error| Error::Internal(format!("an answer cannot be written: {error}")))?;
    // Batches are taken in order: where this one is lost, what was done before it may be there, and
    // does nothing when it comes again.
    let now = hs.host.now();
    let remembered = hs.write(hs.store().generation(), |tx| {
        tables::ANSWERED_TRANSACTIONS.put(tx, &place, &AnsweredTransaction { response: Json(answer.clone()), ts: now });
        tables::ANSWERED_TRANSACTIONS_BY_TIME.put(tx, &(now, place.0.clone(), place.1.clone()), &());
    });
    remembered?.visible();
    Ok(written(answer))
}

fn read<'a>(body: &'a str, origin: &ServerName) -> Result<Transaction<'a>> {
    let transaction: Transaction<'_> = serde_json::from_str(body).map_err(|error| Error::unreadable(&error))?;
    if transaction.origin.as_ref().is_some_and(|named| named != origin.as_str()) {
        return Err(Error::forbidden("The transaction's origin is not the server that sent it"));
    }
    Ok(transaction)
}

fn written(answer: String) -> Response<Body> {
    let mut response = Response::new(Body::from(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

async fn take_in(call: &PeerCall, pdus: Vec<&RawValue>, answer: &mut Answer) -> Result<()> {
    let (hs, origin) = (&call.hs, &call.origin);
    let mut rooms = Vec::new();
    for of_room in by_room(hs, origin, pdus).await? {
        rooms.push(read_events(hs, origin, of_room, answer).await?);
    }
    // A server that does not say its keys keeps the events of one room waiting, or of all.
    let keys = join_all(rooms.iter().map(|(room, events)| hs.keys_for(events, &room.rules))).await;
    for ((room, events), keys) in rooms.into_iter().zip(keys) {
        let keys = keys?;
        let ids: Vec<OwnedEventId> = events.iter().map(|event| event.unverified().event_id.clone()).collect();
        let mut verified = Vec::with_capacity(events.len());
        for (id, event) in ids.into_iter().zip(hs.verify_events(events, &keys, &room.rules).await) {
            match event {
                Ok(pdu) => verified.push(pdu),
                Err(error) => answer.refuse(id, error),
            }
        }
        if verified.is_empty() {
            continue;
        }
        if hs.is_resident(room.nid).await? {
            enter(call, &room, verified, answer).await?;
            continue;
        }
        for event in verified {
            match hs.rescind(&room, &event).await? {
                true => drop(answer.pdus.entry(event.event_id).or_default()),
                false => answer.refuse(event.event_id, NOT_IN_ROOM),
            }
        }
    }
    Ok(())
}

/// The rooms of events. Those of rooms that are not known here have no id that could be answered:
/// how it is made depends on the room's version.
async fn by_room<'a>(hs: &Homeserver, origin: &ServerName, pdus: Vec<&'a RawValue>) -> Result<Vec<OfRoom<'a>>> {
    let mut rooms: Vec<OfRoom<'a>> = Vec::new();
    for pdu in pdus {
        let place: Option<Place<'_>> = serde_json::from_str(pdu.get()).ok();
        let id = place.and_then(|place| RoomId::parse(place.room_id?).ok());
        let Some(id) = id else {
            tracing::debug!("{origin} sent an event that is none");
            continue;
        };
        if let Some(of_room) = rooms.iter_mut().find(|of_room| of_room.room.id == id) {
            of_room.events.push(pdu);
            continue;
        }
        // Who is in the room sends as soon as it knows of the join, which may still be under way.
        let joining = LockKey::Joining(id.clone());
        if hs.locks.is_held(&joining) {
            // Not for ever: what else the server sends waits too.
            select(pin!(hs.lock(joining)), hs.host.sleep(JOIN_PATIENCE)).await;
        }
        if let Some(room) = hs.room(&id).await? {
            rooms.push(OfRoom { room, events: vec![pdu] });
        } else {
            tracing::debug!("{origin} sent an event of {id}, which is not known here");
        }
    }
    Ok(rooms)
}

/// Those of the events of a room that are not here yet and may come in; their signatures are still
/// to be verified (check 1 on receipt of a PDU).
async fn read_events(hs: &Homeserver, origin: &ServerName, of_room: OfRoom<'_>, answer: &mut Answer) -> Result<(Rc<RoomInfo>, Vec<ReceivedPdu>)> {
    let OfRoom { room, events } = of_room;
    let refusal = if !hs.is_resident(room.nid).await? {
        Some(NOT_IN_ROOM)
    } else if !acl::allows(hs, &room, origin).await? {
        Some("Server is banned from room")
    } else {
        None
    };
    let slice = TimeSlice::new(&*hs.host);
    let mut read = Vec::with_capacity(events.len());
    for event in events {
        slice.step().await;
        match ReceivedPdu::parse(event.get().as_bytes(), &room.rules) {
            Ok(received) => read.push(received),
            Err(error) => tracing::debug!("{origin} sent an event of {} that cannot be read: {error}", room.id),
        }
    }
    let ids: Vec<OwnedEventId> = read.iter().map(|received| received.unverified().event_id.clone()).collect();
    let places = hs.find_events(&ids).await?;
    let (mut new, mut seen) = (Vec::with_capacity(read.len()), HashSet::new());
    for ((received, id), place) in read.into_iter().zip(ids).zip(places) {
        // Of rooms that nobody here is in, the end of an invitation or a knock matters.
        let matters = refusal == Some(NOT_IN_ROOM) && hs.rescinds(&room, received.unverified()).await?.is_some();
        if let Some(refusal) = refusal.filter(|_| !matters) {
            answer.refuse(id, refusal);
        } else if place.is_some_and(|(nid, position)| nid == room.nid && !position.is_outlier()) {
            // It has its place in the room already.
            answer.pdus.entry(id).or_default();
        } else if seen.insert(id) {
            new.push(received);
        }
    }
    Ok((room, new))
}

async fn enter(call: &PeerCall, room: &Rc<RoomInfo>, events: Vec<Pdu>, answer: &mut Answer) -> Result<()> {
    let ids: Vec<OwnedEventId> = events.iter().map(|event| event.event_id.clone()).collect();
    let received = match call.hs.receive(room, call.raw.generation, &events).await {
        Ok(received) => received,
        // Everybody has left and forgotten it meanwhile.
        Err(Failure::Refused(refused)) => {
            ids.into_iter().for_each(|id| answer.refuse(id, &refused));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let mut waiting = HashSet::new();
    for (id, received) in ids.into_iter().zip(received) {
        match received {
            // What the rules say of it is for this server to know.
            Received::In(_) => drop(answer.pdus.entry(id).or_default()),
            Received::Missing => {
                answer.pdus.entry(id.clone()).or_default();
                waiting.insert(id);
            }
            Received::Refused(refused) => answer.refuse(id, refused),
        }
    }
    if !waiting.is_empty() {
        let events = events.into_iter().filter(|event| waiting.contains(&event.event_id)).collect();
        for id in missing::wait(&call.hs, room, &call.origin, events).await? {
            answer.refuse(id, "Too many events of the room wait for others");
        }
    }
    Ok(())
}

impl Answer {
    fn refuse(&mut self, id: OwnedEventId, why: impl fmt::Display) {
        self.pdus.insert(id, Outcome { error: Some(why.to_string()) });
    }
}

impl Homeserver {
    /// Forgets answers to transactions of other servers that are older than 15 days, a few at a
    /// time.
    pub(crate) async fn forget_old_transactions(&self) -> Result<(), room::Error> {
        let by_time = &tables::ANSWERED_TRANSACTIONS_BY_TIME;
        let range = by_time.range(&()).start..by_time.prefix_of(&self.host.now().saturating_sub(RETENTION));
        let slice = TimeSlice::new(&*self.host);
        loop {
            let generation = self.begin_reading();
            let old = by_time.scan_range(self.store(), range.clone(), Direction::Forward, CLEARED_AT_ONCE).await?;
            if old.is_empty() {
                return Ok(());
            }
            let forgotten = self.write(generation, |tx| {
                for (key, ()) in old {
                    by_time.delete(tx, &key);
                    let (_, origin, txn_id) = key;
                    tables::ANSWERED_TRANSACTIONS.delete(tx, &(origin, txn_id));
                }
            });
            forgotten?.durable().await?;
            slice.end().await;
        }
    }
}
