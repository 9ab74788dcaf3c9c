//! Spaces and what is in them (Client-Server API, "Spaces"): the tree below a room, depth first, of
//! rooms that whoever asks may know of.
//!
//! A page of it is found by going through the tree from its root again, since a token has to count
//! after any restart: it holds how many rooms came before.

pub mod remote;

use crate::{
    damaged::LeaveOut,
    failure::{Failure, Refusal},
    homeserver::Homeserver,
    requester::Requester,
    room::{self, Event, NodeId, RoomInfo, state_tree::Part},
    summaries::{RoomSummary, may_know, may_know_of_remote},
    time_slice::TimeSlice,
};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, events::StateEventType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

/// Rooms on a page, where nobody says how many, and at most.
const PAGE: usize = 50;
/// Bytes of a page, roughly: it ends with the room that reaches them.
const PAGE_BYTES: usize = 1 << 20;
/// Rooms that are looked at for one request, seen or not.
const MOST_ROOMS: usize = 10_000;
/// Rooms that one space leads to, at most; those that its order puts last are not shown.
const MOST_CHILDREN: usize = 1_000;
/// Bytes of the events that say to which rooms it leads.
const MOST_CHILDREN_BYTES: usize = 1 << 20;
/// For how long other servers are asked, for one page, in ms. Whom one waits for then still has its
/// time.
const PATIENCE: u64 = 20 * 1000;
/// Rooms that other servers are asked for, for one page.
const MOST_ASKED: usize = 20;

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

    /// An event that another server tells.
    fn told(json: &str) -> Option<Self> {
        let child: Self = serde_json::from_str(json).ok()?;
        (child.kind == "m.space.child" && !child.via().is_empty()).then_some(child)
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
    /// Servers that may know it.
    via: Vec<OwnedServerName>,
    /// The space that leads to it.
    parent: Option<OwnedRoomId>,
}

/// What other servers have said on the way. What one says of the rooms that its space leads to
/// counts where one comes to them from there alone: anybody may name any room.
#[derive(Default)]
struct Told {
    /// By the space and the room that it leads to.
    rooms: HashMap<(OwnedRoomId, OwnedRoomId), RoomSummary>,
    inaccessible: HashSet<(OwnedRoomId, OwnedRoomId)>,
    /// For how many rooms they were asked.
    asked: usize,
    /// Until when they are asked, in ms.
    until: Option<u64>,
}

impl Next {
    /// The space that leads to it, and the room.
    fn place(&self) -> (OwnedRoomId, OwnedRoomId) {
        (self.parent.clone().unwrap_or_else(|| self.room.clone()), self.room.clone())
    }
}

impl Told {
    /// A room that this server is not in.
    async fn describe(&mut self, hs: &Homeserver, question: &Question<'_>, next: &Next) -> Result<Option<Described>> {
        if self.is_inaccessible(next) {
            return Ok(None);
        }
        // Of a space the server above does not say what is in it.
        let summary = self.rooms.get(&next.place()).filter(|summary| !summary.is_space());
        let described = match summary {
            Some(summary) => Some(Described { summary: summary.clone(), children_state: Vec::new() }),
            None => self.ask(hs, question, next).await.or_else(|| {
                // Nobody says what is in it.
                let summary = self.rooms.get(&next.place())?.clone();
                Some(Described { summary, children_state: Vec::new() })
            }),
        };
        let Some(described) = described else { return Ok(None) };
        let may_know = may_know_of_remote(hs, &described.summary, Some(question.requester)).await?;
        Ok(may_know.then_some(described))
    }

    /// Whether the server above may not know of it.
    fn is_inaccessible(&self, next: &Next) -> bool {
        self.inaccessible.contains(&next.place())
    }

    async fn ask(&mut self, hs: &Homeserver, question: &Question<'_>, next: &Next) -> Option<Described> {
        let suggested_only = question.suggested_only;
        let told = match remote::known(hs, &next.room, suggested_only, &next.via) {
            Some(told) => told,
            None if self.asked >= MOST_ASKED || hs.host.now() > *self.until.get_or_insert(hs.host.now() + PATIENCE) => None,
            None => {
                self.asked += 1;
                remote::ask(hs, &next.room, suggested_only, &next.via).await
            }
        }?;
        if self.rooms.len() < MOST_ROOMS {
            let place = |room: &OwnedRoomId| (next.room.clone(), room.clone());
            self.rooms.extend(told.children.iter().map(|summary| (place(&summary.room_id), summary.clone())));
            self.inaccessible.extend(told.inaccessible.iter().map(place));
        }
        Some(told.room.clone())
    }
}

/// A page of a hierarchy.
pub async fn page(hs: &Homeserver, question: &Question<'_>) -> Result<Page> {
    let mut told = Told::default();
    let via = question.room.server_name().map(ToOwned::to_owned).into_iter().collect();
    let root = Next { room: question.room.to_owned(), depth: 0, via, parent: None };
    let mut before = match question.before() {
        Ok(before) => before,
        // Who may know nothing of the room is told no more.
        Err(refused) => {
            let root = describe(hs, question, &root, &mut told).await?;
            return Err(root.map_or_else(|| Refused::Unknown(question.room.to_owned()), |_| refused).into());
        }
    };
    let limit = question.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE).clamp(1, PAGE);
    let mut page = Page { rooms: Vec::new(), next_batch: None };
    let (mut shown, mut bytes) = (0, 0);
    let mut rest = vec![root];
    let mut seen = HashSet::new();
    let slice = TimeSlice::new(&*hs.host);
    while let Some(next) = rest.pop() {
        if seen.len() >= MOST_ROOMS || seen.contains(&next.room) {
            continue;
        }
        slice.step().await;
        let described = describe(hs, question, &next, &mut told).await?;
        if described.is_some() || !told.is_inaccessible(&next) {
            seen.insert(next.room.clone());
        }
        let Some(described) = described else {
            if next.depth == 0 {
                return Err(Refused::Unknown(next.room).into());
            }
            continue;
        };
        if page.rooms.len() == limit || bytes >= PAGE_BYTES {
            page.next_batch = Some(question.token(shown));
            break;
        }
        shown += 1;
        if question.max_depth.is_none_or(|deepest| next.depth < deepest) {
            let children = described.children_state.iter().filter(|child| !seen.contains(&child.state_key));
            let below =
                |child: &Child| Next { room: child.state_key.clone(), depth: next.depth + 1, via: child.via(), parent: Some(next.room.clone()) };
            // Many wide spaces together lead to more than is ever looked at: the last are left out.
            let mut below: Vec<Next> = children.take(MOST_ROOMS.saturating_sub(rest.len())).map(below).collect();
            // The first is looked at next.
            below.reverse();
            rest.append(&mut below);
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
async fn describe(hs: &Homeserver, question: &Question<'_>, next: &Next, told: &mut Told) -> Result<Option<Described>> {
    let Some(room) = here(hs, &next.room).await.leave_out()?.flatten() else { return told.describe(hs, question, next).await };
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

/// A room as who asks may know of it, by this server or by one of `via`. Others are asked for those
/// alone who are logged in.
pub async fn summary(hs: &Homeserver, room: &RoomId, via: &[OwnedServerName], requester: Option<Requester<'_>>) -> Result<Option<RoomSummary>> {
    if let Some(room) = here(hs, room).await? {
        let summary = RoomSummary::of(hs, &room).await?;
        return Ok(may_know(hs, &room, &summary, requester).await?.then_some(summary));
    }
    let told = if requester.is_some() { remote::ask(hs, room, false, via).await } else { None };
    let Some(told) = told else { return Ok(None) };
    let summary = &told.room.summary;
    Ok(may_know_of_remote(hs, summary, requester).await?.then(|| summary.clone()))
}

/// A space as another server is told of it.
#[derive(Debug, Serialize)]
pub struct ForServer {
    room: Described,
    /// Those of the rooms that it leads to that are known here.
    children: Vec<RoomSummary>,
    /// Those of them that the other server may not know of.
    inaccessible_children: Vec<OwnedRoomId>,
}

/// A room, and those that it leads to, as far as another server may know of them.
pub async fn for_server(hs: &Homeserver, requester: Requester<'_>, room: &RoomId, suggested_only: bool) -> Result<Option<ForServer>> {
    let Some(info) = here(hs, room).await? else { return Ok(None) };
    let Some(room) = described(hs, &info, requester, suggested_only).await? else { return Ok(None) };
    let (mut children, mut inaccessible_children) = (Vec::new(), Vec::new());
    let slice = TimeSlice::new(&*hs.host);
    for child in room.children_state.iter().take(PAGE) {
        slice.step().await;
        let Some(info) = here(hs, &child.state_key).await.leave_out()?.flatten() else { continue };
        let Some(summary) = RoomSummary::of(hs, &info).await.leave_out()? else { continue };
        if may_know(hs, &info, &summary, Some(requester)).await.leave_out()?.unwrap_or(false) {
            children.push(summary);
        } else {
            inaccessible_children.push(child.state_key.clone());
        }
    }
    Ok(Some(ForServer { room, children, inaccessible_children }))
}

/// A room that users of this server are in, so that what is here of it is true.
pub async fn here(hs: &Homeserver, room: &RoomId) -> room::Result<Option<Rc<RoomInfo>>> {
    match hs.room(room).await? {
        Some(room) if hs.is_resident(room.nid).await? => Ok(Some(room)),
        _ => Ok(None),
    }
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
            children.extend(child);
        }
    }
    Ok(in_order(children))
}

/// Those that are shown, in their order.
fn in_order(children: impl IntoIterator<Item = Child>) -> Vec<Child> {
    let mut children: Vec<_> = children.into_iter().map(|child| (child.place(), child)).collect();
    children.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut left = MOST_CHILDREN_BYTES;
    let fitting = children.into_iter().map(|(_, child)| child).take_while(|child| {
        left = left.saturating_sub(child.weight());
        left > 0
    });
    fitting.take(MOST_CHILDREN).collect()
}
