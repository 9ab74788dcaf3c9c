// The list of rooms and invitations, and the dialogs that make and fill rooms.

import { type MatrixClient, NotificationCountType, Preset, type Room, Visibility } from 'matrix-js-sdk';
import { shortName } from './accounts.ts';
import { button, field, h, icon, openForm, text } from './dom.ts';

/** Rooms, the latest first. */
export function joinedRooms(client: MatrixClient): Room[] {
  return client.getRooms().filter((room) => room.getMyMembership() === 'join').sort((a, b) => b.getLastActiveTimestamp() - a.getLastActiveTimestamp());
}

/** Fills the list. */
export function renderRooms(list: HTMLElement, client: MatrixClient, current: string | undefined, open: (roomId: string) => void): void {
  const focused = list.contains(document.activeElement) ? document.activeElement?.getAttribute('data-room') : undefined;
  const invites = client.getRooms().filter((room) => room.getMyMembership() === 'invite');
  const rooms = joinedRooms(client);
  list.replaceChildren(
    ...invites.map((room) => invitation(client, room, open)),
    ...rooms.map((room) => entry(client, room, room.roomId === current, open)),
  );
  if (rooms.length + invites.length === 0) list.append(h('li', { class: 'empty' }, 'No rooms yet. Make one, and invite somebody who has an account in this browser.'));
  if (focused != null) list.querySelector<HTMLElement>(`[data-room="${CSS.escape(focused)}"]`)?.focus();
}

function entry(client: MatrixClient, room: Room, current: boolean, open: (roomId: string) => void): HTMLElement {
  const unread = room.getUnreadNotificationCount(NotificationCountType.Total);
  const last = room.getLiveTimeline().getEvents().findLast((event) => event.getType() === 'm.room.message' || event.isEncrypted());
  const preview = last ? `${last.getSender() === client.getUserId() ? 'You' : nameOf(room, last.getSender())}: ${bodyOf(last)}` : 'Nothing said yet';
  const item = button(
    { class: 'room', 'data-room': room.roomId, ...(current ? { 'aria-current': 'true' } : {}) },
    h('span', { class: 'avatar', 'aria-hidden': 'true', style: `--hue: ${hue(room.roomId)}` }, initial(room.name)),
    () => { open(room.roomId); },
  );
  item.append(
    h('span', { class: 'room-text' }, h('strong', {}, room.name), h('small', {}, preview)),
    ...(unread > 0 ? [h('span', { class: 'unread', 'aria-label': `${String(unread)} unread` }, String(unread))] : []),
  );
  return h('li', {}, item);
}

function invitation(client: MatrixClient, room: Room, open: (roomId: string) => void): HTMLElement {
  const inviter = room.getMember(client.getSafeUserId())?.events.member?.getSender() ?? '';
  return h(
    'li',
    { class: 'invitation' },
    h('p', {}, h('strong', {}, room.name), h('small', {}, `${shortName(inviter)} invites you`)),
    h(
      'div',
      { class: 'actions' },
      button({}, 'Decline', () => client.leave(room.roomId)),
      button({ class: 'primary' }, 'Join', async () => { await client.joinRoom(room.roomId); open(room.roomId); }),
    ),
  );
}

/** Asks for a name and makes a room. */
export function newRoom(client: MatrixClient, encryption: boolean, open: (roomId: string) => void): void {
  const encrypted = h('label', { class: 'check' }, h('input', { type: 'checkbox', name: 'encrypted', checked: encryption, disabled: !encryption }), 'Encrypt messages end to end');
  openForm('New room', [field('Name', { name: 'name', required: true, maxlength: '80' }), field('Invite (user names, separated by spaces)', { name: 'invite', autocapitalize: 'none', spellcheck: 'false' }), encrypted], 'Create', async (fields) => {
    const invite = text(fields, 'invite').split(/[\s,]+/).filter(Boolean).map((name) => userId(client, name));
    const { room_id: roomId } = await client.createRoom({
      name: text(fields, 'name'),
      preset: Preset.PrivateChat,
      visibility: Visibility.Private,
      invite,
      initial_state: fields.has('encrypted') ? [{ type: 'm.room.encryption', state_key: '', content: { algorithm: 'm.megolm.v1.aes-sha2' } }] : [],
    });
    return () => { open(roomId); };
  });
}

/** Asks for a user and invites them. */
export function invite(client: MatrixClient, room: Room): void {
  openForm(`Invite to ${room.name}`, [field('User name', { name: 'user', required: true, autocapitalize: 'none', spellcheck: 'false' }, 'Somebody who has an account on this homeserver.')], 'Invite', async (fields) => {
    await client.invite(room.roomId, userId(client, text(fields, 'user')));
    return undefined;
  });
}

/** A full user id from what somebody typed. */
function userId(client: MatrixClient, name: string): string {
  return name.startsWith('@') ? name : `@${name}:${client.getDomain() ?? ''}`;
}

/** What a room calls a user. */
export function nameOf(room: Room, user: string | undefined): string {
  if (user === undefined) return 'Somebody';
  const name = room.getMember(user)?.rawDisplayName;
  return name === undefined || name === user ? shortName(user) : name;
}

/** A message as one line of text. */
export function bodyOf(event: { getContent: () => { body?: unknown }; isRedacted: () => boolean; isDecryptionFailure: () => boolean; isBeingDecrypted: () => boolean }): string {
  if (event.isRedacted()) return 'Message deleted';
  if (event.isDecryptionFailure()) return 'This device cannot read this message';
  const { body } = event.getContent();
  return typeof body === 'string' ? body : '…';
}

/** A colour for an id, as a hue. */
export function hue(id: string): string {
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + (letter.codePointAt(0) ?? 0)) % 360;
  return String(sum);
}

/** The letter in an avatar. */
export function initial(name: string): string {
  return (/[\p{L}\p{N}]/u.exec(name)?.[0] ?? '#').toUpperCase();
}

/** The icon of an encrypted room. */
export function lock(): HTMLElement {
  return h('span', { class: 'lock', title: 'Encrypted end to end' }, icon('lock'), h('span', { class: 'hidden' }, 'encrypted'));
}
