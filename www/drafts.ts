// What somebody has begun to write, for each room of an account. It survives another room, a reload
// and the end of the tab, and goes with logging out.

const prefix = (userId: string): string => `ephapse demo draft ${userId} `;

/** What was begun in a room. */
export function draft(userId: string, roomId: string): string {
  return localStorage.getItem(prefix(userId) + roomId) ?? '';
}

/** Keeps what was begun; nothing where it is empty. */
export function keepDraft(userId: string, roomId: string, text: string): void {
  const key = prefix(userId) + roomId;
  if (text === '') localStorage.removeItem(key);
  else {
    try {
      localStorage.setItem(key, text);
    } catch {
      // There is no room for it: it stays in the field, and goes with it.
    }
  }
}

/** Forgets what an account had begun. */
export function forgetDrafts(userId: string): void {
  const keys = Array.from({ length: localStorage.length }, (_, index) => localStorage.key(index));
  for (const key of keys) if (key?.startsWith(prefix(userId)) === true) localStorage.removeItem(key);
}
