// What a screen reader is told as it happens.

const region = document.querySelector("#announcements");

export function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  region.append(line);
  if (region.childElementCount > 5) region.firstElementChild.remove();
}
