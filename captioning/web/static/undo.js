// The offer to undo what was done last; it stays until it is taken, closed or replaced.

import { announce } from "./announcements.js";

const bar = document.querySelector("#undo");
const button = bar.querySelector(".undo-button");
let offered = null;

/** Say `text` and offer `undo()`; `lapse()` is called once it can no longer be taken. */
export function offerUndo(text, undo, lapse = () => {}) {
  withdrawUndo();
  offered = { undo, lapse };
  bar.querySelector(".undo-text").textContent = text;
  bar.hidden = false;
  announce(text);
  button.focus();
}

export function withdrawUndo() {
  offered?.lapse();
  offered = null;
  bar.hidden = true;
}

button.addEventListener("click", () => {
  const { undo } = offered;
  offered = null;
  bar.hidden = true;
  undo();
});

bar.querySelector(".undo-close").addEventListener("click", () => {
  withdrawUndo();
  const title = document.querySelector("#results:not([hidden]) #results-title");
  (title ?? document.querySelector("#files")).focus();
});
