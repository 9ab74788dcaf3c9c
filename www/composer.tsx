// Where a message is written, or changed.

import { type MatrixClient, type MatrixEvent, MsgType, type Room } from 'matrix-js-sdk';
import { type VNode } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { draft, keepDraft } from './drafts.ts';
import { bodyOf } from './room.ts';
import { Icon, toast } from './widgets.tsx';

/** Whether this is a touch screen, which brings up a keyboard when a field has the focus. */
export function touches(): boolean {
  return matchMedia('(hover: none)').matches;
}

interface Props {
  client: MatrixClient;
  room: Room;
  editing: MatrixEvent | undefined;
  /** Ends the editing. */
  stopEditing: () => void;
  /** Edits the last own message. */
  editLast: () => void;
}

/**
 * The bar below a conversation. Give it a key of room and edited message: what is written belongs
 * to both.
 */
export function Composer({ client, room, editing, stopEditing, editLast }: Props): VNode {
  const input = useRef<HTMLTextAreaElement>(null);
  const user = client.getSafeUserId();
  const { roomId } = room;

  const fit = (): void => {
    const area = input.current;
    if (!area) return;
    area.style.height = 'auto';
    area.style.height = `${Math.min(area.scrollHeight + 2, 160)}px`;
  };
  useLayoutEffect(() => {
    const area = input.current;
    if (!area) return undefined;
    fit();
    // On a touch screen the focus would bring up the keyboard over what somebody came to read.
    if (editing || !touches()) area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
    addEventListener('resize', fit);
    return () => { removeEventListener('resize', fit); };
  }, []);

  const onInput = (): void => {
    const value = input.current?.value ?? '';
    fit();
    if (!editing) keepDraft(user, roomId, value);
    client.sendTyping(roomId, value !== '', 10_000).catch(() => undefined);
  };
  const submit = (): void => {
    const area = input.current;
    const body = area?.value.trim() ?? '';
    if (!area || body === '') return;
    client.sendTyping(roomId, false, 0).catch(() => undefined);
    send(client, roomId, body, editing).catch(toast);
    if (editing) stopEditing();
    else {
      area.value = '';
      keepDraft(user, roomId, '');
      fit();
    }
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.isComposing) return;
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      submit();
    } else if (event.key === 'Escape' && editing) {
      event.preventDefault();
      stopEditing();
    } else if (event.key === 'ArrowUp' && !editing && input.current?.value === '') {
      event.preventDefault();
      editLast();
    }
  };

  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); submit(); }}>
      {editing && (
        <div class="editing-bar">
          <Icon name="pencil" />
          <span class="grow"><strong>Editing a message</strong><small>{bodyOf(editing)}</small></span>
          <button type="button" title="Escape" onClick={stopEditing}>Cancel</button>
        </div>
      )}
      <div class="write">
        <textarea
          ref={input} rows={1} placeholder="Message" aria-label={editing ? 'Edited message' : 'Message'} enterkeyhint="send"
          defaultValue={editing ? bodyOf(editing) : draft(user, roomId)} onInput={onInput} onKeyDown={onKeyDown}
        />
        <button class="primary round" aria-label={editing ? 'Save' : 'Send'} title={editing ? 'Save' : 'Send'}><Icon name={editing ? 'check' : 'send'} /></button>
      </div>
    </form>
  );
}

async function send(client: MatrixClient, roomId: string, body: string, editing: MatrixEvent | undefined): Promise<void> {
  const content = { msgtype: MsgType.Text as const, body };
  const id = editing?.getId();
  if (id === undefined) await client.sendMessage(roomId, content);
  else if (editing && body !== bodyOf(editing)) {
    await client.sendMessage(roomId, { msgtype: MsgType.Text, body: `* ${body}`, 'm.new_content': content, 'm.relates_to': { rel_type: 'm.replace', event_id: id } } as never);
  }
}
