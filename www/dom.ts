// Building elements without a framework.

type Attributes = Record<string, string | boolean | undefined>;
type Content = Node | string | undefined | false;

/** An element with attributes (`false` and `undefined` leave one out) and children. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, attributes: Attributes = {}, ...content: Content[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, '');
    else if (typeof value === 'string') element.setAttribute(name, value);
  }
  for (const child of content) if (child !== undefined && child !== false) element.append(child);
  return element;
}

/** A button that does something; shows that it is at work, and hands errors to `fail`. */
export function button(attributes: Attributes, label: Content, act: () => unknown, fail: (error: unknown) => void = toast): HTMLButtonElement {
  const element = h('button', { type: 'button', ...attributes }, label);
  element.addEventListener('click', () => {
    void busy(element, act, fail);
  });
  return element;
}

/** Runs `act` with the element disabled meanwhile. */
export async function busy(element: HTMLButtonElement, act: () => unknown, fail: (error: unknown) => void = toast): Promise<void> {
  element.disabled = true;
  element.setAttribute('aria-busy', 'true');
  try {
    await act();
  } catch (error) {
    fail(error);
  } finally {
    element.disabled = false;
    element.removeAttribute('aria-busy');
  }
}

/** An icon of the sprite in index.html. */
export function icon(name: string): SVGSVGElement {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `#${name}`);
  svg.append(use);
  return svg;
}

/** A labelled field of a form. */
export function field(label: string, attributes: Attributes, hint?: string): HTMLLabelElement {
  return h('label', { class: 'field' }, h('span', {}, label), h('input', attributes), hint !== undefined && h('small', {}, hint));
}

/** Shows a line at the bottom for a while, and reads it to those who listen. */
export function toast(what: unknown): void {
  const line = h('p', { class: 'toast' }, messageOf(what));
  const place = document.getElementById('toasts');
  place?.append(line);
  setTimeout(() => { line.remove(); }, 6_000);
}

/** What a person is told of an error. */
export function messageOf(error: unknown): string {
  if (typeof error === 'string') return error;
  if (typeof error !== 'object' || error === null) return String(error);
  if ('data' in error && typeof error.data === 'object' && error.data !== null && 'error' in error.data) return String(error.data.error);
  return error instanceof Error ? error.message : 'Something went wrong.';
}

/**
 * Opens a dialog with a form; `submit` gets its fields, and the dialog closes when it succeeds. What `submit` returns is called afterwards: a dialog gives
 * the focus back when it closes.
 */
export function openForm(title: string, content: Content[], action: string, submit: (fields: FormData) => Promise<(() => void) | undefined>): void {
  const problem = h('p', { class: 'problem', role: 'alert' });
  const go = h('button', { class: 'primary' }, action);
  const cancel = h('button', { type: 'button' }, 'Cancel');
  const form = h('form', {}, h('h2', {}, title), ...content, problem, h('div', { class: 'actions' }, cancel, go));
  const dialog = h('dialog', { 'aria-label': title }, form);
  const close = (): void => { dialog.close(); };
  cancel.addEventListener('click', close);
  dialog.addEventListener('close', () => { dialog.remove(); });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    problem.textContent = '';
    void busy(go, async () => { const then = await submit(new FormData(form)); close(); then?.(); }, (error) => { problem.textContent = messageOf(error); });
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** Opens a dialog that only shows something. */
export function openNotice(title: string, ...content: Content[]): void {
  const done = h('button', { class: 'primary' }, 'Close');
  const dialog = h('dialog', { 'aria-label': title }, h('form', { method: 'dialog' }, h('h2', {}, title), ...content, h('div', { class: 'actions' }, done)));
  dialog.addEventListener('close', () => { dialog.remove(); });
  document.body.append(dialog);
  dialog.showModal();
}

/** A text field of submitted form data. */
export function text(fields: FormData, name: string): string {
  const value = fields.get(name);
  return typeof value === 'string' ? value.trim() : '';
}
