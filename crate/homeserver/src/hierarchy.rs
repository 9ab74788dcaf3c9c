//! Spaces and what is in them (Client-Server API, "Spaces"): the tree below a room, depth first, of
//! rooms that whoever asks may know of.
//!
//! A page of it is found by going through the tree from its root again, since a token has to count
//! after any restart: it holds how many rooms came before.

use crate::{
    damaged::LeaveOut,
    failure::{Failure, Refusal},
    homeserver::Homeserver,
    requester::Requester,
    room::{self, Event, NodeId, RoomInfo, state_tree::Part},
    summaries::{RoomSummary, may_know},
    time_slice::TimeSlice,
};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, events::StateEventType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};
use std::{collections::HashSet, rc::Rc};

/// Rooms on a page, where nobody says how many, and at most.
const PAGE: usize = 50;
/// Bytes of a page, roughly: it ends with the room that reaches them.
const PAGE_BYTES: usize = 1 << 20;
/// Rooms that are looked at for one request, seen or not.
const MOST_ROOMS: usize = 10_000;
/// Rooms that one space leads to, at most; those that its order puts last are not shown.
const MOST_CHILDREN: usize = 1_000;
/// Bytes of the events that say so.
const MOST_CHILDREN_BYTES: usize = 1 << 20;

/// What is refused, and why.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The root is a room that is not known here, or that who asks may not know of.
    #[error("You are not in room {0}, and it cannot be previewed")]
    Unknown(OwnedRoomId),
    /// A text that is no token of a page.
    #[error("Unknown pagination token")]
    NotAToken,
    /// A token of another question.
    #[error("suggested_only and max_depth cannot change on paginated requests")]
    OfAnotherQuestion,
    /// A page of no rooms.
    #[error("limit must be greater than zero")]
    NoRooms,
    /// By a room.
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

/// A room of a hierarchy.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    /// The room.
    #[serde(flatten)]
    pub summary: RoomSummary,
    /// The `m.space.child` events that lead on, in the order in which they are shown.
    pub children_state: Vec<Child>,
}

impl Described {
    fn weight(&self) -> usize {
        self.summary.weight() + self.children_state.iter().map(Child::weight).sum::<usize>()
    }
}

/// An `m.space.child` event, stripped, with its time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Child {
    #[serde(rename = "type")]
    kind: String,
    state_key: OwnedRoomId,
    sender: String,
    origin_server_ts: u64,
    content: Box<RawValue>,
}

/// What the content of such an event says.
#[derive(Deserialize)]
struct ChildContent {
    #[serde(default)]
    via: Value,
    #[serde(default)]
    order: Value,
    #[serde(default)]
    suggested: Value,
}

impl Child {
    /// `None` for an event that leads to no room: "If not present or empty, the room is not
    /// considered a child".
    fn of(event: &Event) -> Option<Self> {
        let pdu = &event.pdu;
        let child = Self {
            kind: pdu.event_type.to_string(),
            state_key: OwnedRoomId::try_from(pdu.state_key.as_deref()?).ok()?,
            sender: pdu.sender.to_string(),
            origin_server_ts: pdu.origin_server_ts.0.into(),
            content: pdu.content.clone(),
        };
        (!child.via().is_empty()).then_some(child)
    }

    fn said(&self) -> ChildContent {
        let nothing = ChildContent { via: Value::Null, order: Value::Null, suggested: Value::Null };
        serde_json::from_str(self.content.get()).unwrap_or(nothing)
    }

    /// The servers by which the room can be joined.
    pub fn via(&self) -> Vec<OwnedServerName> {
        let said = self.said();
        let names = said.via.as_array().into_iter().flatten().filter_map(|name| OwnedServerName::try_from(name.as_str()?).ok());
        names.collect()
    }

    fn is_suggested(&self) -> bool {
        self.said().suggested == true
    }

    /// "Rooms are sorted by the `order`, [...] those without it after those with it, by
    /// `origin_server_ts`, and then by room id". An order that is not valid is none.
    fn place(&self) -> (bool, String, u64, OwnedRoomId) {
        let order = self
            .said()
            .order
            .as_str()
            .filter(|order| order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte)))
            .map(str::to_owned);
        (order.is_none(), order.unwrap_or_default(), self.origin_server_ts, self.state_key.clone())
    }

    fn weight(&self) -> usize {
        256 + self.content.get().len()
    }
}

/// What is asked of a hierarchy.
#[derive(Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub requester: Requester<'a>,
    /// The root.
    pub room: &'a RoomId,
    /// Whether only suggested rooms are followed.
    pub suggested_only: bool,
    /// How far down it goes; 0: the root alone.
    pub max_depth: Option<u64>,
    /// Rooms on the page.
    pub limit: Option<u64>,
    /// A token of the page before.
    pub from: Option<&'a str>,
}

/// A part of a hierarchy.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The rooms.
    pub rooms: Vec<Described>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
}

impl Question<'_> {
    /// How many rooms came before; the token also says of which question.
    fn before(&self) -> Result<usize, Refused> {
        if self.limit == Some(0) {
            return Err(Refused::NoRooms);
        }
        let Some(token) = self.from else { return Ok(0) };
        let (count, question) = token.strip_prefix('h').and_then(|rest| rest.split_once('_')).ok_or(Refused::NotAToken)?;
        let count = count.parse().map_err(|_| Refused::NotAToken)?;
        if question == self.fingerprint() { Ok(count) } else { Err(Refused::OfAnotherQuestion) }
    }

    fn token(&self, count: usize) -> String {
        format!("h{count}_{}", self.fingerprint())
    }

    fn fingerprint(&self) -> String {
        let hash = Sha256::digest(format!("{} {} {:?}", self.room, self.suggested_only, self.max_depth));
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A room that is to be looked at.
struct Next {
    room: OwnedRoomId,
    depth: u64,
}

/// A page of a hierarchy.
pub async fn page(hs: &Homeserver, question: &Question<'_>) -> Result<Page> {
    let mut before = match question.before() {
        Ok(before) => before,
        // Who may know nothing of the room is told no more.
        Err(refused) => {
            let root = describe(hs, question, question.room).await?;
            return Err(root.map_or_else(|| Refused::Unknown(question.room.to_owned()), |_| refused).into());
        }
    };
    let limit = question.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE).clamp(1, PAGE);
    let mut page = Page { rooms: Vec::new(), next_batch: None };
    let (mut shown, mut bytes) = (0, 0);
    let mut rest = vec![Next { room: question.room.to_owned(), depth: 0 }];
    let mut seen = HashSet::new();
    let slice = TimeSlice::new(&*hs.host);
    while let Some(Next { room, depth }) = rest.pop() {
        if seen.len() >= MOST_ROOMS || !seen.insert(room.clone()) {
            continue;
        }
        slice.step().await;
        let Some(described) = describe(hs, question, &room).await? else {
            if depth == 0 {
                return Err(Refused::Unknown(room).into());
            }
            continue;
        };
        if page.rooms.len() == limit || bytes >= PAGE_BYTES {
            page.next_batch = Some(question.token(shown));
            break;
        }
        shown += 1;
        if question.max_depth.is_none_or(|deepest| depth < deepest) {
            let children = described.children_state.iter().rev().filter(|child| !seen.contains(&child.state_key));
            rest.extend(children.map(|child| Next { room: child.state_key.clone(), depth: depth + 1 }));
        }
        if before > 0 {
            before -= 1;
        } else {
            bytes += described.weight();
            page.rooms.push(described);
        }
    }
    Ok(page)
}

/// A room that who asks may know of.
async fn describe(hs: &Homeserver, question: &Question<'_>, room: &RoomId) -> Result<Option<Described>> {
    let Some(room) = hs.room(room).await.leave_out()?.flatten() else { return Ok(None) };
    let described = described(hs, &room, question.requester, question.suggested_only).await.leave_out()?;
    Ok(described.flatten())
}

/// A room of this server with its children, where who asks may know of it.
pub async fn described(hs: &Homeserver, room: &Rc<RoomInfo>, requester: Requester<'_>, suggested_only: bool) -> room::Result<Option<Described>> {
    let summary = RoomSummary::of(hs, room).await?;
    if !may_know(hs, room, &summary, Some(requester)).await? {
        return Ok(None);
    }
    let children_state = if summary.is_space() { children(hs, room, suggested_only).await? } else { Vec::new() };
    Ok(Some(Described { summary, children_state }))
}

/// The events of a space that lead to other rooms, in their order.
async fn children(hs: &Homeserver, room: &RoomInfo, suggested_only: bool) -> room::Result<Vec<Child>> {
    let state = NodeId(hs.room_head(room.nid).await?.state);
    let entries = hs.state_entries(room.nid, state, Part::WithoutMembers).await?;
    let positions: Vec<_> = entries.into_iter().filter(|((kind, _), _)| *kind == StateEventType::SpaceChild).map(|(_, position)| position).collect();
    let mut children = Vec::new();
    let mut bytes = 0;
    for positions in positions.chunks(64) {
        for event in hs.events_at(room.nid, positions).await?.into_iter().flatten() {
            let child = Child::of(&event).filter(|child| !suggested_only || child.is_suggested());
            // What is larger than all may be is not held while the others are read.
            let child = child.filter(|child| bytes + child.weight() <= 4 * MOST_CHILDREN_BYTES);
            bytes += child.as_ref().map_or(0, Child::weight);
            children.extend(child.map(|child| (child.place(), child)));
        }
    }
    children.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut left = MOST_CHILDREN_BYTES;
    let fitting = children.into_iter().map(|(_, child)| child).take_while(|child| {
        left = left.saturating_sub(child.weight());
        left > 0
    });
    Ok(fitting.take(MOST_CHILDREN).collect())
}
