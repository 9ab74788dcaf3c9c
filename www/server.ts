// The homeserver in this page: its start with progress, and the panel that tells about it.

import { type Progress, type Server, start } from 'ephapse';
import { button, h, openNotice } from './dom.ts';

const steps: { stage: Progress['stage']; label: string }[] = [
  { stage: 'download', label: 'Download' },
  { stage: 'compile', label: 'Compile' },
  { stage: 'open', label: 'Open the database' },
];

/** Starts the server and shows in `place` how far it is. */
export async function startWithProgress(place: HTMLElement): Promise<Server> {
  const bars = new Map(steps.map(({ stage }) => [stage, h('progress', { max: '1', value: '0', 'aria-label': stage })]));
  const list = h('ol', { class: 'steps' }, ...steps.map(({ stage, label }) => h('li', {}, h('span', {}, label), bars.get(stage))));
  const view = h('main', { class: 'card starting' }, brand(), h('h1', {}, 'Starting your homeserver'), h('p', {}, 'A Matrix homeserver is starting inside this page. Its rooms stay in this browser.'), list);
  // A server that runs already answers in a moment: no need to show a flash of this.
  const late = setTimeout(() => { place.replaceChildren(view); }, 150);
  try {
    return await start({
      // Beside the page, wherever the demo lies.
      workerUrl: 'ephapse-worker.js',
      onProgress: ({ stage, loaded, total }) => {
        for (const step of steps) {
          const bar = bars.get(step.stage);
          if (step.stage === stage) {
            if (bar) bar.value = loaded / total;
            break;
          }
          if (bar) bar.value = 1;
        }
      },
    });
  } finally {
    clearTimeout(late);
  }
}

/** The mark and the name. */
export function brand(): HTMLElement {
  const mark = h('img', { src: 'icon.svg', alt: '', width: '28', height: '28' });
  return h('span', { class: 'brand' }, mark, 'ephapse');
}

/** A line that tells that the server runs, and more when it is pressed; `stop` ends its renewal. */
export function statusLine(server: Server, rooms: () => number): { line: HTMLElement; stop: () => void } {
  const { serverName } = server;
  const details = h('small', {}, `${serverName.slice(0, 8)}…${serverName.slice(-4)}`);
  const line = button({ class: 'server', title: serverName }, h('span', { class: 'dot', 'aria-hidden': 'true' }), () => showStatus(server, rooms()));
  line.append(h('span', {}, h('strong', {}, 'Homeserver in this browser'), details));
  const renew = async (): Promise<void> => {
    if (document.hidden) return;
    const { storageUsed } = await server.status();
    details.textContent = `${serverName.slice(0, 8)}…${serverName.slice(-4)} · ${size(storageUsed)} stored`;
  };
  const timer = setInterval(() => { renew().catch(() => undefined); }, 10_000);
  renew().catch(() => undefined);
  return { line, stop: () => { clearInterval(timer); } };
}

async function showStatus(server: Server, rooms: number): Promise<void> {
  const status = await server.status();
  const rows: [string, string | Node][] = [
    ['Server name', h('code', {}, status.serverName)],
    ['Address in this page', h('code', {}, server.baseUrl)],
    ['Rooms of this account', String(rooms)],
    ['Storage used', `${size(status.storageUsed)} of ${size(status.storageQuota)}`],
    ['Engine', `${size(status.wasmBytes)} of WebAssembly, version ${status.version}`],
    ['Memory', size(status.memoryBytes)],
  ];
  const copy = button({}, 'Copy the server name', () => navigator.clipboard.writeText(status.serverName));
  openNotice('Your homeserver', h('dl', { class: 'facts' }, ...rows.flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])), copy);
}

function size(bytes: number): string {
  const units = ['bytes', 'KB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  for (; value >= 1_000 && unit < units.length - 1; unit += 1) value /= 1_000;
  return `${value.toFixed(value < 10 && unit > 1 ? 1 : 0)} ${units[unit] ?? ''}`;
}
