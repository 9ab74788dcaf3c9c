// The forms to log in and to register.

import { type Server } from 'ephapse';
import { type MatrixClient, createClient } from 'matrix-js-sdk';
import { type VNode } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { type Account, AccountInUse, accounts, accountsInUse, shortName, useAccount } from './accounts.ts';
import { Button, Card, Field, Problem, messageOf, text, useBusy } from './widgets.tsx';

/** Who logged in; `password` is for what an account may still have to prove. */
interface SignedIn {
  account: Account;
  password?: string;
}

/** Shows the forms until somebody is logged in. */
async function ask(server: Server, show: (view: VNode) => void): Promise<SignedIn> {
  const used = await accountsInUse();
  return new Promise((resolve) => {
    const signedIn = (who: SignedIn): void => {
      useAccount(who.account);
      resolve(who);
    };
    show(<SignIn server={server} usedAtFirst={used} signedIn={signedIn} />);
  });
}

SignIn.ask = ask;

/** The card with the forms. */
export function SignIn({ server, usedAtFirst, signedIn }: { server: Server; usedAtFirst: Set<string>; signedIn: (who: SignedIn) => void }): VNode {
  const [known] = useState(accounts);
  const used = useAccountsInUse(usedAtFirst);
  const [registering, setRegistering] = useState(known.every(({ userId }) => used.has(userId)));
  const [problem, setProblem] = useState('');
  const [busy, run] = useBusy((error) => { setProblem(messageOf(error)); });
  const form = useRef<HTMLFormElement>(null);
  useLayoutEffect(() => { form.current?.querySelector('input')?.focus(); }, [registering]);

  const submit = async (user: string, password: string): Promise<void> => {
    const client = createClient({ baseUrl: server.baseUrl, fetchFn: server.fetch });
    signedIn({ account: await (registering ? register(client, user, password) : logIn(client, server, user, password)), password });
  };
  const free = known.filter(({ userId }) => !used.has(userId));
  const open = known.filter(({ userId }) => used.has(userId)).map(({ userId }) => shortName(userId));

  return (
    <Card title={registering ? 'Create an account' : 'Log in'}>
      <p>Accounts live on the homeserver inside this browser. Open a second tab for a second account, and let them talk.</p>
      {free.length > 0 && (
        <div class="tiles" role="group" aria-label="Continue as">
          <span>Continue as</span>
          {free.map((account) => <Button key={account.userId} class="tile" act={() => { signedIn({ account }); }}>{shortName(account.userId)}</Button>)}
        </div>
      )}
      {open.length > 0 && <p class="in-use">{open.join(', ')} {open.length === 1 ? 'is' : 'are'} open in another tab.</p>}
      <form
        ref={form}
        onSubmit={(event) => {
          event.preventDefault();
          const fields = new FormData(event.currentTarget);
          setProblem('');
          run(() => submit(text(fields, 'user'), text(fields, 'password')));
        }}
      >
        <Field
          label="User name" name="user" required autocomplete="username" autocapitalize="none" spellcheck={false}
          pattern="[a-z0-9._=\/+\-]+" title="Small letters, digits and . _ = - / +"
        />
        <Field label="Password" name="password" type="password" required autocomplete={registering ? 'new-password' : 'current-password'} />
        {problem !== '' && <Problem>{problem}</Problem>}
        <button class="primary wide" aria-busy={busy} aria-disabled={busy}>{registering ? 'Create account' : 'Log in'}</button>
      </form>
      <button type="button" class="link" onClick={() => { setProblem(''); setRegistering(!registering); }}>
        {registering ? 'Log in to an existing account' : 'Create an account'}
      </button>
    </Card>
  );
}

/** The users whose accounts are open in a tab, as tabs come and go. */
function useAccountsInUse(atFirst: Set<string>): Set<string> {
  const [used, setUsed] = useState(atFirst);
  useEffect(() => {
    const timer = setInterval(() => { accountsInUse().then(setUsed, () => undefined); }, 1_000);
    return () => { clearInterval(timer); };
  }, []);
  return used;
}

const deviceName = 'ephapse demo';

async function register(client: MatrixClient, username: string, password: string): Promise<Account> {
  const { user_id: userId, device_id: deviceId, access_token: accessToken } = await client.registerRequest({
    username,
    password,
    initial_device_display_name: deviceName,
    auth: { type: 'm.login.dummy' },
  });
  if (deviceId === undefined || accessToken === undefined) throw new Error('The account was created, but logging in failed. Log in with its password.');
  return { userId, deviceId, accessToken };
}

/**
 * Logs in. An account that this browser knows goes on with its device, which has the keys to its
 * messages.
 */
async function logIn(client: MatrixClient, server: Server, user: string, password: string): Promise<Account> {
  const full = `@${user}:${server.serverName}`;
  if ((await accountsInUse()).has(full)) throw new AccountInUse(full);
  const device = accounts().find(({ userId }) => userId === full)?.deviceId;
  const { user_id: userId, device_id: deviceId, access_token: accessToken } = await client.loginRequest({
    type: 'm.login.password',
    identifier: { type: 'm.id.user', user },
    password,
    initial_device_display_name: deviceName,
    ...(device === undefined ? {} : { device_id: device }),
  });
  return { userId, deviceId, accessToken };
}
