// The page: pictures come in by drop, paste, choice, address or sample, and each becomes a card.

import { copyFrom } from "./clipboard.js";
import { download, toCsv, toJson, toLines } from "./downloads.js";
import { add, againAll, againFailed, forgetCards, removeAll, restore, rows } from "./gallery.js";
import { hasFiles, originsIn, originsOfFiles, originsOfTyped } from "./incoming.js";
import { watchKeyForm } from "./key.js";
import { forgetKey } from "./service.js";
import { watchStatus } from "./status.js";

const byId = (id) => document.getElementById(id);

function notice(text) {
  byId("notice").textContent = text;
}

// ---- ways in

byId("files").addEventListener("change", (event) => {
  notice("");
  add(originsOfFiles(event.target.files));
  event.target.value = ""; // else the same file could not be chosen again
});

byId("url-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const origins = originsOfTyped(byId("url").value);
  byId("url").ariaInvalid = String(origins.length === 0);
  if (origins.length === 0) {
    notice("Enter the address of a picture first.");
    return byId("url").focus();
  }
  notice("");
  if ((await add(origins)).length > 0) byId("url-form").reset();
});

byId("samples")?.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  notice("");
  const [card] = await add([{ sample: button.dataset.name, url: button.querySelector("img").src }]);
  // From the keyboard, the caption is what follows, not the other samples.
  if (event.detail === 0) card?.element.querySelector(".name").focus();
});

document.addEventListener("paste", (event) => {
  const inField = event.target.closest("input, textarea");
  if (inField && !hasFiles(event.clipboardData)) return; // words go where one writes, pictures become cards
  event.preventDefault();
  take(event.clipboardData, "There is neither a picture nor an address of one to paste.");
});

let dragDepth = 0; // each element that is crossed fires an enter and a leave

document.addEventListener("dragenter", (event) => {
  event.preventDefault();
  dragDepth++;
  document.body.classList.add("dragging");
});

document.addEventListener("dragleave", () => {
  dragDepth--;
  document.body.classList.toggle("dragging", dragDepth > 0);
});

document.addEventListener("dragover", (event) => event.preventDefault());

document.addEventListener("drop", (event) => {
  event.preventDefault();
  dragDepth = 0;
  document.body.classList.remove("dragging");
  take(event.dataTransfer, "There is no picture in what you dropped. Drop pictures, a folder of them, or an address.");
});

async function take(transfer, otherwise) {
  const origins = await originsIn(transfer);
  notice(origins.length > 0 ? "" : otherwise);
  add(origins);
}

// ---- what is done with all captions

byId("copy-all").addEventListener("click", (event) => copyFrom(event.currentTarget, toLines(rows())));
byId("csv").addEventListener("click", () => download("captions.csv", "text/csv;charset=utf-8", toCsv(rows())));
byId("json").addEventListener("click", () => download("captions.json", "application/json", toJson(rows())));
byId("again-all").addEventListener("click", againAll);
byId("clear").addEventListener("click", removeAll);

byId("retry-all").addEventListener("click", () => {
  byId("results-title").focus(); // the button goes, and the focus would go with it
  againFailed();
});

byId("forget").addEventListener("click", async () => {
  forgetKey();
  await forgetCards();
  notice("");
  byId("files").focus();
});

// ---- the same without the page

function showCurl() {
  const sample = document.querySelector("#samples button")?.dataset.name;
  const key = byId("curl").dataset.needsKey === undefined ? "" : " -H 'Authorization: Bearer YOUR_KEY'";
  const here = new URL(".", location.href).href; // the service may lie below a prefix
  const caption = `curl -s ${here}local-caption${key} -F image=@`;
  byId("curl").textContent = sample ? `curl -s ${here}samples/${sample} | ${caption}-` : `${caption}picture.jpg`;
}

byId("copy-curl").addEventListener("click", (event) => copyFrom(event.currentTarget, byId("curl").textContent));

watchKeyForm(() => againFailed({ status: 401 }));
showCurl();
watchStatus();
restore();
