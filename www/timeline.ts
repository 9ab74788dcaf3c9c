// The messages of one room: grouped by sender and day, with reactions, edits and deletions.

import { EventStatus, type MatrixClient, type MatrixEvent, type Room } from 'matrix-js-sdk';
import { button, h, icon, toast } from './dom.ts';
import { bodyOf, hue, initial, nameOf } from './rooms.ts';

const groupWithin = 5 * 60_000;
const quickReactions = ['👍', '❤️', '😄', '🎉'];

/** What the timeline asks of the rest of the page. */
export interface TimelineActions {
  edit: (event: MatrixEvent) => void;
}

/** Draws the room's known events into `list`. */
export function renderTimeline(list: HTMLElement, client: MatrixClient, room: Room, actions: TimelineActions): void {
  const items: HTMLElement[] = [];
  let before: MatrixEvent | undefined;
  for (const event of room.getLiveTimeline().getEvents()) {
    if (!before || !sameDay(before.getTs(), event.getTs())) items.push(h('li', { class: 'day' }, h('time', {}, day(event.getTs()))));
    const item = isMessage(event) ? message(client, room, event, continues(before, event), actions) : notice(room, event);
    if (!item) continue;
    items.push(item);
    before = event;
  }
  list.replaceChildren(...items);
}

function isMessage(event: MatrixEvent): boolean {
  // An edit is shown in the message that it replaces.
  if (event.isRelation('m.replace')) return false;
  return event.getType() === 'm.room.message' || event.getType() === 'm.room.encrypted' || (event.isEncrypted() && event.isRedacted());
}

function continues(before: MatrixEvent | undefined, event: MatrixEvent): boolean {
  return before !== undefined && isMessage(before) && before.getSender() === event.getSender() && sameDay(before.getTs(), event.getTs()) && event.getTs() - before.getTs() < groupWithin;
}

function message(client: MatrixClient, room: Room, event: MatrixEvent, continued: boolean, actions: TimelineActions): HTMLElement {
  const own = event.getSender() === client.getUserId();
  const name = nameOf(room, event.getSender());
  const unreadable = event.isRedacted() || event.isDecryptionFailure();
  const notSent = event.status === EventStatus.NOT_SENT;
  const bubble = h('div', { class: unreadable ? 'bubble muted' : 'bubble', dir: 'auto' }, bodyOf(event));
  const time = h('time', { datetime: new Date(event.getTs()).toISOString() }, clock(event.getTs()));
  const item = h(
    'li',
    { class: ['message', own ? 'own' : '', continued ? 'continued' : '', event.status === null ? '' : 'pending'].join(' ').trim(), 'data-event': event.getId() ?? '' },
    !own && h('span', { class: 'avatar', 'aria-hidden': 'true', style: `--hue: ${hue(event.getSender() ?? '')}` }, continued ? '' : initial(name)),
    h(
      'div',
      { class: 'column' },
      !continued && h('p', { class: 'by' }, h('span', { class: own ? 'hidden' : 'name' }, own ? 'You' : name), ' ', time),
      h('div', { class: 'line' }, bubble, !unreadable && event.status === null && tools(client, room, event, own, actions)),
      event.replacingEvent() !== null && !unreadable && h('small', { class: 'edited' }, 'edited'),
      notSent && button({ class: 'link' }, 'Not sent. Try again', () => client.resendEvent(event, room)),
      reactions(client, room, event),
    ),
  );
  return item;
}

function tools(client: MatrixClient, room: Room, event: MatrixEvent, own: boolean, actions: TimelineActions): HTMLElement {
  const react = (key: string): Promise<void> => toggleReaction(client, room, event, key);
  return h(
    'div',
    { class: 'tools', role: 'group', 'aria-label': 'Message actions' },
    ...quickReactions.map((key) => button({ 'aria-label': `React with ${key}` }, key, () => react(key))),
    own && button({ 'aria-label': 'Edit', title: 'Edit' }, icon('pencil'), () => { actions.edit(event); }),
    own && button({ 'aria-label': 'Delete', title: 'Delete' }, icon('bin'), () => client.redactEvent(room.roomId, event.getId() ?? '')),
  );
}

function reactions(client: MatrixClient, room: Room, event: MatrixEvent): HTMLElement | undefined {
  const sorted = room.relations.getChildEventsForEvent(event.getId() ?? '', 'm.annotation', 'm.reaction')?.getSortedAnnotationsByKey() ?? [];
  const shown = sorted.filter(([, events]) => events.size > 0);
  if (shown.length === 0) return undefined;
  return h(
    'div',
    { class: 'reactions' },
    ...shown.map(([key, events]) => {
      const mine = [...events].some((reaction) => reaction.getSender() === client.getUserId());
      const who = [...events].map((reaction) => nameOf(room, reaction.getSender())).join(', ');
      return button({ class: 'reaction', 'aria-pressed': String(mine), title: who }, `${key} ${String(events.size)}`, () => toggleReaction(client, room, event, key));
    }),
  );
}

async function toggleReaction(client: MatrixClient, room: Room, event: MatrixEvent, key: string): Promise<void> {
  const eventId = event.getId() ?? '';
  const own = room.relations.getChildEventsForEvent(eventId, 'm.annotation', 'm.reaction')?.getAnnotationsBySender()?.[client.getSafeUserId()];
  const mine = [...(own ?? [])].find((reaction) => reaction.getRelation()?.key === key);
  if (mine) await client.redactEvent(room.roomId, mine.getId() ?? '');
  else await client.sendEvent(room.roomId, 'm.reaction' as never, { 'm.relates_to': { rel_type: 'm.annotation', event_id: eventId, key } } as never);
}

function notice(room: Room, event: MatrixEvent): HTMLElement | undefined {
  const what = noticeOf(room, event);
  return what === undefined ? undefined : h('li', { class: 'notice' }, what);
}

function noticeOf(room: Room, event: MatrixEvent): string | undefined {
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

/** Loads older messages while there are any; keeps what is read in its place. */
export async function loadOlder(scroller: HTMLElement, client: MatrixClient, room: Room, draw: () => void): Promise<void> {
  try {
    const fromBottom = scroller.scrollHeight - scroller.scrollTop;
    await client.paginateEventTimeline(room.getLiveTimeline(), { backwards: true, limit: 30 });
    draw();
    scroller.scrollTop = scroller.scrollHeight - fromBottom;
  } catch (error) {
    toast(error);
  }
}

function sameDay(a: number, b: number): boolean {
  return new Date(a).toDateString() === new Date(b).toDateString();
}

function day(timestamp: number): string {
  return sameDay(timestamp, Date.now()) ? 'Today' : new Date(timestamp).toLocaleDateString(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
}

function clock(timestamp: number): string {
  return new Date(timestamp).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' });
}
