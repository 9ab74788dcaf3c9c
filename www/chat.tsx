// The chat of one account: rooms at the side, the open room beside them.

import { type Server } from 'ephapse';
import { type MatrixClient, type MatrixEvent, ReceiptType, type Room } from 'matrix-js-sdk';
import { type VNode } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { shortName, useAccount } from './accounts.ts';
import { Composer, touches } from './composer.tsx';
import { LockedNotice, logOut, recoveryKey } from './key-dialogs.tsx';
import { useRedraw } from './redraw.ts';
import { deleteMessage, invite, leave, newRoom, showMembers } from './room-dialogs.tsx';
import { invitations, joinedRooms, nameOf } from './room.ts';
import { Rooms } from './rooms.tsx';
import { backToRooms, nameInAddress, roomInAddress } from './route.ts';
import { StatusLine } from './server.tsx';
import { type Session } from './session.ts';
import { Timeline } from './timeline.tsx';
import { Brand, Button, Icon, toast } from './widgets.tsx';

interface Props {
  server: Server;
  session: Session;
  /** Called when the account is not used here any more. */
  leave: () => void;
}

/** Everything that is shown to who is logged in. */
export function Chat({ server, session, leave: left }: Props): VNode {
  const { client, encryption, account } = session;
  const redraw = useRedraw(client);
  const [current, open] = useOpenRoom(client);
  const room = current === undefined ? undefined : (client.getRoom(current) ?? undefined);
  useTitle(client, room);

  const make = (): void => { newRoom(client, encryption, open); };
  const useAnother = (): void => {
    session.close();
    useAccount(undefined);
    left();
  };
  const Title = current === undefined ? 'h1' : 'p';
  return (
    <main class={current === undefined ? 'chat' : 'chat in-room'}>
      <nav class="side" aria-label="Rooms">
        <header>
          <Title class="brand grow"><Brand /></Title>
          <Button class="round" aria-label="New room" title="New room" act={make}><Icon name="plus" /></Button>
          <AccountMenu session={session} useAnother={useAnother} loggedOut={left} />
        </header>
        {encryption && <LockedNotice session={session} />}
        <Rooms client={client} current={current} open={open} />
        <StatusLine server={server} rooms={() => joinedRooms(client).length} />
      </nav>
      <div class="stage">
        {current === undefined && <Welcome name={shortName(account.userId)} make={make} />}
        {current !== undefined && !room && <section class="welcome" aria-label="Conversation"><h1>Opening the room…</h1></section>}
        {room && <Conversation key={room.roomId} client={client} room={room} redraw={redraw} />}
      </div>
    </main>
  );
}

/** What is beside the rooms while none is open. */
function Welcome({ name, make }: { name: string; make: () => void }): VNode {
  const heading = useRef<HTMLHeadingElement>(null);
  useLayoutEffect(() => {
    // What had the focus is gone: the form, or the room. A narrow window shows the rooms alone.
    if (document.activeElement !== document.body) return;
    heading.current?.focus();
    if (document.activeElement === document.body) document.querySelector<HTMLElement>('.room[tabindex="0"]')?.focus();
  }, []);
  return (
    <section class="welcome" aria-label="Welcome">
      <img src="icon.svg" alt="" width="72" height="72" />
      <h2 ref={heading} tabIndex={-1}>Hello, {name}</h2>
      <p>Everything here is served by a homeserver inside this browser.</p>
      <Button class="primary" act={make}>Make a room</Button>
    </section>
  );
}

/** The room that the address names, and what opens another. */
function useOpenRoom(client: MatrixClient): [string | undefined, (roomId: string) => void] {
  const [current, setCurrent] = useState(roomInAddress);
  // What was just made or joined is open before it came with a sync.
  const awaited = useRef<string | undefined>(undefined);
  useEffect(() => {
    const look = (): void => { setCurrent(roomInAddress()); };
    addEventListener('popstate', look);
    return () => { removeEventListener('popstate', look); };
  }, []);

  const membership = current === undefined ? undefined : client.getRoom(current)?.getMyMembership();
  useEffect(() => {
    if (membership === 'join') awaited.current = undefined;
    if (current === undefined || membership === 'join' || awaited.current === current) return;
    const name = client.getRoom(current)?.name;
    if (membership !== 'invite') toast(name === undefined ? 'This account is not in that room.' : `You are no longer in ${name}.`);
    nameInAddress(undefined, { replace: true });
    setCurrent(undefined);
  }, [current, membership]);

  const open = (roomId: string): void => {
    if (client.getRoom(roomId)?.getMyMembership() !== 'join') awaited.current = roomId;
    nameInAddress(roomId);
    setCurrent(roomId);
  };
  return [current, open];
}

function useTitle(client: MatrixClient, room: Room | undefined): void {
  const waiting = invitations(client).length + joinedRooms(client).filter((other) => (other !== room || document.hidden) && other.getUnreadNotificationCount() > 0).length;
  const title = `${waiting > 0 ? `(${waiting}) ` : ''}${room ? `${room.name} · ` : ''}ephapse`;
  useEffect(() => { document.title = title; }, [title]);
}

function AccountMenu({ session, useAnother, loggedOut }: { session: Session; useAnother: () => void; loggedOut: () => void }): VNode {
  const { account, encryption } = session;
  const menu = useRef<HTMLDetailsElement>(null);
  const close = (): void => { if (menu.current) menu.current.open = false; };
  // The dialog gives the focus back to what had it.
  const then = (act: () => void) => (): void => {
    close();
    menu.current?.querySelector('summary')?.focus();
    act();
  };
  return (
    <details
      class="menu"
      ref={menu}
      onKeyDown={({ key }) => { if (key === 'Escape' && menu.current?.open) then(() => undefined)(); }}
      onFocusOut={({ relatedTarget, currentTarget }) => { if (relatedTarget instanceof Node && !currentTarget.contains(relatedTarget)) close(); }}
    >
      <summary class="round" aria-label="Account" title={account.userId}>{shortName(account.userId).slice(0, 1).toUpperCase()}</summary>
      <div class="sheet">
        <p><strong>{shortName(account.userId)}</strong><small class="id">{account.userId}</small></p>
        {encryption && <button type="button" onClick={then(() => { recoveryKey(session); })}>Recovery key</button>}
        <button type="button" onClick={then(useAnother)}>Use another account</button>
        <button type="button" class="danger" onClick={then(() => { logOut(session, loggedOut); })}>Log out</button>
      </div>
    </details>
  );
}

function Conversation({ client, room, redraw }: { client: MatrixClient; room: Room; redraw: () => void }): VNode {
  const [editing, setEditing] = useState<MatrixEvent>();
  const members = room.getJoinedMemberCount();
  useMarkRead(client, room);
  const section = useRef<HTMLElement>(null);
  // On a touch screen nothing is written at once.
  useLayoutEffect(() => { if (touches()) section.current?.querySelector('h1')?.focus(); }, []);
  const write = (): void => { section.current?.querySelector('textarea')?.focus(); };
  const editLast = (): void => {
    const last = room.getLiveTimeline().getEvents().findLast((event) => event.getType() === 'm.room.message' && event.getSender() === client.getUserId() && event.status === null && !event.isRedacted() && !event.isRelation('m.replace'));
    if (last) setEditing(last);
  };
  return (
    <section class="conversation" aria-label="Conversation" ref={section} onKeyDown={(event) => { if (isTyping(event)) write(); }}>
      <header>
        <Button class="round back" aria-label="Back to the rooms" act={backToRooms}><Icon name="back" /></Button>
        <div class="grow">
          <h1 tabIndex={-1}><span class="room-name">{room.name}</span>{room.hasEncryptionStateEvent() && <Lock />}</h1>
          <Button class="link members-link" title="Members" act={() => { showMembers(client, room); }}>{members === 1 ? 'Only you' : `${members} members`}</Button>
        </div>
        <Button class="round" aria-label="Invite somebody" title="Invite somebody" act={() => { invite(client, room); }}><Icon name="invite" /></Button>
        <Button class="round" aria-label="Leave the room" title="Leave the room" act={() => { leave(client, room, () => { nameInAddress(undefined, { replace: true }); dispatchEvent(new PopStateEvent('popstate')); }); }}><Icon name="leave" /></Button>
      </header>
      <Timeline client={client} room={room} editing={editing} redraw={redraw} actions={{ edit: setEditing, remove: (event) => { deleteMessage(client, room, event, write); } }} />
      <p class="typing" aria-live="polite">{typing(client, room)}</p>
      <Composer key={editing?.getId() ?? ''} client={client} room={room} editing={editing} stopEditing={() => { setEditing(undefined); }} editLast={editLast} />
    </section>
  );
}

/** Whether a key that was pressed in the conversation begins a message. */
function isTyping(event: KeyboardEvent): boolean {
  const { key, target } = event;
  if (key.length !== 1 || key === ' ' || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return false;
  return !(target as HTMLElement).matches('textarea, input');
}

function typing(client: MatrixClient, room: Room): string {
  const names = room.getMembers().filter((member) => member.typing && member.userId !== client.getUserId()).map(({ userId }) => nameOf(room, userId));
  return names.length === 0 ? '' : `${names.join(', ')} ${names.length === 1 ? 'is' : 'are'} typing…`;
}

/** Tells the server what was read, while somebody can see it. */
function useMarkRead(client: MatrixClient, room: Room): void {
  const read = useRef<string | undefined>(undefined);
  useLayoutEffect(() => {
    const last = room.getLiveTimeline().getEvents().findLast((event) => event.status === null);
    const id = last?.getId();
    if (!last || id === undefined || read.current === id || document.hidden) return;
    read.current = id;
    client.sendReadReceipt(last, ReceiptType.Read, true).catch(() => { read.current = undefined; });
  });
}

function Lock(): VNode {
  return <span class="lock" title="Encrypted end to end"><Icon name="lock" /><span class="hidden">encrypted</span></span>;
}
