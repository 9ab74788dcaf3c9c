// The address of the page: `#/room/!id` shows that room, anything else none. A reload stays where
// it is, and the browser's back and forward work.

const prefix = '#/room/';

/** The room that the address names. */
export function roomInAddress(): string | undefined {
  if (!location.hash.startsWith(prefix)) return undefined;
  try {
    return decodeURIComponent(location.hash.slice(prefix.length));
  } catch {
    return undefined;
  }
}

/**
 * Names a room in the address, or none. With `replace` the way back skips what was there before.
 */
export function nameInAddress(roomId: string | undefined, { replace = false } = {}): void {
  if (roomId === roomInAddress()) return;
  const address = roomId === undefined ? location.pathname + location.search : prefix + encodeURIComponent(roomId);
  if (replace) history.replaceState(null, '', address);
  else history.pushState({ fromRooms: roomInAddress() === undefined }, '', address);
}

/**
 * From a room back to the list: the browser's own way back where that leads there, so that it is
 * not lengthened by it.
 */
export function backToRooms(): void {
  const { state } = history as { state: { fromRooms?: boolean } | null };
  if (state?.fromRooms === true) history.back();
  else {
    nameInAddress(undefined, { replace: true });
    dispatchEvent(new PopStateEvent('popstate'));
  }
}
