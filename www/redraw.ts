// Draws a component again when something happened that may change what is shown of rooms.

import { ClientEvent, type MatrixClient, MatrixEventEvent, RoomEvent, RoomMemberEvent } from 'matrix-js-sdk';
import { useEffect, useState } from 'preact/hooks';

// Unread counts have no event of the client's: they are right when a sync is over.
const events = [
  ClientEvent.Room, ClientEvent.Sync, MatrixEventEvent.Decrypted, MatrixEventEvent.Replaced, RoomEvent.LocalEchoUpdated, RoomEvent.MyMembership, RoomEvent.Name, RoomEvent.Receipt,
  RoomEvent.Redaction, RoomEvent.Timeline, RoomMemberEvent.Membership, RoomMemberEvent.Typing,
] as const;

/**
 * Draws the component again at every event of its client, those of one moment together, and when
 * the tab comes back; gives what does so at once.
 */
export function useRedraw(client: MatrixClient): () => void {
  const [, setCount] = useState(0);
  const draw = (): void => { setCount((count) => count + 1); };
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const soon = (): void => {
      // A hidden tab gets no animation frames.
      timer ??= setTimeout(() => {
        timer = undefined;
        draw();
      }, 16);
    };
    for (const event of events) client.on(event, soon);
    document.addEventListener('visibilitychange', soon);
    return () => {
      clearTimeout(timer);
      for (const event of events) client.off(event, soon);
      document.removeEventListener('visibilitychange', soon);
    };
  }, [client]);
  return draw;
}
