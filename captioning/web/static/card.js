// One picture on the page: from "queued" to its caption, or to the reason why there is none.

import { copyFrom } from "./clipboard.js";
import { imgTag } from "./picture.js";
import { caption, CaptionError } from "./service.js";

const template = document.querySelector("#card-template");

/**
 * A card for `picture`. What comes of it is `result`, { text, waited, stages, cached }, or `error`; at work, it has neither.
 * `on.change(card)` is called when it starts, is done or has failed, and `on.edit(card)` when its caption was edited;
 * `on.again(card)` and `on.remove(card)` are what its buttons ask for.
 */
export class Card {
  #aborting = new AbortController();

  constructor(id, picture, on) {
    this.id = id;
    this.picture = picture;
    this.on = on;
    this.options = {};
    this.result = null;
    this.error = null;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.#fill();
  }

  /** Ask for the caption, the first time or once more. */
  async start(options) {
    this.stop();
    this.options = options;
    this.result = null;
    this.error = null;
    this.#show({ name: "queued" });
    this.on.change(this);
    const { signal } = (this.#aborting = new AbortController());
    const started = performance.now();
    try {
      const answer = await caption(this.picture, options, { signal, onState: (state) => this.#show(state) });
      this.showResult(options, { ...answer, waited: performance.now() - started });
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof CaptionError)) throw error;
      this.#showError(error);
    }
    this.on.change(this);
  }

  /** Stop what is under way. */
  stop() {
    this.#aborting.abort();
  }

  /** Show a result that is known, in place of what is there. */
  showResult(options, result) {
    this.stop();
    this.options = options;
    this.result = result;
    this.error = null;
    this.#part("img").alt = result.text;
    this.#part(".caption").value = result.text;
    this.#showTiming(result);
    this.#setPhase("done");
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
    this.#part(".remove").onclick = () => this.on.remove(this);
    for (const selector of [".retry", ".again"]) {
      this.#part(selector).onclick = () => {
        this.#part(".name").focus(); // the button goes, and the focus would go with it
        this.on.again(this);
      };
    }
    this.#part(".copy-caption").onclick = (event) => copyFrom(event.currentTarget, this.result.text);
    this.#part(".copy-tag").onclick = (event) => copyFrom(event.currentTarget, imgTag(this.picture, this.result.text));
    this.#part(".caption").ariaLabel = `Caption of ${name}`;
    this.#part(".caption").oninput = (event) => this.#edit(event.target);
    this.#part("progress").ariaLabel = `Progress of ${name}`;
  }

  #show(state) {
    this.#setPhase(state.name);
    this.#part(".state").textContent = describe(state);
    const progress = this.#part("progress");
    if (state.name === "uploading") progress.value = state.share;
    else progress.removeAttribute("value"); // how long it takes, nobody knows
  }

  #edit(field) {
    this.result = { ...this.result, text: field.value };
    this.#part("img").alt = field.value;
    this.on.edit(this);
  }

  #showError(error) {
    this.error = error;
    this.#part(".sentence").textContent = error.message;
    this.#part(".code").textContent = error.code;
    this.#setPhase("failed");
  }

  // The total is what the visitor waited; the stages are the service's part of it.
  #showTiming({ waited, stages, cached }) {
    stages = stages.filter(({ milliseconds }) => milliseconds >= 0.05);
    const entries = [stageItem("total", waited), ...stages.map(({ name, milliseconds }) => stageItem(name, milliseconds))];
    if (cached) entries.push(badge("from the cache"));
    this.#part(".stages").replaceChildren(...entries);
    this.#part(".bar").replaceChildren(...stages.map(({ name, milliseconds }) => segment(name, milliseconds)));
    this.#part(".timing").hidden = false;
  }

  #setPhase(phase) {
    const done = phase === "done";
    const failed = phase === "failed";
    this.element.dataset.state = phase;
    this.element.ariaBusy = String(!done && !failed);
    this.#part(".work").hidden = done || failed;
    for (const selector of [".caption", ".copy-caption", ".copy-tag", ".again"]) this.#part(selector).hidden = !done;
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
  item.textContent = `${name.replace("_", " ")} ${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
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
