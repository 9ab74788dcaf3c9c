// Pieces that every view uses: icons, fields, buttons that are at work, and short news.

import { type ComponentChildren, type JSX, type VNode } from 'preact';
import { useId, useState } from 'preact/hooks';

/** An icon of the sprite in index.html. */
export function Icon({ name }: { name: string }): VNode {
  return <svg class="icon" aria-hidden="true"><use href={`#${name}`} /></svg>;
}

/** The mark and the name. */
export function Brand(): VNode {
  return <><img src="icon.svg" alt="" width="28" height="28" />ephapse</>;
}

/** A centred card: starting, logging in, errors. */
export function Card({ title, alert = false, children }: { title?: string; alert?: boolean; children: ComponentChildren }): VNode {
  return (
    <main class="card">
      <span class="brand"><Brand /></span>
      <div class="card-content" role={alert ? 'alert' : undefined}>
        {title !== undefined && <h1>{title}</h1>}
        {children}
      </div>
    </main>
  );
}

/**
 * `[busy, run]`: `run` does what it is given unless it is at work already, and hands errors to
 * `fail`.
 */
export function useBusy(fail: (error: unknown) => void = toast): [boolean, (act: () => unknown) => void] {
  const [busy, setBusy] = useState(false);
  const run = (act: () => unknown): void => {
    if (busy) return;
    setBusy(true);
    Promise.resolve().then(act).catch(fail).finally(() => { setBusy(false); });
  };
  return [busy, run];
}

type ButtonProps = { act: () => unknown } & Omit<JSX.IntrinsicElements['button'], 'onClick' | 'type'>;

/**
 * A button that does something, and shows that it is at work. It is never `disabled`, since that
 * would take the focus away.
 */
export function Button({ act, children, ...attributes }: ButtonProps): VNode {
  const [busy, run] = useBusy();
  return <button type="button" aria-busy={busy} aria-disabled={busy} {...attributes} onClick={() => { run(act); }}>{children}</button>;
}

type FieldProps = { label: string; hint?: string } & JSX.IntrinsicElements['input'];

/** A labelled field of a form. */
export function Field({ label, hint, ...input }: FieldProps): VNode {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input id={id} aria-describedby={hint === undefined ? undefined : `${id}-hint`} {...input} />
      {hint !== undefined && <small id={`${id}-hint`}>{hint}</small>}
    </div>
  );
}

/** What went wrong, read to those who listen. */
export function Problem({ children }: { children: string }): VNode {
  return <p class="problem" role="alert">{children}</p>;
}

/** Shows a line for a while, and reads it to those who listen. */
export function toast(what: unknown): void {
  const line = document.createElement('p');
  line.className = 'toast';
  line.textContent = messageOf(what);
  document.getElementById('toasts')?.append(line);
  setTimeout(() => { line.remove(); }, 6_000);
}

/** What a person is told of an error. */
export function messageOf(error: unknown): string {
  if (typeof error === 'string') return error;
  if (typeof error !== 'object' || error === null) return String(error);
  if ('data' in error && typeof error.data === 'object' && error.data !== null && 'error' in error.data) return sentence(String(error.data.error));
  if ('name' in error && error.name === 'ConnectionError') return 'The homeserver did not answer. Try again in a moment.';
  return error instanceof Error ? error.message : 'Something went wrong.';
}

function sentence(words: string): string {
  return `${words.slice(0, 1).toUpperCase()}${words.slice(1)}${/[.!?]$/.test(words) ? '' : '.'}`;
}

/** A text field of submitted form data. */
export function text(fields: FormData, name: string): string {
  const value = fields.get(name);
  return typeof value === 'string' ? value.trim() : '';
}
