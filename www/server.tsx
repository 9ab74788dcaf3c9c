// The homeserver in this page: its start with progress, and the panel that tells about it.

import { type Progress, type Server, type Status, start } from 'ephapse';
import { type ComponentChildren, type VNode } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { Done, openDialog } from './dialogs.tsx';
import { Button, Card, toast } from './widgets.tsx';

const steps: { stage: Progress['stage']; label: string }[] = [
  { stage: 'download', label: 'Download' },
  { stage: 'compile', label: 'Compile' },
  { stage: 'open', label: 'Open the database' },
];

/** Starts the server, and shows how far it is. */
export async function startWithProgress(show: (view: VNode) => void): Promise<Server> {
  let progress: Progress = { stage: 'download', loaded: 0, total: 1 };
  let shown = false;
  const draw = (): void => { if (shown) show(<Starting progress={progress} />); };
  // A server that runs already answers in a moment: no need to show a flash of this.
  const late = setTimeout(() => { shown = true; draw(); }, 150);
  try {
    // Beside the page, wherever the demo lies.
    return await start({ workerUrl: 'ephapse-worker.js', onProgress: (now) => { progress = now; draw(); } });
  } finally {
    clearTimeout(late);
    shown = false;
  }
}

function Starting({ progress: { stage, loaded, total } }: { progress: Progress }): VNode {
  const at = steps.findIndex((step) => step.stage === stage);
  return (
    <Card title="Starting your homeserver">
      <p>A Matrix homeserver is starting inside this page. Its rooms stay in this browser.</p>
      <ol class="steps">
        {steps.map(({ label }, index) => (
          <li key={label}>
            <label>{label}<progress max={1} value={index < at ? 1 : index > at ? 0 : loaded / total} /></label>
          </li>
        ))}
      </ol>
    </Card>
  );
}

/** A line that tells that the server runs, and more when it is pressed. */
export function StatusLine({ server, rooms }: { server: Server; rooms: () => number }): VNode {
  const [stored, setStored] = useState<number>();
  useEffect(() => {
    const renew = (): void => {
      if (document.hidden) return;
      server.status().then(({ storageUsed }) => { setStored(storageUsed); }, () => undefined);
    };
    renew();
    const timer = setInterval(renew, 10_000);
    return () => { clearInterval(timer); };
  }, [server]);
  const { serverName } = server;
  return (
    <Button class="server" title={serverName} act={async () => { showStatus(server, await server.status(), rooms()); }}>
      <span class="dot" aria-hidden="true" />
      <span class="server-text">
        <strong>Homeserver in this browser</strong>
        <small>{serverName.slice(0, 8)}…{serverName.slice(-4)}{known(stored) && ` · ${size(stored)} stored`}</small>
      </span>
    </Button>
  );
}

function showStatus(server: Server, status: Status, rooms: number): void {
  const { storageUsed: used, storageQuota: quota } = status;
  const copy = async (): Promise<void> => {
    await navigator.clipboard.writeText(status.serverName);
    toast('Copied');
  };
  openDialog('Your homeserver', (close) => (
    <>
      <dl class="facts">
        <Fact name="Server name"><code>{status.serverName}</code></Fact>
        <Fact name="Address in this page"><code>{server.baseUrl}</code></Fact>
        <Fact name="Rooms of this account">{rooms}</Fact>
        <Fact name="Storage used">{known(used) ? `${size(used)}${known(quota) ? ` of ${size(quota)}` : ''}` : 'Not available in this browser'}</Fact>
        <Fact name="Engine">{size(status.wasmBytes)} of WebAssembly, version {status.version}</Fact>
        <Fact name="Memory">{size(status.memoryBytes)}</Fact>
      </dl>
      <Button act={copy}>Copy the server name</Button>
      <Done close={close} />
    </>
  ));
}

function Fact({ name, children }: { name: string; children: ComponentChildren }): VNode {
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}

/** Whether the browser tells how much is stored: not all of them do. */
function known(bytes: number | undefined): bytes is number {
  return bytes !== undefined && bytes > 0;
}

function size(bytes: number): string {
  const units = ['bytes', 'KB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  for (; value >= 1_000 && unit < units.length - 1; unit += 1) value /= 1_000;
  return `${value.toFixed(value < 10 && unit > 1 ? 1 : 0)} ${units[unit] ?? ''}`;
}
