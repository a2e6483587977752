// What a reload must not lose, kept by this browser alone (IndexedDB), and apart for each service on a host.
//
// A card is kept in two halves: its picture is written once, its caption at each key that is pressed in it.

const NAME = `captions of ${new URL(".", location.href).pathname}`;
let opened;

function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("origins");
    request.result.createObjectStore("captions", { keyPath: "id" });
  };
  return done(request);
}

async function stores(mode) {
  const database = await (opened ??= open());
  const transaction = database.transaction(["origins", "captions"], mode);
  return ["origins", "captions"].map((name) => transaction.objectStore(name));
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Keep where a picture came from, its file included. */
export async function keepOrigin(id, origin) {
  const [origins] = await stores("readwrite");
  await done(origins.put(origin, id));
}

/** Keep what is known of a card: { id, options, result }. */
export async function keepCaption(caption) {
  const [, captions] = await stores("readwrite");
  await done(captions.put(caption));
}

/** Return all that is kept, in the order of the ids: [{ id, options, result, origin }]. */
export async function allKept() {
  const [origins, captions] = await stores("readonly");
  const kept = await done(captions.getAll());
  const whole = await Promise.all(kept.map(async (each) => ({ ...each, origin: await done(origins.get(each.id)) })));
  return whole.filter(({ origin }) => origin);
}

export async function forget(id) {
  for (const store of await stores("readwrite")) await done(store.delete(id));
}

export async function forgetAll() {
  for (const store of await stores("readwrite")) await done(store.clear());
}
