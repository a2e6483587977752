// The form that asks for the API key, and says so when a key is wrong.

import { storedKey, useKey } from "./service.js";

const form = document.querySelector("#key-form");
const field = document.querySelector("#key");

/** Ask for the key; `onKey()` is called once there is another one. */
export function watchKeyForm(onKey) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const key = field.value.trim();
    if (!/^[!-~]+$/.test(key)) return complain(key ? "A key has letters, digits and signs, no spaces." : "Enter the key first.");
    complain("");
    useKey(key);
    onKey();
  });
}

/** The service has refused a request for its key, or for want of one. */
export function askForKey() {
  form.hidden = false;
  if (storedKey() && field.ariaInvalid !== "true") complain("The service does not know this key. Check it and enter it again.");
}

/** The service has taken the key. */
export function keyWasTaken() {
  form.hidden = true;
  form.reset();
}

function complain(text) {
  document.querySelector("#key-mistake").textContent = text;
  field.ariaInvalid = String(text !== "");
  if (!text) return;
  field.focus();
  field.select();
}
