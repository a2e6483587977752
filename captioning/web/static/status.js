// The line that says which model answers and whether it is ready.

const WHILE_NOT_READY = 1000;
const WHILE_READY = 30_000;

const WORDS = {
  ready: "ready",
  loading: "loading…",
  failed: "could not be loaded",
  draining: "shutting down",
};

const line = document.querySelector("#status");
const text = document.querySelector("#status-text");
let timer;

/** Ask now, and again from time to time for as long as the page is looked at. */
export async function watchStatus() {
  clearTimeout(timer);
  const answer = await askStatus();
  show(answer);
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(watchStatus, answer?.status === "ready" ? WHILE_READY : WHILE_NOT_READY);
}

document.addEventListener("visibilitychange", () => !document.hidden && watchStatus());

async function askStatus() {
  try {
    const response = await fetch("readyz", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    return await response.json();
  } catch {
    return null; // no service, or a proxy that answers in its place
  }
}

function show(answer) {
  const known = answer?.status in WORDS;
  const said = known ? `${nameOf(answer.model)} · ${answer.engine} · ${WORDS[answer.status]}` : "The service is out of reach";
  line.dataset.state = known ? answer.status : "unreachable";
  if (text.textContent !== said) text.textContent = said; // else a screen reader would say it again
  if (!known) return;
  text.title = [answer.model, answer.revision].filter(Boolean).join(" @ ");
  document.querySelector("#emoji-note").hidden = !/(^|\/)blip-emoji[^/]*\/?$/.test(answer.model);
}

// A hub's name or a relative path as it is; of an absolute path, the last part.
function nameOf(model) {
  return model.startsWith("/") ? model.split("/").filter(Boolean).at(-1) : model;
}
