// What is shown of rooms, users and messages, in words.

import { type MatrixClient, type MatrixEvent, type Room } from 'matrix-js-sdk';
import { shortName } from './accounts.ts';

/** Rooms, the latest first. */
export function joinedRooms(client: MatrixClient): Room[] {
  return client.getRooms().filter((room) => room.getMyMembership() === 'join').sort((a, b) => b.getLastActiveTimestamp() - a.getLastActiveTimestamp());
}

/** Rooms that this user is invited to. */
export function invitations(client: MatrixClient): Room[] {
  return client.getRooms().filter((room) => room.getMyMembership() === 'invite');
}

/**
 * Whether an event is shown as a message. An edit is not: it is shown in the message that it
 * replaces.
 */
export function isMessage(event: MatrixEvent): boolean {
  if (event.isRelation('m.replace')) return false;
  return event.getType() === 'm.room.message' || event.getType() === 'm.room.encrypted' || (event.isEncrypted() && event.isRedacted());
}

/** The last message of a room, as one line. */
export function lastLine(client: MatrixClient, room: Room): string {
  const events = room.getLiveTimeline().getEvents();
  const last = events.findLast(isMessage);
  // After a long break there may be nothing but edits of what is not loaded yet.
  const edit = last ? undefined : events.findLast((event) => event.isRelation('m.replace'));
  const shown = last ?? edit;
  if (!shown) return 'No messages yet';
  const who = shown.getSender() === client.getUserId() ? 'You' : nameOf(room, shown.getSender());
  return `${who}: ${edit ? newBody(edit) : bodyOf(shown)}`;
}

function newBody(edit: MatrixEvent): string {
  const content = edit.getContent()['m.new_content'] as { body?: unknown } | undefined;
  return typeof content?.body === 'string' ? content.body : bodyOf(edit);
}

/** What a room calls a user. */
export function nameOf(room: Room, user: string | undefined): string {
  if (user === undefined) return 'Somebody';
  const name = room.getMember(user)?.rawDisplayName;
  return name === undefined || name === user ? shortName(user) : name;
}

/** A message as text. */
export function bodyOf(event: MatrixEvent): string {
  if (event.isRedacted()) return 'Message deleted';
  if (event.isDecryptionFailure()) return 'This device cannot read this message';
  const body: unknown = event.getContent()['body'];
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
