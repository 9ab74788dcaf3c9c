// The messages of one room. Each line keeps its element, and with it focus and selection, while
// others come, change and go.

import { type MatrixClient, type MatrixEvent, type Room } from 'matrix-js-sdk';
import { Component, type VNode } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { moveFocus } from './roving.ts';
import { type MessageRow, type Row, clock, timelineRows, toggleReaction } from './timeline-rows.ts';
import { Button, Icon, toast } from './widgets.tsx';

const quickReactions = ['👍', '❤️', '😄', '🎉'];

/** What can be done with a message. */
export interface MessageActions {
  edit: (event: MatrixEvent) => void;
  remove: (event: MatrixEvent) => void;
}

interface Props {
  client: MatrixClient;
  room: Room;
  /** The message that is being edited. */
  editing: MatrixEvent | undefined;
  actions: MessageActions;
  /** Draws again, after older messages came. */
  redraw: () => void;
}

/**
 * The scrolled part of a conversation. It stays at its end where it is there, and where it is read
 * otherwise.
 */
export function Timeline({ client, room, editing, actions, redraw }: Props): VNode {
  const { rows, events } = timelineRows(client, room);
  const scroller = useRef<HTMLDivElement>(null);
  const place = useRef({ atEnd: true, height: 0, first: '' });
  const older = useRef(false);
  const [chosen, setChosen] = useState<string>();
  // One stop for the Tab key: the message that was chosen with the arrows, or the last one.
  const stop = chosen !== undefined && events.has(chosen) ? chosen : [...events.keys()].at(-1);

  useLayoutEffect(() => {
    const box = scroller.current;
    if (!box) return;
    const first = rows.find(({ kind }) => kind !== 'day')?.key ?? '';
    const { atEnd, height, first: before } = place.current;
    if (atEnd) box.scrollTop = box.scrollHeight;
    else if (first !== before) box.scrollTop += box.scrollHeight - height;
    place.current = { atEnd, height: box.scrollHeight, first };
    fill();
  });
  useEffect(() => {
    const box = scroller.current;
    if (!box) return undefined;
    // A keyboard that comes up, a longer draft, another width: the end stays in sight.
    const resized = new ResizeObserver(() => { if (place.current.atEnd) box.scrollTop = box.scrollHeight; });
    for (const element of [box, ...box.children]) resized.observe(element);
    return () => { resized.disconnect(); };
  }, []);

  function fill(): void {
    const box = scroller.current;
    if (!box || older.current || box.scrollTop > 120 || room.getLiveTimeline().getPaginationToken('b' as never) === null) return;
    older.current = true;
    client.paginateEventTimeline(room.getLiveTimeline(), { backwards: true, limit: 30 })
      .then(() => { older.current = false; redraw(); }, (error: unknown) => { older.current = false; toast(error); });
  }

  const onScroll = (): void => {
    const box = scroller.current;
    if (box) place.current.atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
    fill();
  };
  return (
    <div class="scroller" ref={scroller} onScroll={onScroll} tabIndex={stop === undefined ? 0 : undefined} role="log" aria-label="Messages">
      <ol
        class="timeline"
        onKeyDown={moveInTimeline}
        onFocusIn={({ target }) => { setChosen((target as HTMLElement).closest<HTMLElement>('.message')?.dataset['key']); }}
        onFocusOut={({ relatedTarget, currentTarget }) => { if (!currentTarget.contains(relatedTarget as Node | null)) setChosen(undefined); }}
      >
        {rows.map((row) => {
          const event = events.get(row.key);
          if (row.kind !== 'message' || !event) return <li key={row.key} class={row.kind}>{(row as Exclude<Row, MessageRow>).text}</li>;
          return <Message key={row.key} client={client} room={room} row={row} event={event} stop={row.key === stop} editing={event === editing} actions={actions} />;
        })}
      </ol>
    </div>
  );
}

/** Arrows move from message to message, and in a message between what can be done with it. */
function moveInTimeline(event: KeyboardEvent & { currentTarget: HTMLElement }): void {
  if (moveFocus(event, event.currentTarget, '.message', { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity })) return;
  const target = event.target as HTMLElement;
  const message = target.closest<HTMLElement>('.message');
  if (!message) return;
  if (event.key === 'Escape' && target !== message) {
    event.stopPropagation();
    message.focus();
  } else if (target === message && event.key === 'ArrowRight') {
    event.preventDefault();
    message.querySelector('button')?.focus();
  } else {
    moveFocus(event, message, 'button', { ArrowRight: 1, ArrowLeft: -1 });
  }
}

interface MessageProps {
  client: MatrixClient;
  room: Room;
  row: MessageRow;
  event: MatrixEvent;
  stop: boolean;
  editing: boolean;
  actions: MessageActions;
}

/** One message; drawn again only when something of it has changed. */
class Message extends Component<MessageProps> {
  override shouldComponentUpdate(next: MessageProps): boolean {
    const { props } = this;
    return next.event !== props.event || next.stop !== props.stop || next.editing !== props.editing || JSON.stringify(next.row) !== JSON.stringify(props.row);
  }

  render({ client, room, row, event, stop, editing, actions }: MessageProps): VNode {
    const { own, continued, state, edit } = row;
    const mark = edit === 'sent' ? 'edited' : edit === 'sending' && 'saving…';
    const react = (key: string): Promise<void> => toggleReaction(client, room, event, key);
    const classes = ['message', own && 'own', continued && 'continued', state, editing && 'editing'].filter(Boolean).join(' ');
    const tab = stop ? 0 : -1;
    return (
      <li class={classes} tabIndex={tab} data-key={row.key} data-event={event.getId()}>
        {!own && <span class="avatar" aria-hidden="true" style={{ '--hue': row.hue }}>{continued ? '' : row.initial}</span>}
        <div class="column">
          {!continued && <p class="by"><span class={own ? 'hidden' : 'name'}>{own ? 'You' : row.name}</span> <time dateTime={new Date(row.time).toISOString()}>{clock(row.time)}</time></p>}
          <div class="line">
            <div class="bubble" dir="auto">{row.text}</div>
            {state === 'sent' && (
              <div class="tools" role="toolbar" aria-label="Message actions">
                {quickReactions.map((key, index) => <Button key={key} tabIndex={index === 0 ? tab : -1} aria-label={`React with ${key}`} act={() => react(key)}>{key}</Button>)}
                {own && <Button tabIndex={-1} aria-label="Edit" title="Edit" act={() => { actions.edit(event); }}><Icon name="pencil" /></Button>}
                {own && <Button tabIndex={-1} aria-label="Delete" title="Delete" act={() => { actions.remove(event); }}><Icon name="bin" /></Button>}
              </div>
            )}
          </div>
          {editing ? <small class="mark">being edited</small> : mark && <small class="mark">{mark}</small>}
          {state === 'failed' && <Button class="link" act={() => client.resendEvent(event, room)}>Not sent. Try again</Button>}
          {edit === 'failed' && <Button class="link" act={() => client.resendEvent(event.replacingEvent() ?? event, room)}>Change not saved. Try again</Button>}
          {row.reactions.length > 0 && (
            <div class="reactions">
              {row.reactions.map(({ key, count, mine, who }) => (
                <Button key={key} class="reaction" tabIndex={-1} aria-pressed={mine} title={who} act={() => react(key)}>{key} {count}</Button>
              ))}
            </div>
          )}
        </div>
      </li>
    );
  }
}
