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

async function begin(mode) {
  const database = await (opened ??= open());
  const transaction = database.transaction(["origins", "captions"], mode);
  return { transaction, origins: transaction.objectStore("origins"), captions: transaction.objectStore("captions") };
}

// All requests at once, and the commit with them: a page that is left then takes no write back.
async function write(change) {
  const { transaction, ...stores } = await begin("readwrite");
  change(stores);
  transaction.commit();
  await new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Keep where a picture came from, its file included. */
export function keepOrigin(id, origin) {
  return write(({ origins }) => origins.put(origin, id));
}

/** Keep what is known of a card: { id, options, result }. */
export function keepCaption(caption) {
  return write(({ captions }) => captions.put(caption));
}

/** Return all that is kept, in the order of the ids: [{ id, options, result, origin }]. */
export async function allKept() {
  const { origins, captions } = await begin("readonly");
  const kept = await done(captions.getAll());
  const whole = await Promise.all(kept.map(async (each) => ({ ...each, origin: await done(origins.get(each.id)) })));
  return whole.filter(({ origin }) => origin);
}

export function forget(id) {
  return write((stores) => Object.values(stores).forEach((store) => store.delete(id)));
}

export function forgetAll() {
  return write((stores) => Object.values(stores).forEach((store) => store.clear()));
}
