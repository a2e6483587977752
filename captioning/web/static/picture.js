// The pictures that a visitor gives, whichever way they come: one shape for all.
//
// An origin says where a picture came from, and can be kept: { file, name }, { url } or { sample, url }.
// A picture is its origin with: name: for people; preview: what <img> can show, or ""; source: what belongs into
// src="…"; fields(signal): the form fields that the service is sent; release(): frees what the preview holds.

export function pictureOf(origin) {
  if (origin.file) return { origin, ...fromFile(origin) };
  return { origin, ...(origin.sample ? fromSample(origin) : fromUrl(origin)) };
}

function fromFile({ file, name }) {
  const preview = URL.createObjectURL(file);
  return {
    name,
    preview,
    source: name.split("/").map(encodeURIComponent).join("/"),
    fields: async () => ({ image: file }),
    release: () => URL.revokeObjectURL(preview),
  };
}

function fromUrl({ url }) {
  // A sample that was dragged, say: the service does not fetch from itself.
  if (url.startsWith(`${location.origin}/`)) return fromSample({ sample: nameOf(url), url });
  return {
    name: nameOf(url),
    preview: /^(https?|data):/i.test(url) ? url : "",
    source: url,
    fields: async () => ({ imageUrl: url }),
    release: () => {},
  };
}

// A picture of this service's own is uploaded as a visitor's would be.
function fromSample({ sample, url }) {
  return {
    name: sample,
    preview: url,
    source: encodeURIComponent(sample),
    fields: async (signal) => ({ image: new File([await (await fetch(url, { signal })).blob()], sample) }),
    release: () => {},
  };
}

export function imgTag(picture, text) {
  return `<img src="${escapeHtml(picture.source)}" alt="${escapeHtml(text)}">`;
}

function escapeHtml(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[&<>"]/g, (character) => entities[character]);
}

function nameOf(url) {
  if (/^data:/i.test(url)) return "data: URL";
  if (!URL.canParse(url)) return url;
  const { host, pathname } = new URL(url);
  const last = pathname.split("/").at(-1);
  return last.includes(".") ? last : host + pathname;
}
