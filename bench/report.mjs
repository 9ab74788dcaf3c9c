// The table: what each figure is called, its unit, its floor and its aim.

/** `atMost`: smaller is better; `times`: at least that many times the peer's. */
const MEASURES = [
  { figure: 'whoami', title: 'GET whoami, the floor of every request', unit: 'ms' },
  { figure: 'send', title: 'send acknowledged p50', unit: 'ms' },
  { figure: 'send99', title: 'send acknowledged p99', unit: 'ms' },
  { figure: 'sendRate', title: 'sequential sends', unit: '/s', times: [10, 20] },
  { figure: 'eightRate', title: 'sends, 8 at once', unit: '/s', times: [20, 40] },
  { figure: 'arrival', title: 'send to arrival at a held sync', unit: 'ms', atMost: [2, 1] },
  { figure: 'createRoom', title: 'createRoom', unit: 'ms', atMost: [4, 2] },
  { figure: 'initialSync', title: 'initial sync of 100 rooms', unit: 'ms', atMost: [40, 20] },
  { figure: 'sendLater', title: 'send acknowledged p50 after 10,000', unit: 'ms' },
  { figure: 'slowdown', title: 'a send after 10,000, against the first 300', unit: 'x', atMost: [1.05, 1] },
  { figure: 'manyEvents', title: 'a send in a room of 100,000 events, against a small one', unit: 'x', atMost: [1.3, 1.1] },
  { figure: 'manyMembers', title: 'a send in a room of 10,000 members, against a small one', unit: 'x', atMost: [1.3, 1.1] },
  { figure: 'joinBytes', title: 'bytes written by a join there, against a small one', unit: 'x', atMost: [1.5, 1.5] },
  { figure: 'memory', title: 'memory after 100 rooms and 10,000 sends', unit: 'MB', atMost: [64, 30] },
  { figure: 'coldStart', title: 'process start to first sync answered, 1,000 rooms', unit: 'ms', atMost: [100, 80] },
];

/** One row for each figure that was measured, with its verdict: `aim`, `floor`, `missed`, or nothing where there is no bar. */
export function rows(ours, theirs) {
  return MEASURES.filter(({ figure }) => ours[figure] !== undefined).map((measure) => {
    const value = ours[measure.figure];
    const peer = theirs?.[measure.figure];
    const ratio = peer === undefined ? undefined : measure.unit === '/s' ? value / peer : peer / value;
    return { ...measure, value, peer, ratio, verdict: verdict(measure, value, ratio) };
  });
}

function verdict({ atMost, times }, value, ratio) {
  if (atMost) return value <= atMost[1] ? 'aim' : value <= atMost[0] ? 'floor' : 'missed';
  if (times && ratio !== undefined) return ratio >= times[1] ? 'aim' : ratio >= times[0] ? 'floor' : 'missed';
  return '';
}

/** The rows as text in columns. */
export function table(lines, ourName, peerName) {
  const head = ['', ourName, ...(peerName ? [peerName, 'times'] : []), 'floor', 'aim', ''];
  const body = lines.map(({ title, unit, value, peer, ratio, atMost, times, verdict: reached }) => [
    title,
    `${figure(value)} ${unit}`,
    ...(peerName ? [peer === undefined ? '' : `${figure(peer)} ${unit}`, ratio === undefined ? '' : `${figure(ratio)}x`] : []),
    ...(atMost ? atMost.map((bar) => `${bar} ${unit}`) : times ? times.map((bar) => `${bar}x`) : ['', '']),
    reached,
  ]);
  const widths = head.map((_, column) => Math.max(...[head, ...body].map((row) => row[column].length)));
  const line = (row) => row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))).join('  ').trimEnd();
  return [head, ...body].map(line).join('\n');
}

const figure = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));
