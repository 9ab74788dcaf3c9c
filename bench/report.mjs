// The table: what each figure is called, its unit, its floor and its aim for each target.

/**
 * `[floor, aim]`: at most that for a time or a size, at least that for a rate; `times`: at least
 * that many times the peer's rate.
 */
const MEASURES = [
  { figure: 'aloneAnswer', title: 'the browser alone: a request answered by an empty worker', unit: 'ms' },
  { figure: 'aloneWrite', title: 'the browser alone: the same, and 2 KB stored (strict)', unit: 'ms' },
  { figure: 'whoami', title: 'GET whoami: what any request takes', unit: 'ms' },
  { figure: 'send', title: 'send acknowledged p50', unit: 'ms', worker: [6, 5] },
  { figure: 'send99', title: 'send acknowledged p99', unit: 'ms' },
  { figure: 'sendRate', title: 'sequential sends', unit: '/s', times: [10, 20] },
  { figure: 'eightRate', title: 'sends, 8 at once', unit: '/s', times: [20, 40] },
  { figure: 'arrival', title: 'send to arrival at a held sync', unit: 'ms', serve: [2, 1], worker: [9, 7] },
  { figure: 'createRoom', title: 'createRoom', unit: 'ms', serve: [4, 2], worker: [15, 8] },
  { figure: 'initialSync', title: 'initial sync of 100 rooms', unit: 'ms', serve: [40, 20], worker: [120, 60] },
  { figure: 'bulk', title: 'events appended in bulk', unit: '/s', worker: [4_000, 10_000] },
  { figure: 'sendLater', title: 'send acknowledged p50 after 10,000', unit: 'ms' },
  { figure: 'slowdown', title: 'a send after 10,000, against the first 300', unit: 'x', serve: [1.05, 1] },
  { figure: 'manyEvents', title: 'a send in a room of 100,000 events, against a small one', unit: 'x', serve: [1.3, 1.1], worker: [1.3, 1.1] },
  { figure: 'manyMembers', title: 'a send in a room of 10,000 members, against a small one', unit: 'x', serve: [1.3, 1.1], worker: [1.3, 1.1] },
  { figure: 'joinBytes', title: 'bytes written by a join there, against a small one', unit: 'x', serve: [1.5, 1.5], worker: [1.5, 1.5] },
  { figure: 'memory', title: 'memory after 100 rooms and 10,000 sends', unit: 'MB', worker: [64, 30] },
  { figure: 'memoryLarge', title: 'memory after the large rooms', unit: 'MB' },
  { figure: 'ready', title: 'start to the first answer of /versions, 1,000 rooms', unit: 'ms', serve: [100, 50] },
  { figure: 'coldStart', title: 'cold start to first answer, 1,000 rooms', unit: 'ms', serve: [100, 80], worker: [100, 80] },
  { figure: 'received', title: "another server's events taken in, in transactions of 50", unit: '/s', federation: [8_000, 20_000] },
  { figure: 'joinedEvents', title: 'the same out of a join, of a room of 10,000 members', unit: '/s', federation: [8_000, 20_000] },
  { figure: 'join', title: 'join of a room of 1,000 members, 10,000 events behind it', unit: 's', federation: [0.15, 0.08] },
  { figure: 'backfilled', title: 'events backfilled', unit: '/s', federation: [2_000, 4_000] },
  { figure: 'federatedArrival', title: 'one event from /send to arrival at a held sync', unit: 'ms', federation: [3, 2] },
  { figure: 'fork', title: 'a fork of two events, in a room of 100,000 with 10,000 members', unit: 'ms', federation: [50, 50] },
  { figure: 'besideReceiving', title: 'requests while 10,000 events are taken in p95', unit: 'ms', federation: [60, 60] },
  { figure: 'besideJoining', title: 'requests while a room of 10,000 members is joined p95', unit: 'ms', federation: [60, 60] },
  { figure: 'hugeJoin', title: 'join of a room of 100,000 members', unit: 's' },
  { figure: 'joinMemory', title: 'memory of that join', unit: 'MiB', federation: [256, 256] },
  { figure: 'receivedHttps', title: 'over HTTPS: events taken in', unit: '/s' },
  { figure: 'joinHttps', title: 'over HTTPS: join of a room of 100 members, 1,000 events behind it', unit: 's' },
  { figure: 'backfilledHttps', title: 'over HTTPS: events backfilled', unit: '/s' },
  { figure: 'arrivalHttps', title: 'over HTTPS: send there to arrival at a held sync here', unit: 'ms' },
  { figure: 'longestRun', title: 'longest run without yielding', unit: 'ms', worker: [50, 16] },
  { figure: 'longestCollection', title: "longest collection of the browser's garbage", unit: 'ms' },
  { figure: 'wasm', title: 'ephapse.wasm, brotli', unit: 'MB', worker: [1.2, 1] },
];

/**
 * One row for each figure of `target` that was measured, with its verdict: `aim`, `floor`,
 * `missed`, or nothing where there is no bar.
 */
export function rows(target, ours, theirs) {
  return MEASURES.filter(({ figure }) => ours[figure] !== undefined).map(({ figure, title, unit, times, [target]: bars }) => {
    const value = ours[figure];
    const peer = theirs?.[figure];
    const ratio = peer === undefined ? undefined : unit === '/s' ? value / peer : peer / value;
    const compared = times && ratio !== undefined ? { bars: times, reached: ratio, more: true } : bars && { bars, reached: value, more: unit === '/s' };
    return { figure, title, unit, value, peer, ratio, bars: times ?? bars, inTimes: times !== undefined, verdict: compared ? verdict(compared) : '' };
  });
}

function verdict({ bars: [floor, aim], reached, more }) {
  const meets = (bar) => (more ? reached >= bar : reached <= bar);
  return meets(aim) ? 'aim' : meets(floor) ? 'floor' : 'missed';
}

/** The rows as text in columns. */
export function table(lines, ourName, peerName) {
  const head = ['', ourName, ...(peerName ? [peerName, 'times'] : []), 'floor', 'aim', ''];
  const body = lines.map(({ title, unit, value, peer, ratio, bars, inTimes, verdict: reached }) => [
    title,
    `${shown(value)} ${unit}`,
    ...(peerName ? [peer === undefined ? '' : `${shown(peer)} ${unit}`, ratio === undefined ? '' : `${shown(ratio)}x`] : []),
    ...(bars ? bars.map((bar) => (inTimes ? `${bar}x` : `${bar} ${unit}`)) : ['', '']),
    reached,
  ]);
  const widths = head.map((_, column) => Math.max(...[head, ...body].map((row) => row[column].length)));
  const line = (row) => row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))).join('  ').trimEnd();
  return [head, ...body].map(line).join('\n');
}

const shown = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));
