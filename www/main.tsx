// The demo: starts the homeserver, logs somebody in, shows the chat. On the package alone, as any
// other site would use it.

import { EphapseError, type Server } from 'ephapse';
import { type VNode, render } from 'preact';
import { AccountInUse, currentAccount, dropAccount, useAccount } from './accounts.ts';
import { nameInAddress } from './route.ts';
import { startWithProgress } from './server.tsx';
import { Button, Card, messageOf, toast } from './widgets.tsx';

const app = document.getElementById('app') as HTMLElement;
const show = (view: VNode): void => { render(view, app); };

try {
  const server = await startWithProgress(show);
  server.on('restart', () => { toast('The homeserver had an error and restarted. No sent message is lost.'); });
  server.on('error', (error) => { toast(error); });
  keepStorage();
  for (;;) await visit(server);
} catch (error) {
  const next = error instanceof EphapseError ? error.nextStep : 'Reload the page.';
  const what = messageOf(error).replace(next, '').trim();
  show(
    <Card title="The homeserver does not start" alert>
      <p>{what}</p>
      <p><strong>{next}</strong></p>
      <Button class="primary wide" act={() => { location.reload(); }}>Reload</Button>
    </Card>,
  );
}

/**
 * Asks for storage that stays: else a browser short of space may delete the site's data. WebKit has
 * no `navigator.storage` everywhere.
 */
function keepStorage(): void {
  const { storage } = navigator as { storage?: StorageManager };
  storage?.persist().catch(() => undefined);
}

/** From logging in to logging out. */
async function visit(server: Server): Promise<void> {
  const [{ SignIn }, { openSession, prepareEncryption }, { Chat }] = await Promise.all([import('./sign-in.tsx'), import('./session.ts'), import('./chat.tsx')]);
  // The encryption's module is large: it comes while the form is filled in.
  prepareEncryption();
  const remembered = currentAccount();
  const { account, password } = remembered ? { account: remembered, password: undefined } : await SignIn.ask(server, show);
  show(<Card><p role="status">Opening your rooms…</p></Card>);
  try {
    const session = await openSession(server, account, password);
    await new Promise<void>((left) => { show(<Chat key={account.userId} server={server} session={session} leave={left} />); });
    document.title = 'ephapse';
    nameInAddress(undefined, { replace: true });
  } catch (error) {
    if (isLoggedOut(error)) dropAccount(account);
    useAccount(undefined);
    // A second tab is for a second account, and the form says which ones are open.
    if (error instanceof AccountInUse && remembered) return;
    await new Promise<void>((resolve) => {
      show(
        <Card title="This account cannot be opened" alert>
          <p>{messageOf(error)}</p>
          <Button class="primary wide" act={resolve}>Choose an account</Button>
        </Card>,
      );
    });
  }
}

function isLoggedOut(error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'errcode' in error && error.errcode === 'M_UNKNOWN_TOKEN';
}
