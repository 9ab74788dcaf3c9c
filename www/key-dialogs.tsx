// The dialogs about keys: the recovery key, and logging out, which deletes the keys of this device.

import { CryptoEvent } from 'matrix-js-sdk/lib/crypto-api/CryptoEvent';
import { type ComponentChildren, type VNode } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { Done, Form, openDialog, openForm } from './dialogs.tsx';
import { listed } from './invite.ts';
import { type KeyState, keyState, makeRecoveryKey, recover, replaceLostKey, unsavedKeys, whenSaved } from './keys.ts';
import { type Session } from './session.ts';
import { Button, Field, Problem, messageOf, text, toast } from './widgets.tsx';

/** Opens what there is to say and do about the recovery key. */
export function recoveryKey(session: Session): void {
  openDialog('Recovery key', (close) => <Loading load={() => keyState(session.client)} close={close}>{(state) => <RecoveryKey session={session} state={state} close={close} />}</Loading>);
}

function RecoveryKey({ session, state, close }: { session: Session; state: KeyState; close: () => void }): VNode {
  const { client } = session;
  if (state === 'locked') return <EnterKey session={session} close={close} />;
  if (state === 'none') {
    const submit = async (): Promise<() => void> => {
      const key = await makeRecoveryKey(client);
      return () => { showKey(session, key); };
    };
    return (
      <Form action="Make a recovery key" submit={submit} close={close}>
        <p>With a recovery key another device of yours can read your encrypted messages, and so can this one after you have logged out. Without one, logging out makes them unreadable.</p>
      </Form>
    );
  }
  return (
    <>
      <p>This account has a recovery key. What this device can read is saved for it as it comes.</p>
      <Saving session={session} done="Every message of yours can be read again with it." />
      <Button act={() => { close(); replaceKey(session); }}>Make a new recovery key</Button>
      <Done close={close} />
    </>
  );
}

/** Asks before the recovery key that somebody keeps stops working. */
function replaceKey(session: Session): void {
  openForm('Make a new recovery key?', {
    action: 'Make a new one',
    danger: true,
    submit: async () => {
      const key = await makeRecoveryKey(session.client);
      return () => { showKey(session, key); };
    },
    children: <p>The recovery key that you have now stops working. Keep the new one in its place. No message is lost.</p>,
  });
}

function EnterKey({ session, close }: { session: Session; close: () => void }): VNode {
  const submit = async (fields: FormData): Promise<() => void> => {
    const count = await recover(session.client, session.held, text(fields, 'key'));
    return () => { toast(count === 1 ? '1 key restored' : `${count} keys restored`); };
  };
  return (
    <>
      <Form action="Restore" submit={submit} close={close}>
        <p>Enter the recovery key of this account, and this device can read its older messages.</p>
        <Field label="Recovery key" name="key" required autocomplete="off" spellcheck={false} autocapitalize="none" />
      </Form>
      <button type="button" class="link" onClick={() => { close(); lostKey(session); }}>I have lost my recovery key</button>
    </>
  );
}

/** Asks before everything that the lost key opens is given up. */
function lostKey(session: Session): void {
  openForm('Start without the lost key?', {
    action: 'Lose the old messages',
    danger: true,
    submit: async (fields) => {
      const key = await replaceLostKey(session.client, text(fields, 'password'));
      return () => { showKey(session, key); };
    },
    children: (
      <>
        <p>Encrypted messages that this device cannot read now <strong>will never be readable again</strong>, even if you find the key later. You get a new recovery key for everything from now on.</p>
        <Field label="Password" name="password" type="password" required autocomplete="current-password" />
      </>
    ),
  });
}

function showKey(session: Session, key: string): void {
  const copy = async (): Promise<void> => {
    await navigator.clipboard.writeText(key);
    toast('Copied');
  };
  openDialog('Your recovery key', (close) => (
    <>
      <p>Keep it somewhere safe. With it another device of yours can read your encrypted messages. It is shown only this once.</p>
      <code class="key">{key}</code>
      <Button act={copy}>Copy</Button>
      <Saving session={session} done="Your messages up to now are saved for this key." />
      <Done close={close} />
    </>
  ));
}

/** How far the upload of the keys is. */
function Saving({ session: { client }, done }: { session: Session; done: string }): VNode {
  const [progress, problem] = useSaving(client);
  if (problem !== '') return <Problem>{problem}</Problem>;
  return <SavingProgress progress={progress} done={done} />;
}

interface SavingState {
  missing: number;
  total: number;
}

function SavingProgress({ progress, done }: { progress: SavingState | undefined; done: string }): VNode {
  const saved = progress?.missing === 0;
  return (
    <div class="saving">
      <p role="status">{saved ? done : progress ? `Saving the keys of your messages: ${progress.total - progress.missing} of ${progress.total}` : 'Saving the keys of your messages…'}</p>
      {!saved && <progress aria-label="Keys saved" max={1} value={progress ? (progress.total - progress.missing) / progress.total : 0} />}
    </div>
  );
}

/** Watches the upload until it is over; `again` watches anew. */
function useSaving(client: Session['client'], watch = true): [SavingState | undefined, string, () => void] {
  const [progress, setProgress] = useState<SavingState>();
  const [problem, setProblem] = useState('');
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    if (!watch) return undefined;
    const end = new AbortController();
    const tell = (missing: number): void => { setProgress((before) => ({ missing, total: Math.max(before?.total ?? 0, missing) })); };
    setProblem('');
    whenSaved(client, tell, end.signal).catch((error: unknown) => { setProblem(messageOf(error)); });
    return () => { end.abort(); };
  }, [client, watch, attempt]);
  return [progress, problem, () => { setAttempt(attempt + 1); }];
}

/**
 * Asks before logging out, and lets nobody go before the keys are saved without having said what is
 * lost.
 */
export function logOut(session: Session, loggedOut: () => void): void {
  const end = async (close: () => void): Promise<void> => {
    await session.logOut();
    close();
    loggedOut();
  };
  openDialog('Log out?', (close) => (
    <Loading load={() => whatIsLost(session)} close={close}>
      {(lost) => {
        if (lost.state === 'ready') return <LogOutSaved session={session} end={() => end(close)} close={close} />;
        if (lost.rooms.length === 0) return <Form action="Log out" close={close} submit={() => end(close).then(() => undefined)}><p>You can log in again with your password.</p></Form>;
        return <LogOutLosing session={session} lost={lost} end={() => end(close)} close={close} />;
      }}
    </Loading>
  ));
}

interface Lost {
  state: KeyState;
  /** The rooms whose encrypted messages could not be read any more. */
  rooms: string[];
}

async function whatIsLost({ client, encryption }: Session): Promise<Lost> {
  if (!encryption) return { state: 'none', rooms: [] };
  const state = await keyState(client);
  const rooms = state === 'ready' ? [] : (await unsavedKeys(client)).rooms;
  return { state, rooms: rooms.map((roomId) => client.getRoom(roomId)?.name ?? 'a room that you left') };
}

/** With a recovery key: ends when everything is saved. */
function LogOutSaved({ session, end, close }: { session: Session; end: () => Promise<void>; close: () => void }): VNode {
  const [progress, problem, again] = useSaving(session.client);
  const [asked, setAsked] = useState(false);
  const [failed, setFailed] = useState('');
  const saved = progress?.missing === 0;
  useEffect(() => {
    if (asked && saved) end().catch((error: unknown) => { setAsked(false); setFailed(messageOf(error)); });
  }, [asked, saved]);
  return (
    <>
      <p>After that you need your password to log in, and your recovery key to read your encrypted messages.</p>
      {problem === '' && <SavingProgress progress={progress} done="Every key is saved." />}
      {problem !== '' && <Problem>{`${problem} Logging out now loses the messages that only this device can read.`}</Problem>}
      {failed !== '' && <Problem>{failed}</Problem>}
      <div class="actions">
        <button type="button" onClick={close}>Cancel</button>
        {problem !== '' && <Button act={again}>Try again</Button>}
        {problem === ''
          ? <button type="button" class="primary" aria-busy={asked} aria-disabled={asked} onClick={() => { setAsked(true); }}>{asked && !saved ? 'Saving…' : 'Log out'}</button>
          : <Button class="primary danger" act={end}>Log out and lose them</Button>}
      </div>
    </>
  );
}

/** Without one: says what is lost, and what keeps it. */
function LogOutLosing({ session, lost: { state, rooms }, end, close }: { session: Session; lost: Lost; end: () => Promise<void>; close: () => void }): VNode {
  const locked = state === 'locked';
  return (
    <>
      <p>
        <strong>You will lose the encrypted messages of {listed(rooms)}.</strong>{' '}
        {locked ? 'Their keys are on this device alone, since your recovery key was not entered here.' : 'Their keys are on this device alone, and logging out deletes them.'}{' '}
        Nobody can bring them back.
      </p>
      <p>{locked ? 'Enter your recovery key first, and you can read them again when you come back.' : 'Make a recovery key first, and you can read them again when you come back.'}</p>
      <div class="actions stacked">
        <button type="button" class="primary" onClick={() => { close(); recoveryKey(session); }}>{locked ? 'Enter the recovery key' : 'Make a recovery key'}</button>
        <Button class="danger" act={end}>Log out and lose the messages</Button>
        <button type="button" onClick={close}>Cancel</button>
      </div>
    </>
  );
}

/** Says above the rooms that older messages cannot be read yet. */
export function LockedNotice({ session }: { session: Session }): VNode | null {
  const { client } = session;
  const [locked, setLocked] = useState(false);
  useEffect(() => {
    const look = (): void => { keyState(client).then((state) => { setLocked(state === 'locked'); }, () => undefined); };
    look();
    client.on(CryptoEvent.KeyBackupStatus, look);
    client.on(CryptoEvent.KeyBackupDecryptionKeyCached, look);
    return () => {
      client.off(CryptoEvent.KeyBackupStatus, look);
      client.off(CryptoEvent.KeyBackupDecryptionKeyCached, look);
    };
  }, [client]);
  if (!locked) return null;
  return (
    <p class="locked">
      This device cannot read your older messages yet. <Button class="link" act={() => { recoveryKey(session); }}>Enter the recovery key</Button>
    </p>
  );
}

/** What depends on something that has to be asked for first. */
function Loading<T extends object | string>({ load, close, children }: { load: () => Promise<T>; close: () => void; children: (loaded: T) => ComponentChildren }): VNode {
  const [loaded, setLoaded] = useState<T>();
  const [problem, setProblem] = useState('');
  const content = useRef<HTMLDivElement>(null);
  // What had the focus while loading is gone.
  useLayoutEffect(() => { content.current?.querySelector<HTMLElement>('input, button')?.focus(); }, [loaded]);
  useEffect(() => { load().then(setLoaded, (error: unknown) => { setProblem(messageOf(error)); }); }, []);
  if (loaded !== undefined) return <div class="loaded" ref={content}>{children(loaded)}</div>;
  return (
    <>
      {problem === '' ? <p role="status">One moment…</p> : <Problem>{problem}</Problem>}
      <Done close={close} />
    </>
  );
}
