// Whether requests of this page reach the worker. A page that was loaded past it (a hard reload, or
// the very first visit) has no controller: its requests would go to the network, so it asks to be
// claimed.

import { EphapseError } from './api.ts';
import { askTo } from './ask.ts';
import { foreign, hasServer, isKnown } from './identify.ts';

/** The active worker of a registration, and this page's relation to it. */
export interface Control {
  /** The worker that is active now. */
  worker(): ServiceWorker | null;
  /**
   * The worker that is active now, once there is one; rejects when the site has replaced it by
   * another one.
   */
  active(): Promise<ServiceWorker>;
  /** Ends when the page's requests reach the worker. */
  controlled(): Promise<void>;
}

/** Makes the page one of the worker's. */
export async function takeControl(registration: ServiceWorkerRegistration): Promise<Control> {
  const met = new WeakSet<ServiceWorker>();
  // Another scope's worker runs the same script. In a switch of versions the page may hear of its
  // new controller before or after it hears of the registration's new worker, so that for a moment
  // the one is still the version that waits, or the other already the next.
  const isOurs = (worker: ServiceWorker | null): boolean => {
    for (const version of [registration.active, registration.waiting]) if (version) met.add(version);
    return worker !== null && met.has(worker) && isKnown(worker);
  };
  let claiming: Promise<void> | undefined;

  const control: Control = {
    worker: () => registration.active,
    active: async () => {
      // Between two versions there may be none for a moment.
      for (let waited = 0; waited < 5_000; waited += 50) {
        const { active } = registration;
        if (active && (await hasServer(active))) return active;
        if (active && active === registration.active) throw foreign(active, registration.scope);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      throw new EphapseError('worker-failed', 'The service worker was removed: the site\'s data may have been deleted.', 'Reload the page.');
    },
    controlled: () => {
      if (isOurs(navigator.serviceWorker.controller)) return Promise.resolve();
      claiming ??= claim().finally(() => { claiming = undefined; });
      return claiming;
    },
  };

  async function claim(): Promise<void> {
    for (let attempt = 0; attempt < 5; attempt += 1) {
      const answer = await askTo(await control.active(), { ask: 'claim' });
      if (answer && (await becomesControlled())) return;
    }
    throw new EphapseError('worker-failed', 'The service worker does not control this page.', 'Close this tab and open the page again.');
  }

  function becomesControlled(): Promise<boolean> {
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(late);
        navigator.serviceWorker.removeEventListener('controllerchange', end);
        resolve(isOurs(navigator.serviceWorker.controller));
      };
      const late = setTimeout(end, 2_000);
      navigator.serviceWorker.addEventListener('controllerchange', end);
      if (isOurs(navigator.serviceWorker.controller)) end();
    });
  }

  await control.controlled();
  return control;
}
