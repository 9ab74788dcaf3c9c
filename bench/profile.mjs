// What a part of the work spends its time on, for the figures that missed their floor: the part is
// done once more, slower, while somebody notes which function is at work.

/**
 * The parts of the work from which the missed figures came, each once. Sizes, and memory, have
 * none.
 */
export function missedParts(lines, { from }) {
  return [...new Set(lines.filter(({ verdict, figure }) => verdict === 'missed' && from[figure]).map(({ figure }) => from[figure]))];
}

/**
 * Does a part once more; resolves to `{ part, functions }`, the functions that took the most as `{
 * name, share }` of all that was noted.
 */
export async function profile(target, part, count = 15) {
  try {
    const noted = await target.profile(part);
    const total = [...noted.values()].reduce((sum, amount) => sum + amount, 0);
    const functions = [...noted].sort(([, a], [, b]) => b - a).slice(0, count).map(([name, amount]) => ({ name, share: amount / total }));
    return { part, functions };
  } catch (error) {
    return { part, functions: [], failed: error.message };
  }
}

/** One part's functions as text. */
export function shownProfile({ part, functions, failed }) {
  if (failed) return `"${part}" could not be profiled: ${failed}`;
  const lines = functions.map(({ name, share }) => `${(share * 100).toFixed(1).padStart(6)} %  ${name}`);
  return [`where "${part}" spends its time:`, ...lines].join('\n');
}

/** Adds `amount` to what is noted of a function. */
export function note(noted, name, amount) {
  // Rust's names end in a hash.
  const plain = name.replace(/::h[0-9a-f]{16}$/, '');
  noted.set(plain, (noted.get(plain) ?? 0) + amount);
}
