// One stop for the Tab key in a group of many things, and keys that move between them.
// https://www.w3.org/WAI/ARIA/apg/practices/keyboard-interface/#kbd_roving_tabindex

/**
 * Moves the focus between the elements of `selector` in `group`; `steps` says how far each key
 * moves. Where the focus is in none of them, nothing happens; the ends are ends.
 */
export function moveFocus(event: KeyboardEvent, group: HTMLElement, selector: string, steps: Record<string, number>): boolean {
  const step = steps[event.key];
  if (step === undefined || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return false;
  const all = [...group.querySelectorAll<HTMLElement>(selector)];
  const at = all.indexOf((event.target as HTMLElement).closest<HTMLElement>(selector) as HTMLElement);
  if (at === -1) return false;
  event.preventDefault();
  all[Math.min(Math.max(at + step, 0), all.length - 1)]?.focus();
  return true;
}
