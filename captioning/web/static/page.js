// The page: pictures come in by drop, paste, choice, URL or sample, and each becomes a card.

import { announce } from "./announcements.js";
import { Card } from "./card.js";
import { copyFrom } from "./clipboard.js";
import { pictureFromFile, pictureFromSample, pictureFromUrl } from "./picture.js";
import { useKey } from "./service.js";
import { watchStatus } from "./status.js";

const byId = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const cards = new Set();

// ---- cards

async function add(pictures) {
  if (pictures.length === 0) return;
  notice("");
  const added = pictures.map((picture) => new Card(picture, options(), { onChange: changed, onRemove: removed }));
  added.forEach((card) => cards.add(card));
  await transition(() => {
    byId("results").hidden = false;
    byId("cards").prepend(...added.map((card) => card.element));
    count();
  });
  added[0].element.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
}

// The first card moves everything else aside; that is easier to follow when it is seen moving.
async function transition(change) {
  const first = byId("results").hidden;
  if (!first || calm.matches || !document.startViewTransition) return change();
  await document.startViewTransition(change).updateCallbackDone;
}

function changed(card) {
  if (card.text) announce(`${card.picture.name}: ${card.text}`);
  if (card.error) {
    announce(`${card.picture.name}: ${card.error.message}`);
    if (card.error.status === 401) askForKey();
    if (card.error.status === 503 || card.error.status === 0) watchStatus();
  }
  count();
}

function removed(card) {
  cards.delete(card);
  count();
  if (cards.size > 0) return byId("results-title").focus();
  byId("results").hidden = true;
  byId("files").focus();
}

function count() {
  const done = [...cards].filter((card) => card.text).length;
  byId("count").textContent = cards.size > 1 ? `${done} of ${cards.size}` : "";
}

function options() {
  return Object.fromEntries([...new FormData(byId("options"))].filter(([, value]) => value.trim()));
}

byId("clear").addEventListener("click", () => [...cards].forEach((card) => card.remove()));

// ---- ways in

byId("files").addEventListener("change", (event) => {
  add([...event.target.files].map(pictureFromFile));
  event.target.value = ""; // else the same file could not be chosen again
});

byId("url-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const urls = byId("url").value.split(/\s+/).filter(Boolean);
  byId("url-form").reset();
  add(urls.map(pictureFromUrl));
});

byId("samples")?.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) add([pictureFromSample(button.dataset.name, button.querySelector("img").src)]);
});

document.addEventListener("paste", (event) => {
  if (event.target.closest("input")) return;
  if (!addFrom(event.clipboardData)) notice("There is neither a picture nor an address of one to paste.");
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
  if (!addFrom(event.dataTransfer)) notice("Drop pictures, or the address of one; folders cannot be read here.");
});

// What was dropped or pasted: files before addresses, as a picture dragged from a page is both.
function addFrom(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file");
  const files = entries.filter((entry) => !entry.webkitGetAsEntry?.()?.isDirectory).map((entry) => entry.getAsFile());
  const text = transfer.getData("text/uri-list") || transfer.getData("text/plain");
  const urls = text.split(/\s+/).filter((word) => /^(https?|data):/i.test(word));
  const pictures = files.length > 0 ? files.map(pictureFromFile) : urls.map(pictureFromUrl);
  add(pictures);
  return pictures.length > 0;
}

// ---- the API key

function askForKey() {
  byId("key-form").hidden = false;
  showCurl();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("key-form").reset();
  byId("key-form").hidden = true;
  cards.forEach((card) => card.error?.status === 401 && card.start());
});

// ---- what is said

function notice(text) {
  byId("notice").textContent = text;
}

function showCurl() {
  const sample = document.querySelector("#samples button")?.dataset.name;
  const key = byId("key-form").hidden ? "" : " -H 'Authorization: Bearer YOUR_KEY'";
  const here = new URL(".", location.href).href; // the service may lie below a prefix
  const caption = `curl -s ${here}local-caption${key} -F image=@`;
  byId("curl").textContent = sample ? `curl -s ${here}samples/${sample} | ${caption}-` : `${caption}picture.jpg`;
}

byId("copy-curl").addEventListener("click", (event) => copyFrom(event.currentTarget, byId("curl").textContent));

showCurl();
watchStatus();
