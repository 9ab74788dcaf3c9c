// Stops the worker at the named points of its work (crate/store/src/faults.rs, and the hand-over),
// as they look from outside: by what it asks of IndexedDB. So it is the shipped worker that is
// stopped, with a few lines in front of it.

const CHANNEL = 'interruptions';

/** To be put in front of the worker's script; nothing happens until `stopAt` asks for it. */
export const interruptions = `(${interrupt})(${JSON.stringify(CHANNEL)});\n`;

/**
 * Asks the worker to stop at a point; resolves when it has heard that to `{ reached }`, which
 * resolves when it has come there, to the number of requests that it then has under way. It does
 * nothing any more from there on, until it is killed; with `hold` the one transaction stays where
 * it is, and all else goes on.
 */
export async function stopAt(page, point, { hold = false } = {}) {
  await page.evaluate(([name, wanted]) => new Promise((heard) => {
    const channel = new BroadcastChannel(name);
    const id = crypto.randomUUID();
    const ask = () => { channel.postMessage({ ...wanted, id }); };
    globalThis.reached = new Promise((resolve) => {
      channel.onmessage = ({ data }) => {
        if (data.started) ask();
        if (data.heard === id) heard();
        if (data.reached !== id) return;
        channel.close();
        resolve(data.requests);
      };
    });
    ask();
  }), [CHANNEL, { point, hold }]);
  return { reached: page.evaluate(() => globalThis.reached) };
}

/** Lets a transaction go on that is held. */
export function release(page) {
  return page.evaluate((name) => {
    const channel = new BroadcastChannel(name);
    channel.postMessage({ release: true });
    channel.close();
  }, CHANNEL);
}

function interrupt(name) {
  const channel = new BroadcastChannel(name);
  const met = new Set();
  let wanted;
  let held;
  let requests = 0;
  channel.onmessage = ({ data }) => {
    if (data.release) held?.();
    if (!data.id || met.has(data.id)) return;
    wanted = data;
    channel.postMessage({ heard: data.id });
  };
  // The worker that will come to a point may not have run yet when it was asked for.
  channel.postMessage({ started: true });
  const comesTo = (point) => {
    if (wanted?.point !== point) return false;
    const { id, hold } = wanted;
    wanted = undefined;
    met.add(id);
    channel.postMessage({ reached: id, requests });
    while (!hold);
    return true;
  };

  const wrap = (type, method, around) => {
    const original = type.prototype[method];
    type.prototype[method] = function (...given) { return around.call(this, () => original.apply(this, given), ...given); };
  };
  wrap(FetchEvent, 'respondWith', (respond, answer) => {
    requests += 1;
    void answer.finally(() => { requests -= 1; });
    respond();
  });
  /** What each writing transaction has been asked for. */
  const asked = new WeakMap();
  wrap(IDBDatabase, 'transaction', (make) => {
    const transaction = make();
    asked.set(transaction, new Set());
    transaction.addEventListener('complete', (event) => {
      if (asked.get(transaction).has('put log') && comesTo('BetweenCommitAndAnswer')) event.stopImmediatePropagation();
    });
    return transaction;
  });
  wrap(IDBObjectStore, 'put', function (put, value) {
    if (this.name === 'log') comesTo('BeforePut');
    const deep = this.name === 'segments' && value[0] > 0;
    asked.get(this.transaction)?.add(`put ${this.name}`).add(deep ? 'put merged' : '');
    return put();
  });
  wrap(IDBObjectStore, 'delete', function (remove) {
    asked.get(this.transaction)?.add(`delete ${this.name}`);
    return remove();
  });
  wrap(IDBTransaction, 'commit', function (commit) {
    const does = (...things) => things.every((thing) => asked.get(this).has(thing));
    if (does('put segments', 'delete log')) comesTo('Flushing');
    if (does('put merged', 'delete segments')) comesTo('Compacting');
    if (!does('put log') || !comesTo('BetweenPutAndCommit')) {
      commit();
      return;
    }
    // A transaction that is asked for something again and again does not end.
    let on = true;
    held = () => { on = false; };
    const ask = () => { this.objectStore('log').get(0).onsuccess = on ? ask : commit; };
    ask();
  });
  wrap(IDBDatabase, 'createObjectStore', (create, store) => {
    const created = create();
    if (store === 'pages') comesTo('Migrating');
    return created;
  });
  let justActivated = false;
  addEventListener('activate', () => {
    comesTo('HandingOver');
    justActivated = true;
  });
  wrap(IDBFactory, 'open', (open) => {
    // The old version may open the database, too, before it hears that it is the old one.
    if (justActivated) comesTo('TakingOver');
    return open();
  });
}
