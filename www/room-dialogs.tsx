// The dialogs that make, fill and leave rooms, and delete messages.

import { type MatrixClient, type MatrixEvent, Preset, type Room, Visibility } from 'matrix-js-sdk';
import { type VNode } from 'preact';
import { Done, openDialog, openForm } from './dialogs.tsx';
import { mustExist, userIds } from './invite.ts';
import { useRedraw } from './redraw.ts';
import { bodyOf, hue, initial, nameOf } from './room.ts';
import { Button, Field, text } from './widgets.tsx';

const userName = { autocapitalize: 'none', autocomplete: 'off', spellcheck: false } as const;

/** Asks for a name and makes a room. */
export function newRoom(client: MatrixClient, encryption: boolean, open: (roomId: string) => void): void {
  const submit = async (fields: FormData): Promise<() => void> => {
    const invite = userIds(client, text(fields, 'invite'));
    await mustExist(client, invite);
    const { room_id: roomId } = await client.createRoom({
      name: text(fields, 'name'),
      preset: Preset.PrivateChat,
      visibility: Visibility.Private,
      invite,
      initial_state: fields.has('encrypted') ? [{ type: 'm.room.encryption', state_key: '', content: { algorithm: 'm.megolm.v1.aes-sha2' } }] : [],
    });
    return () => { open(roomId); };
  };
  openForm('New room', {
    action: 'Create',
    submit,
    children: (
      <>
        <Field label="Name" name="name" required maxLength={80} autocomplete="off" />
        <Field label="Invite" name="invite" hint="User names on this homeserver, separated by spaces. You can invite people later, too." {...userName} />
        <label class="check"><input type="checkbox" name="encrypted" defaultChecked={encryption} disabled={!encryption} />Encrypt messages end to end</label>
      </>
    ),
  });
}

/** Asks for a user and invites them. */
export function invite(client: MatrixClient, room: Room): void {
  const submit = async (fields: FormData): Promise<undefined> => {
    const users = userIds(client, text(fields, 'user'));
    await mustExist(client, users);
    for (const user of users) await client.invite(room.roomId, user);
  };
  openForm(`Invite to ${room.name}`, {
    action: 'Invite',
    submit,
    children: <Field label="User name" name="user" required hint="Somebody who has an account on this homeserver." {...userName} />,
  });
}

/** Shows who is in the room, and who is invited. */
export function showMembers(client: MatrixClient, room: Room): void {
  room.loadMembersIfNeeded().catch(() => undefined);
  openDialog(`Members of ${room.name}`, (close) => (
    <>
      <Members client={client} room={room} />
      <Button act={() => { close(); invite(client, room); }}>Invite somebody</Button>
      <Done close={close} />
    </>
  ));
}

function Members({ client, room }: { client: MatrixClient; room: Room }): VNode {
  useRedraw(client);
  const members = room.getMembers().filter(({ membership }) => membership === 'join' || membership === 'invite').sort((a, b) => a.name.localeCompare(b.name));
  return (
    <ul class="members">
      {members.map(({ userId, membership }) => (
        <li key={userId}>
          <span class="avatar" aria-hidden="true" style={{ '--hue': hue(userId) }}>{initial(nameOf(room, userId))}</span>
          <span class="room-text">
            <strong>{nameOf(room, userId)}{userId === client.getUserId() && ' (you)'}</strong>
            <small title={userId}>{membership === 'invite' ? 'Invited' : userId}</small>
          </span>
        </li>
      ))}
    </ul>
  );
}

/** Asks, and leaves the room for good. */
export function leave(client: MatrixClient, room: Room, left: () => void): void {
  const submit = async (): Promise<() => void> => {
    await client.leave(room.roomId);
    await client.forget(room.roomId);
    return left;
  };
  openForm(`Leave ${room.name}?`, { action: 'Leave', danger: true, submit, children: <p>You can come back only when somebody invites you.</p> });
}

/** Asks, and deletes a message. */
export function deleteMessage(client: MatrixClient, room: Room, event: MatrixEvent, then: () => void): void {
  const submit = async (): Promise<() => void> => {
    await client.redactEvent(room.roomId, event.getId() ?? '');
    return then;
  };
  openForm('Delete this message?', {
    action: 'Delete',
    danger: true,
    submit,
    children: (
      <>
        <blockquote dir="auto">{bodyOf(event)}</blockquote>
        <p>It is deleted for everybody in the room, and cannot be brought back.</p>
      </>
    ),
  });
}
