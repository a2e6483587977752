// The cards on the page, in the order in which they stand there, and what is done with several at once.

import { announce } from "./announcements.js";
import { Card } from "./card.js";
import { rowOf } from "./downloads.js";
import { allKept, forget, forgetAll, keepCaption, keepOrigin } from "./kept.js";
import { askForKey, keyWasTaken } from "./key.js";
import { checkedOptions } from "./options.js";
import { pictureOf } from "./picture.js";
import { watchStatus } from "./status.js";
import { offerUndo, withdrawUndo } from "./undo.js";

const byId = (id) => document.getElementById(id);
const list = byId("cards");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const cardOf = new WeakMap();
const handlers = { change: changed, edit: keep, again: (card) => again([card]), remove: (card) => remove([card]) };

function cards() {
  return [...list.children].map((element) => cardOf.get(element));
}

export function rows() {
  return cards().map(rowOf);
}

/** Add a card for each origin and have it captioned; returns the cards, none where the options are wrong. */
export async function add(origins) {
  const options = origins.length > 0 && checkedOptions();
  if (!options) return [];
  const now = Date.now();
  // Ids sort as the cards stand: the latest first, and those that came together in their own order.
  const added = origins.map((origin, index) => makeCard([-now, index, Math.random()], origin));
  for (const card of added) keepWhole(card);
  await transition(() => {
    list.prepend(...added.map((card) => card.element));
    added.forEach((card) => card.start(options));
  });
  added[0].element.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  return added;
}

/** Put the cards back that this browser has kept; those without a caption are asked about again. */
export async function restore() {
  const kept = await allKept().catch(notKept);
  for (const { id, origin, options, result } of kept ?? []) {
    const card = makeCard(id, origin);
    list.append(card.element);
    if (result) card.showResult(options, result);
    else card.start(options);
  }
  count();
}

/** Caption these cards again, with the options as they are now. */
export function again(chosen) {
  const options = checkedOptions();
  if (!options) return;
  const before = chosen.filter((card) => card.result).map((card) => [card, card.options, card.result]);
  chosen.forEach((card) => card.start(options));
  if (before.length < 2) return;
  offerUndo(`${before.length} pictures are captioned again.`, () => {
    for (const [card, ...shown] of before) card.showResult(...shown);
    before.forEach(([card]) => keep(card));
    count();
  });
}

export function againAll() {
  again(cards());
}

export function againFailed({ status } = {}) {
  again(cards().filter(({ error }) => error && (status ? error.status === status : error.passes)));
}

/** Take these cards off the page and out of what is kept, for as long as that is not undone. */
export function remove(chosen) {
  const before = [...list.children];
  for (const card of chosen) {
    card.stop();
    card.element.remove();
    forget(card.id).catch(notKept);
  }
  count();
  const text = chosen.length > 1 ? `${chosen.length} pictures were removed.` : `${chosen[0].picture.name} was removed.`;
  const undo = () => {
    const since = [...list.children].filter((element) => !before.includes(element));
    list.replaceChildren(...since, ...before);
    for (const card of chosen) {
      keepWhole(card);
      if (!card.result && !card.error) card.start(card.options);
    }
    count();
    chosen[0].element.querySelector(".name").focus();
  };
  offerUndo(text, undo, () => chosen.forEach((card) => card.picture.release()));
}

export function removeAll() {
  remove(cards());
}

/** Forget all cards, here and in what this browser has kept. */
export async function forgetCards() {
  withdrawUndo();
  for (const card of cards()) {
    card.stop();
    card.picture.release();
  }
  list.replaceChildren();
  count();
  await forgetAll().catch(notKept);
}

function makeCard(id, origin) {
  const card = new Card(id, pictureOf(origin), handlers);
  cardOf.set(card.element, card);
  return card;
}

function changed(card) {
  const { result, error, picture } = card;
  if (result) {
    announce(`${picture.name}: ${result.text}`);
    keyWasTaken();
  }
  if (error) {
    announce(`${picture.name}: ${error.message}`);
    if (error.status === 401) askForKey();
    if (error.status === 503 || error.status === 0) watchStatus();
  }
  keep(card);
  count();
}

function keepWhole(card) {
  keepOrigin(card.id, card.picture.origin).catch(notKept);
  keep(card);
}

function keep({ id, options, result }) {
  keepCaption({ id, options, result }).catch(notKept);
}

function notKept() {
  byId("kept").textContent = "This browser keeps nothing more for this page: a reload loses captions.";
}

// The first card moves everything else aside; that is easier to follow when it is seen moving.
async function transition(change) {
  const first = list.childElementCount === 0;
  const show = () => {
    change();
    count();
  };
  if (!first || calm.matches || !document.startViewTransition) return show();
  await document.startViewTransition(show).updateCallbackDone;
}

function count() {
  const all = cards();
  const done = all.filter((card) => card.result).length;
  const failed = all.filter((card) => card.error?.passes).length;
  byId("results").hidden = all.length === 0;
  byId("count").textContent = all.length > 1 ? `${done} of ${all.length}` : "";
  byId("outage").hidden = failed < 2;
  byId("outage-text").textContent = `${failed} pictures have no caption yet.`;
  for (const button of document.querySelectorAll(".needs-captions")) button.disabled = done === 0;
}
