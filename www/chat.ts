// The chat of one account: rooms at the side, the open room beside them.

import { type Server } from 'ephapse';
import { type MatrixEvent, MatrixEventEvent, MsgType, type Room, ClientEvent, RoomEvent, RoomMemberEvent } from 'matrix-js-sdk';
import { dropAccount, shortName, useAccount } from './accounts.ts';
import { button, field, h, icon, openForm, openNotice, text, toast } from './dom.ts';
import { invite, joinedRooms, lock, newRoom, renderRooms } from './rooms.ts';
import { brand, statusLine } from './server.ts';
import { type Session, makeRecoveryKey, recover } from './session.ts';
import { loadOlder, renderTimeline } from './timeline.ts';

/** Shows the chat in `place` until the account is left. */
export function chat(place: HTMLElement, server: Server, session: Session): Promise<void> {
  const { client, account, encryption } = session;
  let current: string | undefined;
  let editing: MatrixEvent | undefined;
  let drawing = false;
  let older = false;
  const read = new Map<string, string>();

  const list = h('ul', { class: 'rooms' });
  const heading = h('h2', { tabindex: '-1' });
  const subtitle = h('small');
  const timeline = h('ol', { class: 'timeline', role: 'log', 'aria-label': 'Messages' });
  const scroller = h('div', { class: 'scroller', tabindex: '0', 'aria-label': 'Conversation', role: 'region' }, timeline);
  const typing = h('p', { class: 'typing', 'aria-live': 'polite' });
  const input = h('textarea', { rows: '1', placeholder: 'Message', 'aria-label': 'Message', enterkeyhint: 'send' });
  const send = h('button', { class: 'primary round', 'aria-label': 'Send', title: 'Send' }, icon('send'));
  const composer = h('form', { class: 'composer' }, input, send);
  const back = button({ class: 'round back', 'aria-label': 'Back to the rooms' }, icon('back'), () => { open(undefined); });
  const inviting = button({ class: 'round', 'aria-label': 'Invite somebody', title: 'Invite somebody' }, icon('invite'), () => { const room = openRoom(); if (room) invite(client, room); });
  const leaving = button({ class: 'round', 'aria-label': 'Leave the room', title: 'Leave the room' }, icon('leave'), leave);
  const conversation = h('section', { class: 'conversation' }, h('header', {}, back, h('div', { class: 'grow' }, heading, subtitle), inviting, leaving), scroller, typing, composer);
  const welcome = h('section', { class: 'welcome' }, h('img', { src: 'icon.svg', alt: '', width: '72', height: '72' }), h('h2', {}, `Hello, ${shortName(account.userId)}`), h('p', {}, 'Everything here is served by a homeserver inside this browser.'), button({ class: 'primary' }, 'Make a room', () => { newRoom(client, encryption, open); }));

  composer.addEventListener('submit', (event) => { event.preventDefault(); submit().catch(toast); });
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); composer.requestSubmit(); }
    if (event.key === 'Escape' && editing) { editing = undefined; input.value = ''; fit(); }
  });
  input.addEventListener('input', () => {
    fit();
    if (current !== undefined) client.sendTyping(current, input.value !== '', 10_000).catch(() => undefined);
  });
  scroller.addEventListener('scroll', fill, { passive: true });

  return new Promise((resolve) => {
    const menu = h(
      'details',
      { class: 'menu' },
      h('summary', { class: 'round', 'aria-label': 'Account', title: account.userId }, shortName(account.userId).slice(0, 1).toUpperCase()),
      h(
        'div',
        { class: 'sheet' },
        h('p', {}, h('strong', {}, shortName(account.userId)), h('small', { class: 'id' }, account.userId)),
        encryption && button({}, 'Make a recovery key', async () => { openNotice('Your recovery key', h('p', {}, 'Keep it somewhere safe. With it another device of yours can read your encrypted messages.'), h('code', { class: 'key' }, await makeRecoveryKey(client))); }),
        encryption && button({}, 'Enter a recovery key', () => { openForm('Read older messages', [field('Recovery key', { name: 'key', required: true, autocomplete: 'off', spellcheck: 'false' })], 'Restore', async (fields) => { toast(`${String(await recover(client, text(fields, 'key')))} keys restored`); return draw; }); }),
        button({}, 'Use another account', () => { session.close(); useAccount(undefined); status.stop(); resolve(); }),
        button({ class: 'danger' }, 'Log out', logOut),
      ),
    );
    menu.addEventListener('click', (event) => { if ((event.target as HTMLElement).closest('button')) menu.open = false; });
    menu.addEventListener('keydown', ({ key }) => { if (key === 'Escape') { menu.open = false; menu.querySelector('summary')?.focus(); } });
    menu.addEventListener('focusout', ({ relatedTarget }) => { if (relatedTarget instanceof Node && !menu.contains(relatedTarget)) menu.open = false; });

    const adding = button({ class: 'round', 'aria-label': 'New room', title: 'New room' }, icon('plus'), () => { newRoom(client, encryption, open); });
    const status = statusLine(server, () => joinedRooms(client).length);
    const side = h('nav', { class: 'side', 'aria-label': 'Rooms' }, h('header', {}, brand(), h('span', { class: 'grow' }), adding, menu), list, status.line);
    place.replaceChildren(h('main', { class: 'chat' }, side, h('div', { class: 'stage' }, welcome, conversation)));

    for (const event of [RoomEvent.Timeline, RoomEvent.Redaction, RoomEvent.LocalEchoUpdated, RoomEvent.MyMembership, RoomEvent.Name, ClientEvent.Room, MatrixEventEvent.Decrypted, MatrixEventEvent.Replaced, RoomMemberEvent.Membership] as const) {
      client.on(event, drawSoon);
    }
    client.on(RoomMemberEvent.Typing, drawTyping);
    open(undefined);

    async function logOut(): Promise<void> {
      await client.logout(true);
      await client.clearStores({ cryptoDatabasePrefix: `ephapse demo ${account.userId} ${account.deviceId}` });
      session.close();
      dropAccount(account);
      status.stop();
      resolve();
    }
  });

  function openRoom(): Room | undefined {
    return current === undefined ? undefined : (client.getRoom(current) ?? undefined);
  }

  function open(roomId: string | undefined): void {
    current = roomId;
    editing = undefined;
    input.value = '';
    document.body.classList.toggle('in-room', roomId !== undefined);
    conversation.hidden = roomId === undefined;
    welcome.hidden = roomId !== undefined;
    draw();
    scroller.scrollTop = scroller.scrollHeight;
    if (roomId === undefined) return;
    input.focus();
    fill();
  }

  function drawSoon(): void {
    if (drawing) return;
    drawing = true;
    // A hidden tab gets no animation frames.
    setTimeout(() => { drawing = false; draw(); }, 16);
  }

  function draw(): void {
    renderRooms(list, client, current, open);
    const room = openRoom();
    if (!room || room.getMyMembership() !== 'join') return;
    heading.replaceChildren(room.name, ...(room.hasEncryptionStateEvent() ? [lock()] : []));
    const members = room.getJoinedMemberCount();
    subtitle.textContent = members === 1 ? 'Only you' : `${String(members)} members`;
    const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
    renderTimeline(timeline, client, room, { edit });
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
    drawTyping();
    markRead(room);
  }

  function drawTyping(): void {
    const room = openRoom();
    const names = (room?.getMembers() ?? []).filter((member) => member.typing && member.userId !== account.userId).map((member) => shortName(member.userId));
    typing.textContent = names.length === 0 ? '' : `${names.join(', ')} ${names.length === 1 ? 'is' : 'are'} typing…`;
  }

  function markRead(room: Room): void {
    const last = room.getLiveTimeline().getEvents().findLast((event) => event.status === null);
    const id = last?.getId();
    if (!last || id === undefined || read.get(room.roomId) === id || document.hidden) return;
    read.set(room.roomId, id);
    client.sendReadReceipt(last).catch(() => read.delete(room.roomId));
  }

  function fill(): void {
    const room = openRoom();
    if (!room || older || scroller.scrollTop > 120 || room.getLiveTimeline().getPaginationToken('b' as never) === null) return;
    older = true;
    void loadOlder(scroller, client, room, draw).finally(() => { older = false; });
  }

  function edit(event: MatrixEvent): void {
    editing = event;
    input.value = String(event.getContent()['body'] ?? '');
    input.focus();
  }

  function leave(): void {
    const room = openRoom();
    if (!room) return;
    openForm(`Leave ${room.name}?`, [h('p', {}, 'You can come back only when somebody invites you.')], 'Leave', async () => {
      await client.leave(room.roomId);
      await client.forget(room.roomId);
      return () => { open(undefined); };
    });
  }

  async function submit(): Promise<void> {
    const body = input.value.trim();
    if (body === '' || current === undefined) return;
    input.value = '';
    fit();
    const replaced = editing;
    editing = undefined;
    void client.sendTyping(current, false, 0).catch(() => undefined);
    const content = { msgtype: MsgType.Text as const, body };
    const id = replaced?.getId();
    if (id === undefined) await client.sendMessage(current, content);
    else await client.sendMessage(current, { msgtype: MsgType.Text, body: `* ${body}`, 'm.new_content': content, 'm.relates_to': { rel_type: 'm.replace', event_id: id } } as never);
  }

  function fit(): void {
    input.style.height = 'auto';
    input.style.height = `${String(Math.min(input.scrollHeight, 160))}px`;
  }
}
