// Dialogs over whatever is shown. Each is a tree of its own, and gives the focus back when it
// closes.

import { type ComponentChildren, type VNode, render } from 'preact';
import { useId, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { Problem, messageOf, useBusy } from './widgets.tsx';

/** Opens a dialog; `content` is given what closes it. */
export function openDialog(title: string, content: (close: () => void) => ComponentChildren): void {
  const host = document.createElement('div');
  document.body.append(host);
  const gone = (): void => {
    render(null, host);
    host.remove();
  };
  render(<Dialog title={title} content={content} gone={gone} />, host);
}

function Dialog({ title, content, gone }: { title: string; content: (close: () => void) => ComponentChildren; gone: () => void }): VNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useLayoutEffect(() => { dialog.current?.showModal(); }, []);
  return (
    <dialog ref={dialog} aria-labelledby={id} onClose={gone}>
      <h2 id={id}>{title}</h2>
      {content(() => { dialog.current?.close(); })}
    </dialog>
  );
}

/** What a dialog with a form asks, and does. */
export interface FormProps {
  /** What the button says that does it. */
  action: string;
  /** Whether something is lost by it. */
  danger?: boolean;
  children?: ComponentChildren;
  /**
   * Gets the fields; the dialog closes when it succeeds. What it returns is called afterwards,
   * since a dialog gives the focus back when it closes.
   */
  submit: (fields: FormData) => Promise<(() => void) | undefined>;
}

/** Opens a dialog with a form. */
export function openForm(title: string, form: FormProps): void {
  openDialog(title, (close) => <Form {...form} close={close} />);
}

/** The form of a dialog. */
export function Form({ action, danger = false, children, submit, close }: FormProps & { close: () => void }): VNode {
  const [problem, setProblem] = useState('');
  const [busy, run] = useBusy((error) => { setProblem(messageOf(error)); });
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        const fields = new FormData(event.currentTarget);
        setProblem('');
        run(async () => {
          const then = await submit(fields);
          close();
          then?.();
        });
      }}
    >
      {children}
      {problem !== '' && <Problem>{problem}</Problem>}
      <div class="actions">
        <button type="button" onClick={close}>Cancel</button>
        <button class={danger ? 'primary danger' : 'primary'} aria-busy={busy} aria-disabled={busy}>{action}</button>
      </div>
    </form>
  );
}

/** The one button of a dialog that only shows something. */
export function Done({ close }: { close: () => void }): VNode {
  return <div class="actions"><button type="button" class="primary" onClick={close}>Close</button></div>;
}
