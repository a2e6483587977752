// Asks the service for captions: a few at a time, each with its progress, and again when it says "later".

const AT_ONCE = 4;
const MOST_TRIES = 5;
const KEY = "api-key";
const OUT_OF_REACH = "The picture could not be sent: the service is out of reach.";

/** What the service said instead of a caption. */
export class CaptionError extends Error {
  constructor(sentence, { code = "", status = 0, retryAfter = 0 } = {}) {
    super(sentence);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter; // seconds; 0 when the service did not say
  }

  /** Whether the same request may fare better another time. */
  get passes() {
    return [0, 401, 429].includes(this.status) || this.status >= 500;
  }
}

/**
 * Caption one picture. `onState` is told what happens meanwhile: queued, uploading, captioning or waiting.
 * Resolves to { text, stages, cached }; rejects with a CaptionError, or with the signal's reason once it is aborted.
 */
export async function caption(picture, options, { signal, onState }) {
  onState({ name: "queued" });
  const leave = await enter(signal);
  try {
    const fields = { ...(await fieldsOf(picture, signal)), ...options };
    for (let tries = 1; ; tries++) {
      const key = storedKey();
      try {
        return await ask(fields, { key, signal, onState });
      } catch (error) {
        if (error.status === 401 && key !== storedKey()) continue; // another one was entered meanwhile
        if (!worthWaiting(error, tries)) throw error;
        await countDown(error, tries, { signal, onState });
      }
    }
  } finally {
    leave();
  }
}

/** Remember the key for as long as this tab is open, and nowhere else. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

export function storedKey() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // the browser keeps nothing for any site
  }
}

async function fieldsOf(picture, signal) {
  try {
    return await picture.fields(signal);
  } catch (error) {
    throw signal.aborted ? error : new CaptionError(OUT_OF_REACH);
  }
}

// A loading model is waited for as long as it takes; its download alone may take minutes.
function worthWaiting(error, tries) {
  return error.retryAfter > 0 && (tries < MOST_TRIES || error.code === "model_loading");
}

async function countDown(error, tries, { signal, onState }) {
  // Pictures that were refused together do not come back all at once.
  for (let seconds = error.retryAfter + Math.floor(Math.random() * 2); seconds > 0; seconds--) {
    onState({ name: "waiting", error, seconds, tries });
    await sleep(1000, signal);
  }
}

async function ask(fields, { key, signal, onState }) {
  const answer = await send(fields, { key, signal, onState });
  const body = parseJson(answer.responseText);
  if (answer.status === 200 && typeof body?.output === "string") {
    return {
      text: body.output,
      stages: parseTimings(answer.getResponseHeader("Server-Timing") ?? ""),
      cached: answer.getResponseHeader("X-Cache") === "hit",
    };
  }
  throw new CaptionError(body?.error ?? `The service answered ${answer.status} without a reason.`, {
    code: body?.code,
    status: answer.status,
    retryAfter: parseInt(answer.getResponseHeader("Retry-After"), 10) || 0,
  });
}

// XMLHttpRequest and not fetch, which does not tell how much of an upload has gone out.
function send(fields, { key, signal, onState }) {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    const request = new XMLHttpRequest();
    request.open("POST", "local-caption");
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.upload.onprogress = (event) => onState({ name: "uploading", share: event.loaded / event.total });
    request.upload.onload = () => onState({ name: "captioning" });
    request.onload = () => resolve(request);
    request.onerror = () => reject(new CaptionError(OUT_OF_REACH));
    request.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => request.abort());
    onState({ name: "uploading", share: 0 });
    request.send(form);
  });
}

const line = [];
let free = AT_ONCE;

// Wait for one of the few places; returns what gives it back.
async function enter(signal) {
  if (free > 0) {
    free--;
  } else {
    await new Promise((resolve, reject) => {
      line.push(resolve);
      signal.addEventListener("abort", () => {
        const place = line.indexOf(resolve);
        if (place >= 0) line.splice(place, 1);
        reject(signal.reason);
      });
    });
  }
  return () => (line.length ? line.shift()() : free++);
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not this service's answer, but that of a proxy before it
  }
}

// "fetch;dur=12.3, decode;dur=4.5" -> [{ name: "fetch", milliseconds: 12.3 }, …]
function parseTimings(header) {
  return [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, duration]) => ({
    name,
    milliseconds: Number(duration),
  }));
}
