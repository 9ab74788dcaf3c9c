// What the timeline shows of a room's events, as plain data: grouped by sender and day, with
// reactions, edits and deletions.

import { EventStatus, type MatrixClient, type MatrixEvent, type Room } from 'matrix-js-sdk';
import { bodyOf, hue, initial, isMessage, nameOf } from './room.ts';

const groupWithin = 5 * 60_000;

/** Everybody's reactions with one key. */
export interface Reaction {
  key: string;
  count: number;
  mine: boolean;
  who: string;
}

/** A message. */
export interface MessageRow {
  kind: 'message';
  key: string;
  own: boolean;
  name: string;
  hue: string;
  initial: string;
  /** Whether it goes on in a group of the same sender. */
  continued: boolean;
  time: number;
  text: string;
  /** What can be done with it: nothing when it is deleted or cannot be read. */
  state: 'sent' | 'sending' | 'failed' | 'gone';
  /** How far its last change has come, if it was changed. */
  edit?: 'sent' | 'sending' | 'failed';
  reactions: Reaction[];
}

/** One line of the timeline. `key` stays the same as long as the line does. */
export type Row = { kind: 'day' | 'notice'; key: string; text: string } | MessageRow;

/** The lines, and the events behind the messages among them by key. */
export interface Rows {
  rows: Row[];
  events: Map<string, MatrixEvent>;
}

/** Every line of a room, as far as its events are known. */
export function timelineRows(client: MatrixClient, room: Room): Rows {
  const rows: Row[] = [];
  const events = new Map<string, MatrixEvent>();
  let before: MatrixEvent | undefined;
  for (const event of room.getLiveTimeline().getEvents()) {
    const row = isMessage(event) ? messageRow(client, room, event, before) : noticeRow(room, event);
    if (!row) continue;
    if (!before || !sameDay(before.getTs(), event.getTs())) rows.push({ kind: 'day', key: `day of ${row.key}`, text: day(event.getTs()) });
    rows.push(row);
    if (row.kind === 'message') events.set(row.key, event);
    before = event;
  }
  return { rows, events };
}

const keys = new WeakMap<MatrixEvent, string>();
let made = 0;

// A message's id changes once it is sent, but the client keeps the object.
function keyOf(event: MatrixEvent): string {
  const key = keys.get(event) ?? `event ${++made}`;
  keys.set(event, key);
  return key;
}

function messageRow(client: MatrixClient, room: Room, event: MatrixEvent, before: MatrixEvent | undefined): MessageRow {
  const sender = event.getSender() ?? '';
  const name = nameOf(room, sender);
  const gone = event.isRedacted() || event.isDecryptionFailure();
  const edit = event.replacingEvent();
  return {
    kind: 'message',
    key: keyOf(event),
    own: sender === client.getUserId(),
    name,
    hue: hue(sender),
    initial: initial(name),
    continued: before !== undefined && continues(before, event),
    time: event.getTs(),
    text: bodyOf(event),
    state: gone ? 'gone' : progress(event),
    ...(edit && !gone && { edit: progress(edit) }),
    reactions: reactions(client, room, event),
  };
}

function progress({ status }: MatrixEvent): 'sent' | 'sending' | 'failed' {
  return status === EventStatus.NOT_SENT ? 'failed' : status === null ? 'sent' : 'sending';
}

function continues(before: MatrixEvent, event: MatrixEvent): boolean {
  return isMessage(before) && before.getSender() === event.getSender() && sameDay(before.getTs(), event.getTs()) && event.getTs() - before.getTs() < groupWithin;
}

function reactions(client: MatrixClient, room: Room, event: MatrixEvent): Reaction[] {
  const sorted = room.relations.getChildEventsForEvent(event.getId() ?? '', 'm.annotation', 'm.reaction')?.getSortedAnnotationsByKey() ?? [];
  return sorted.filter(([, all]) => all.size > 0).map(([key, all]) => ({
    key,
    count: all.size,
    mine: [...all].some((reaction) => reaction.getSender() === client.getUserId()),
    who: [...all].map((reaction) => nameOf(room, reaction.getSender())).join(', '),
  }));
}

/** Reacts, or takes the reaction back. */
export async function toggleReaction(client: MatrixClient, room: Room, event: MatrixEvent, key: string): Promise<void> {
  const eventId = event.getId() ?? '';
  const own = room.relations.getChildEventsForEvent(eventId, 'm.annotation', 'm.reaction')?.getAnnotationsBySender()?.[client.getSafeUserId()];
  const mine = [...(own ?? [])].find((reaction) => reaction.getRelation()?.key === key);
  if (mine) await client.redactEvent(room.roomId, mine.getId() ?? '');
  else await client.sendEvent(room.roomId, 'm.reaction' as never, { 'm.relates_to': { rel_type: 'm.annotation', event_id: eventId, key } } as never);
}

function noticeRow(room: Room, event: MatrixEvent): Row | undefined {
  const text = notice(room, event);
  return text === undefined ? undefined : { kind: 'notice', key: keyOf(event), text };
}

function notice(room: Room, event: MatrixEvent): string | undefined {
  if (!event.isState()) return undefined;
  const who = nameOf(room, event.getSender());
  switch (event.getType()) {
    case 'm.room.create':
      return `${who} made this room`;
    case 'm.room.name':
      return `${who} named the room ${String(event.getContent()['name'] ?? '')}`;
    case 'm.room.encryption':
      return 'Messages in this room are encrypted end to end';
    case 'm.room.member': {
      const target = nameOf(room, event.getStateKey());
      const membership = String(event.getContent()['membership']);
      if (event.getPrevContent()['membership'] === membership) return undefined;
      if (membership === 'join') return `${target} joined`;
      if (membership === 'invite') return `${who} invited ${target}`;
      if (membership === 'leave') return event.getSender() === event.getStateKey() ? `${target} left` : `${who} removed ${target}`;
      return membership === 'ban' ? `${who} banned ${target}` : undefined;
    }
    default:
      return undefined;
  }
}

function sameDay(a: number, b: number): boolean {
  return new Date(a).toDateString() === new Date(b).toDateString();
}

function day(timestamp: number): string {
  return sameDay(timestamp, Date.now()) ? 'Today' : new Date(timestamp).toLocaleDateString(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
}

/** The time of day. */
export function clock(timestamp: number): string {
  return new Date(timestamp).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' });
}
