// The demo: starts the homeserver, logs somebody in, shows the chat. On the package alone, as any other site would use it.

import { EphapseError, type Server } from 'ephapse';
import { currentAccount, dropAccount, useAccount } from './accounts.ts';
import { button, h, messageOf, toast } from './dom.ts';
import { brand, startWithProgress } from './server.ts';

const app = document.getElementById('app') as HTMLElement;

try {
  const server = await startWithProgress(app);
  server.on('restart', () => { toast('The homeserver had an error and started anew. Nothing that was sent is lost.'); });
  server.on('error', (error) => { toast(error); });
  // Without this a browser short of space may delete the site's data.
  // WebKitGTK 2.50 has no `navigator.storage`.
  void (navigator.storage as StorageManager | undefined)?.persist();
  for (;;) await visit(server);
} catch (error) {
  const next = error instanceof EphapseError ? error.nextStep : 'Reload the page.';
  const what = messageOf(error).replace(next, '').trim();
  app.replaceChildren(h('main', { class: 'card', role: 'alert' }, brand(), h('h1', {}, 'The homeserver does not start'), h('p', {}, what), h('p', {}, h('strong', {}, next)), button({ class: 'primary' }, 'Reload', () => { location.reload(); })));
}

/** From logging in to logging out. */
async function visit(server: Server): Promise<void> {
  document.body.classList.remove('in-room');
  const [{ signIn }, { AccountInUse, openSession }, { chat }] = await Promise.all([import('./sign-in.ts'), import('./session.ts'), import('./chat.ts')]);
  const remembered = currentAccount();
  const { account, password } = remembered ? { account: remembered, password: undefined } : await signIn(app, server);
  app.replaceChildren(h('main', { class: 'card' }, brand(), h('p', { role: 'status' }, 'Opening your rooms…')));
  try {
    await chat(app, server, await openSession(server, account, password));
  } catch (error) {
    if (isLoggedOut(error)) dropAccount(account);
    useAccount(undefined);
    // A second tab is for a second account: no word about the first.
    if (error instanceof AccountInUse && remembered) return;
    await new Promise<void>((resolve) => {
      app.replaceChildren(h('main', { class: 'card', role: 'alert' }, brand(), h('h1', {}, 'This account cannot be opened'), h('p', {}, messageOf(error)), button({ class: 'primary' }, 'Choose an account', resolve)));
    });
  }
}

function isLoggedOut(error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'errcode' in error && error.errcode === 'M_UNKNOWN_TOKEN';
}
