//! Which other servers are sent an event: those with members in the room, before or after it. So
//! the server of somebody who is kicked hears of it. Invitations go by a request of their own.

use super::{
    append::membership_of,
    event::Event,
    stop::{Need, Stop},
    write::Write,
};
use crate::{federation::outbox::WaitingEvent, position::Position, tables::MembershipKind};
use ephapse_events::Inserted;
use ruma::{OwnedServerName, UserId, events::TimelineEventType};
use std::{collections::BTreeSet, mem::take};

impl Write<'_> {
    /// The other servers that are told what happens in the room, as it is now.
    pub(super) fn servers_told(&self) -> Result<BTreeSet<OwnedServerName>, Stop> {
        if !self.hs.federation.outbox.has_peers() {
            return Ok(BTreeSet::new());
        }
        Ok(self.servers()?.keys().filter(|server| self.hs.tells(server)).cloned().inserted())
    }

    /// Has an event that was appended sent to the servers in the room, and to those that were in it
    /// `before`, but for the one of its sender.
    pub(super) fn send_to_servers(&mut self, event: &Event, before: BTreeSet<OwnedServerName>) -> Result<(), Stop> {
        let mut servers = before;
        servers.extend(self.servers_told()?);
        servers.extend(self.server_sent_away(event));
        servers.remove(event.pdu.sender.server_name());
        self.queue(event, &servers)
    }

    /// A server that has come into the room by an event of others may have joined on another branch
    /// than the one that this server's events stand on. Nobody has sent it those, nor would, until
    /// somebody says something after them: it gets their ends.
    pub(super) fn send_ends_to_new_servers(&mut self, event: &Event) -> Result<(), Stop> {
        let mut new = take(&mut self.new_servers);
        new.retain(|server| self.hs.tells(server));
        if new.is_empty() {
            return Ok(());
        }
        let ends: Vec<Position> = self.head.extremities.iter().map(|end| end.position).filter(|end| *end != event.position).collect();
        for end in ends {
            let end = self.event(end)?;
            if self.hs.is_local(&end.pdu.sender) {
                self.queue(&end, &new)?;
            }
        }
        Ok(())
    }

    /// The server of a user who is in the room no more: who was only invited, or has knocked,
    /// learns the end of it by this event alone.
    fn server_sent_away(&self, event: &Event) -> Option<OwnedServerName> {
        let is_member_event = event.pdu.event_type == TimelineEventType::RoomMember;
        let ends = is_member_event && matches!(membership_of(event), MembershipKind::Leave | MembershipKind::Ban);
        let user = event.pdu.state_key.as_deref().and_then(|user| UserId::parse(user).ok())?;
        let server = user.server_name();
        (ends && self.hs.tells(server)).then(|| server.to_owned())
    }

    fn queue(&mut self, event: &Event, servers: &BTreeSet<OwnedServerName>) -> Result<(), Stop> {
        if servers.is_empty() {
            return Ok(());
        }
        let mut queues = Vec::with_capacity(servers.len());
        let mut needs = Vec::new();
        for server in servers {
            match self.queues_of(server) {
                Some(found) => queues.push(found),
                None => needs.push(Need::Queues(server.clone())),
            }
        }
        if !needs.is_empty() {
            return Err(Stop::Missing(needs));
        }
        let waiting = WaitingEvent { room: self.room.nid, event_id: event.pdu.event_id.clone(), position: event.position };
        let now = self.hs.host.now();
        queues.iter().for_each(|queues| queues.append_event(self.tx, now, &waiting));
        Ok(())
    }
}
