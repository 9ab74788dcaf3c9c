// The list of rooms and invitations.

import { type MatrixClient, NotificationCountType, type Room } from 'matrix-js-sdk';
import { type VNode } from 'preact';
import { shortName } from './accounts.ts';
import { hue, initial, invitations, joinedRooms, lastLine } from './room.ts';
import { moveFocus } from './roving.ts';
import { Button } from './widgets.tsx';

interface Props {
  client: MatrixClient;
  /** The room that is shown. */
  current: string | undefined;
  open: (roomId: string) => void;
}

/** Every room; one stop for the Tab key, and the arrows from there. */
export function Rooms({ client, current, open }: Props): VNode {
  const invites = invitations(client);
  const rooms = joinedRooms(client);
  const stop = rooms.some(({ roomId }) => roomId === current) ? current : rooms[0]?.roomId;
  return (
    <ul class="rooms" onKeyDown={(event) => { moveFocus(event, event.currentTarget, '.room', { ArrowDown: 1, ArrowUp: -1 }); }}>
      {invites.map((room) => <Invitation key={room.roomId} client={client} room={room} open={open} />)}
      {rooms.map((room) => <Entry key={room.roomId} client={client} room={room} current={room.roomId === current} stop={room.roomId === stop} open={open} />)}
      {rooms.length + invites.length === 0 && <li class="empty">No rooms yet. Make one, and invite somebody who has an account in this browser.</li>}
    </ul>
  );
}

function Entry({ client, room, current, stop, open }: Omit<Props, 'current'> & { room: Room; current: boolean; stop: boolean }): VNode {
  const seen = current && !document.hidden;
  const unread = seen ? 0 : room.getUnreadNotificationCount(NotificationCountType.Total);
  return (
    <li>
      <button type="button" class="room" aria-current={current ? 'true' : undefined} tabIndex={stop ? 0 : -1} onClick={() => { open(room.roomId); }}>
        <span class="avatar" aria-hidden="true" style={{ '--hue': hue(room.roomId) }}>{initial(room.name)}</span>
        <span class="room-text">
          <strong>{room.name}</strong>
          <small>{lastLine(client, room)}</small>
        </span>
        {unread > 0 && <span class="unread">{unread}<span class="hidden"> unread</span></span>}
      </button>
    </li>
  );
}

function Invitation({ client, room, open }: Omit<Props, 'current'> & { room: Room }): VNode {
  const inviter = room.getMember(client.getSafeUserId())?.events.member?.getSender() ?? '';
  const join = async (): Promise<void> => {
    // With an invitation come the keys of what was said before, where the room shows it to
    // newcomers.
    await client.joinRoom(room.roomId, { acceptSharedHistory: true });
    open(room.roomId);
  };
  return (
    <li class="invitation">
      <p>
        <strong>{room.name}</strong>
        <small>{shortName(inviter)} invites you</small>
      </p>
      <div class="actions">
        <Button aria-label={`Decline ${room.name}`} act={() => client.leave(room.roomId)}>Decline</Button>
        <Button class="primary" aria-label={`Join ${room.name}`} act={join}>Join</Button>
      </div>
    </li>
  );
}
