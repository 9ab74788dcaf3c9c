// The forms to log in and to register.

import { type Server } from 'ephapse';
import { createClient } from 'matrix-js-sdk';
import { type Account, accounts, shortName, useAccount } from './accounts.ts';
import { busy, button, field, h, messageOf, text } from './dom.ts';
import { brand } from './server.ts';

/** Shows the forms in `place` until somebody is logged in; `password` is for what a new account still has to prove. */
export function signIn(place: HTMLElement, server: Server): Promise<{ account: Account; password?: string }> {
  return new Promise((resolve) => {
    const client = createClient({ baseUrl: server.baseUrl, fetchFn: server.fetch });
    const known = accounts();
    let registering = known.length === 0;

    const show = (): void => {
      const problem = h('p', { class: 'problem', role: 'alert' });
      const go = h('button', { class: 'primary wide' }, registering ? 'Create account' : 'Log in');
      const form = h(
        'form',
        {},
        field('User name', { name: 'user', required: true, autocomplete: 'username', autocapitalize: 'none', spellcheck: 'false', pattern: '[a-z0-9._=\\/+\\-]+', title: 'Small letters, digits and . _ = - / +' }),
        field('Password', { name: 'password', type: 'password', required: true, autocomplete: registering ? 'new-password' : 'current-password' }),
        problem,
        go,
      );
      form.addEventListener('submit', (event) => {
        event.preventDefault();
        problem.textContent = '';
        const fields = new FormData(form);
        const password = text(fields, 'password');
        void busy(go, async () => {
          const account = registering ? await register(text(fields, 'user'), password) : await logIn(text(fields, 'user'), password);
          useAccount(account);
          resolve(registering ? { account, password } : { account });
        }, (error) => { problem.textContent = messageOf(error); });
      });
      const other = button({ class: 'link' }, registering ? 'Log in to an existing account' : 'Create an account', () => { registering = !registering; show(); });
      const tiles = known.map((account) => button({ class: 'tile' }, shortName(account.userId), () => { useAccount(account); resolve({ account }); }));
      place.replaceChildren(
        h(
          'main',
          { class: 'card' },
          brand(),
          h('h1', {}, registering ? 'Create an account' : 'Log in'),
          h('p', {}, 'Accounts live on the homeserver inside this browser. Open a second tab for a second account, and let them talk.'),
          tiles.length > 0 && h('div', { class: 'tiles', role: 'group', 'aria-label': 'Continue as' }, h('span', {}, 'Continue as'), ...tiles),
          form,
          other,
        ),
      );
      form.querySelector('input')?.focus();
    };

    async function register(user: string, password: string): Promise<Account> {
      const { user_id: userId, device_id: deviceId, access_token: accessToken } = await client.registerRequest({
        username: user,
        password,
        initial_device_display_name: 'ephapse demo',
        auth: { type: 'm.login.dummy' },
      });
      if (deviceId === undefined || accessToken === undefined) throw new Error('The server made the account, but did not log it in.');
      return { userId, deviceId, accessToken };
    }

    async function logIn(user: string, password: string): Promise<Account> {
      const { user_id: userId, device_id: deviceId, access_token: accessToken } = await client.loginRequest({
        type: 'm.login.password',
        identifier: { type: 'm.id.user', user },
        password,
        initial_device_display_name: 'ephapse demo',
      });
      return { userId, deviceId, accessToken };
    }

    show();
  });
}
