// One picture on the page: from "queued" to its caption, or to the reason why there is none.

import { copyFrom } from "./clipboard.js";
import { imgTag } from "./picture.js";
import { caption, CaptionError } from "./service.js";

const template = document.querySelector("#card-template");

/**
 * A card for `picture`, at work at once. `onChange(card)` is called when it is done, has failed, or starts over;
 * `onRemove(card)` once it has left the page.
 */
export class Card {
  constructor(picture, options, { onChange, onRemove }) {
    this.picture = picture;
    this.options = options;
    this.onChange = onChange;
    this.onRemove = onRemove;
    this.error = null;
    this.text = null;
    this.aborting = new AbortController();
    this.element = template.content.firstElementChild.cloneNode(true);
    this.#fill();
    this.start();
  }

  /** Ask for the caption, the first time or once more. */
  async start() {
    this.error = null;
    this.#show({ name: "queued" });
    this.onChange(this);
    const { signal } = this.aborting;
    try {
      this.#showCaption(await caption(this.picture, this.options, { signal, onState: (state) => this.#show(state) }));
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof CaptionError)) throw error;
      this.#showError(error);
    }
    this.onChange(this);
  }

  /** Stop what is under way and leave the page. */
  remove() {
    this.aborting.abort();
    this.picture.forget();
    this.element.remove();
    this.onRemove(this);
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  #fill() {
    const { name, preview } = this.picture;
    const image = this.#part("img");
    image.onerror = () => this.#part(".picture").classList.add("unseen"); // a TIFF, say
    if (preview) image.src = preview;
    else image.onerror();
    this.#part(".name").textContent = name;
    this.#part(".remove").ariaLabel = `Remove ${name}`;
    this.#part(".remove").onclick = () => this.remove();
    this.#part(".retry").onclick = () => {
      this.#part(".remove").focus(); // the button goes, and the focus would go with it
      this.start();
    };
    this.#part(".copy-caption").onclick = (event) => copyFrom(event.currentTarget, this.text);
    this.#part(".copy-tag").onclick = (event) => copyFrom(event.currentTarget, imgTag(this.picture, this.text));
    this.#part("progress").ariaLabel = `Progress of ${name}`;
  }

  #show(state) {
    this.#setPhase(state.name);
    this.#part(".state").textContent = describe(state);
    const progress = this.#part("progress");
    if (state.name === "uploading") progress.value = state.share;
    else progress.removeAttribute("value"); // how long it takes, nobody knows
  }

  #showCaption({ text, stages, cached }) {
    this.text = text;
    this.#part("img").alt = text;
    this.#part(".caption").textContent = text;
    this.#showTiming(stages, cached);
    this.#setPhase("done");
  }

  #showError(error) {
    this.error = error;
    this.#part(".sentence").textContent = error.message;
    this.#part(".code").textContent = error.code;
    this.#setPhase("failed");
  }

  #showTiming(stages, cached) {
    const total = stages.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
    const entries = stages.map(({ name, milliseconds }) => stageItem(name, milliseconds));
    if (stages.length > 0) entries.unshift(stageItem("total", total));
    if (cached) entries.push(badge("from the cache"));
    this.#part(".stages").replaceChildren(...entries);
    this.#part(".bar").replaceChildren(...stages.map(({ name, milliseconds }) => segment(name, milliseconds)));
    this.#part(".timing").hidden = entries.length === 0;
  }

  #setPhase(phase) {
    const done = phase === "done";
    const failed = phase === "failed";
    this.element.dataset.state = phase;
    this.element.ariaBusy = String(!done && !failed);
    this.#part(".work").hidden = done || failed;
    this.#part(".caption").hidden = !done;
    this.#part(".copy-caption").hidden = !done;
    this.#part(".copy-tag").hidden = !done;
    this.#part(".problem").hidden = !failed;
    this.#part(".retry").hidden = !(failed && this.error.passes);
    if (!done) this.#part(".timing").hidden = true;
  }
}

function describe({ name, share, error, seconds, tries }) {
  switch (name) {
    case "queued":
      return "Queued";
    case "uploading":
      return `Uploading, ${Math.round(share * 100)}%`;
    case "captioning":
      return "Captioning…";
    case "waiting":
      return `${error.message.split(";")[0]}. Asking again in ${seconds} s (try ${tries + 1}).`;
  }
}

function stageItem(name, milliseconds) {
  const item = document.createElement("li");
  item.dataset.stage = name;
  item.textContent = `${name} ${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
  return item;
}

function badge(text) {
  const item = document.createElement("li");
  item.className = "badge";
  item.textContent = text;
  return item;
}

function segment(name, milliseconds) {
  const part = document.createElement("span");
  part.dataset.stage = name;
  part.style.flexGrow = milliseconds;
  return part;
}
