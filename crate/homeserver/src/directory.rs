//! The directory of this server: the rooms that their members publish (Client-Server API,
//! "Published room directory").

use crate::{
    damaged::LeaveOut,
    failure::{Failure, Refusal},
    federation::{
        client::{LARGEST_ANSWER, PATIENCE},
        refused as remote,
    },
    homeserver::Homeserver,
    room::{self, RoomInfo},
    summaries::RoomSummary,
    tables::{self, RoomHead, RoomNid, Session},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use ruma::{
    RoomId, ServerName, UInt,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
    directory::{Filter, RoomNetwork},
    events::StateEventType,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{cmp::Reverse, fmt, rc::Rc, str::FromStr};

/// Rooms on a page, at most.
const LARGEST_PAGE: usize = 500;
/// Bytes of a page, roughly: it ends with the room that reaches them.
const LARGEST_PAGE_BYTES: usize = 1 << 20;
/// Rooms that are looked at before others go on.
const PORTION: usize = 64;

/// What is refused, and why.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A room that is not known here.
    #[error("Room not found")]
    NoSuchRoom,
    /// Whoever may not change the room's main alias has no say in this.
    #[error("You need the power level to change the room's main alias to publish it in the directory")]
    NotYours,
    /// A text that is no token of a page.
    #[error("Invalid pagination token")]
    NotAToken,
    /// By the room.
    #[error(transparent)]
    Room(room::Refused),
}

impl Refusal for Refused {}

/// Why something is not done.
pub type Error = Failure<Refused>;
type Result<T, E = Error> = std::result::Result<T, E>;

impl From<room::Error> for Error {
    fn from(error: room::Error) -> Self {
        error.map(Refused::Room)
    }
}

/// A page of the directory of another server.
pub async fn page_of(hs: &Homeserver, server: &ServerName, wanted: &Wanted) -> Result<Page, remote::Refused> {
    #[derive(Deserialize)]
    struct Answer {
        chunk: Vec<Box<RawValue>>,
        next_batch: Option<String>,
        prev_batch: Option<String>,
        total_room_count_estimate: Option<u64>,
    }
    let limit = wanted.limit.and_then(|limit| UInt::try_from(limit).ok());
    let of_server = |error| remote::Refused::Server { server: server.to_owned(), error };
    let answer: Answer = if wanted.is_filtered() {
        let mut request = get_public_rooms_filtered::v1::Request::new();
        (request.limit, request.since, request.filter) = (limit, wanted.since.clone(), wanted.filter());
        hs.ask_for(server, request, PATIENCE, LARGEST_ANSWER).await.map_err(of_server)?
    } else {
        let mut request = get_public_rooms::v1::Request::new();
        (request.limit, request.since) = (limit, wanted.since.clone());
        hs.ask_for(server, request, PATIENCE, LARGEST_ANSWER).await.map_err(of_server)?
    };
    Ok(Page {
        chunk: answer.chunk.iter().filter_map(|room| serde_json::from_str(room.get()).ok()).collect(),
        next_batch: answer.next_batch,
        prev_batch: answer.prev_batch,
        total_room_count_estimate: answer.total_room_count_estimate,
    })
}

/// Whether a room is published.
pub async fn is_published(hs: &Homeserver, room: &RoomId) -> Result<bool> {
    let room = hs.room(room).await?.ok_or(Refused::NoSuchRoom)?;
    Ok(tables::PUBLISHED_ROOMS.get(hs.store(), &room.nid).await?.is_some())
}

/// Publishes a room, or takes it out of the directory: for members who may change its main alias,
/// as with other servers.
pub async fn publish(hs: &Homeserver, generation: u64, session: &Session, room: &RoomId, published: bool) -> Result<()> {
    let room = hs.room(room).await?.ok_or(Refused::NoSuchRoom)?;
    if !hs.may_send_state(&room, &session.user_id, StateEventType::RoomCanonicalAlias).await? {
        return Err(Refused::NotYours.into());
    }
    let written = hs.write(generation, |tx| match published {
        true => tables::PUBLISHED_ROOMS.put(tx, &room.nid, &()),
        false => tables::PUBLISHED_ROOMS.delete(tx, &room.nid),
    });
    written?.visible();
    Ok(())
}

/// Which of the published rooms are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// How many at a time; 0 and `None`: as many as a page has.
    pub limit: Option<u64>,
    /// A token of [`Page`].
    pub since: Option<String>,
    /// Words that name, topic or main alias have.
    pub term: Option<String>,
    /// Types; `None`: rooms without a type. All, where there are none.
    pub types: Vec<Option<String>>,
    /// Those of a network that there is no bridge to: none.
    pub is_elsewhere: bool,
}

impl Wanted {
    fn is_filtered(&self) -> bool {
        self.term.is_some() || !self.types.is_empty()
    }

    fn filter(&self) -> Filter {
        let mut filter = Filter::new();
        filter.generic_search_term.clone_from(&self.term);
        filter.room_types = self.types.iter().map(|kind| kind.clone().into()).collect();
        filter
    }

    /// What a request with a filter asks for.
    pub fn filtered(limit: Option<UInt>, since: Option<String>, filter: Filter, network: &RoomNetwork) -> Self {
        Self {
            limit: limit.map(u64::from),
            since,
            term: filter.generic_search_term.filter(|term| !term.is_empty()),
            types: filter.room_types.iter().map(|kind| kind.as_str().map(str::to_owned)).collect(),
            is_elsewhere: matches!(network, RoomNetwork::ThirdParty(_)),
        }
    }
}

/// Rooms of a directory, this server's or another one's.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The rooms, those with most members first.
    pub chunk: Vec<RoomSummary>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// Where the page before ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// How many there are in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_room_count_estimate: Option<u64>,
}

/// Where a room stands: by its members, and then by its number.
type Place = (Reverse<u32>, RoomNid);

/// From where a page goes in which direction.
struct Token {
    is_next: bool,
    place: Place,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Reverse(members), room) = self.place;
        write!(f, "{}{members}_{room}", if self.is_next { 'n' } else { 'p' })
    }
}

impl FromStr for Token {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let (is_next, place) = match (text.strip_prefix('n'), text.strip_prefix('p')) {
            (Some(place), _) => (true, place),
            (_, Some(place)) => (false, place),
            _ => return Err(Refused::NotAToken),
        };
        let (members, room) = place.split_once('_').ok_or(Refused::NotAToken)?;
        let number = |text: &str| text.parse().map_err(|_| Refused::NotAToken);
        Ok(Self { is_next, place: (Reverse(number(members)?), number(room)?) })
    }
}

/// A page of the rooms of this server that are published and that anybody could come to by
/// themselves: by joining, knocking or reading.
pub async fn page(hs: &Homeserver, wanted: &Wanted) -> Result<Page> {
    let since = wanted.since.as_deref().map(str::parse::<Token>).transpose()?;
    let mut places = if wanted.is_elsewhere { Vec::new() } else { places(hs, wanted).await? };
    places.sort_unstable();
    let total = places.len();
    let limit = wanted.limit.filter(|limit| *limit > 0).and_then(|limit| usize::try_from(limit).ok()).unwrap_or(LARGEST_PAGE).min(LARGEST_PAGE);
    let range = match &since {
        None => 0..limit.min(total),
        Some(Token { is_next: true, place }) => {
            let start = places.partition_point(|other| other <= place);
            start..(start + limit).min(total)
        }
        Some(Token { is_next: false, place }) => {
            let end = places.partition_point(|other| other < place);
            end.saturating_sub(limit)..end
        }
    };
    let mut chunk: Vec<RoomSummary> = Vec::new();
    let (mut end, mut bytes) = (range.start, 0);
    let slice = TimeSlice::new(&*hs.host);
    while end < range.end && bytes < LARGEST_PAGE_BYTES {
        if let Some(summary) = summary(hs, places[end].1).await? {
            bytes += summary.weight();
            chunk.push(summary.published());
        }
        end += 1;
        slice.step().await;
    }
    let token = |is_next, at: usize| places.get(at).map(|place| Token { is_next, place: *place }.to_string());
    Ok(Page {
        chunk,
        next_batch: if end < total { token(true, end.wrapping_sub(1)) } else { None },
        prev_batch: if range.start > 0 { token(false, range.start) } else { None },
        total_room_count_estimate: Some(total as u64),
    })
}

/// Where each room that is wanted stands.
async fn places(hs: &Homeserver, wanted: &Wanted) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let slice = TimeSlice::new(&*hs.host);
    let mut range = tables::PUBLISHED_ROOMS.range(&());
    loop {
        let rooms = tables::PUBLISHED_ROOMS.scan_range(hs.store(), range.clone(), Direction::Forward, PORTION).await?;
        let Some((last, ())) = rooms.last() else { return Ok(places) };
        // The first key after it.
        range.start = [&tables::PUBLISHED_ROOMS.key(last)[..], &[0]].concat();
        let numbers: Vec<RoomNid> = rooms.iter().map(|(nid, ())| *nid).collect();
        for (nid, head) in numbers.iter().zip(hs.room_heads(&numbers).await?) {
            if let Some(head) = head.filter(|head| head.joined > 0)
                && hs.is_resident(*nid).await?
                && is_wanted(hs, *nid, &head, wanted).await.leave_out()?.unwrap_or(false)
            {
                places.push((Reverse(head.joined), *nid));
            }
            slice.step().await;
        }
    }
}

async fn is_wanted(hs: &Homeserver, nid: RoomNid, head: &RoomHead, wanted: &Wanted) -> room::Result<bool> {
    if !is_open(hs, nid, head).await? {
        return Ok(false);
    }
    if !wanted.is_filtered() {
        return Ok(true);
    }
    let summary = RoomSummary::of(hs, &*hs.room_by_nid(nid).await?).await?;
    let is_type = wanted.types.is_empty() || wanted.types.contains(&summary.room_type);
    Ok(is_type && wanted.term.as_ref().is_none_or(|term| has(&summary, &term.to_lowercase())))
}

/// Whether name, topic or main alias have a text, in whatever case.
fn has(summary: &RoomSummary, term: &str) -> bool {
    let texts = [summary.name.as_deref(), summary.topic.as_deref(), summary.canonical_alias.as_ref().map(|alias| alias.as_str())];
    texts.into_iter().flatten().any(|text| text.to_lowercase().contains(term))
}

/// Whether anybody may join a room, ask to, or read it. In others a published room says nothing of
/// itself.
async fn is_open(hs: &Homeserver, nid: RoomNid, head: &RoomHead) -> room::Result<bool> {
    #[derive(Default, Deserialize)]
    struct Content {
        join_rule: Option<String>,
        history_visibility: Option<String>,
    }
    let positions: Vec<_> = head.join_rules.into_iter().chain(head.history_visibility).collect();
    let events = hs.events_at(nid, &positions).await?;
    Ok(events.iter().flatten().any(|event| {
        let content: Content = serde_json::from_str(event.pdu.content.get()).unwrap_or_default();
        matches!(content.join_rule.as_deref(), Some("public" | "knock" | "knock_restricted"))
            || content.history_visibility.as_deref() == Some("world_readable")
    }))
}

async fn summary(hs: &Homeserver, nid: RoomNid) -> Result<Option<RoomSummary>> {
    let Some(room): Option<Rc<RoomInfo>> = hs.room_by_nid(nid).await.leave_out()? else { return Ok(None) };
    Ok(RoomSummary::of(hs, &room).await.leave_out()?)
}
