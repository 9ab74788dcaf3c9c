// A service worker that does nothing but what none can do without: it answers, at `/alone/answer`,
// and stores what came before it answers, at `/alone/write`. What that takes is what the browser
// takes of a request on this machine.

const opened = new Promise((resolve, reject) => {
  const opening = indexedDB.open('alone');
  opening.onupgradeneeded = () => opening.result.createObjectStore('log', { autoIncrement: true });
  opening.onsuccess = () => resolve(opening.result);
  opening.onerror = () => reject(opening.error);
});

/** About as much as a message makes a store write. */
const record = new Uint8Array(2_048);

async function write(request) {
  await request.text();
  const database = await opened;
  await new Promise((resolve, reject) => {
    const transaction = database.transaction('log', 'readwrite', { durability: 'strict' });
    transaction.objectStore('log').put(record);
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
}

/** As a stream: that is the quickest (see `atOnce` in worker/service/body.ts). */
function answer() {
  const body = new ReadableStream({
    start(controller) {
      controller.enqueue(new TextEncoder().encode('{}'));
      controller.close();
    },
  });
  return new Response(body, { headers: { 'content-type': 'application/json' } });
}

self.onfetch = (event) => {
  const { pathname } = new URL(event.request.url);
  if (pathname === '/alone/answer') event.respondWith(answer());
  if (pathname === '/alone/write') event.respondWith(write(event.request).then(answer));
};
