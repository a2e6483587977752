// The pictures that a visitor gives, whichever way they come: one shape for all.
//
// name: for people; preview: what <img> can show, or ""; source: what belongs into src="…";
// fields(signal): the form fields that the service is sent; forget(): frees what the preview holds.

export function pictureFromFile(file) {
  const preview = URL.createObjectURL(file);
  return {
    name: file.name,
    preview,
    source: encodeURIComponent(file.name),
    fields: async () => ({ image: file }),
    forget: () => URL.revokeObjectURL(preview),
  };
}

export function pictureFromUrl(url) {
  // A sample that was dragged, say: the service does not fetch from itself.
  if (url.startsWith(`${location.origin}/`)) return pictureFromSample(nameOf(url), url);
  return {
    name: nameOf(url),
    preview: /^(https?|data):/i.test(url) ? url : "",
    source: url,
    fields: async () => ({ imageUrl: url }),
    forget: () => {},
  };
}

/** A picture of this service's own, which is uploaded as a visitor's would be. */
export function pictureFromSample(name, url) {
  return {
    name,
    preview: url,
    source: encodeURIComponent(name),
    fields: async (signal) => ({ image: new File([await (await fetch(url, { signal })).blob()], name) }),
    forget: () => {},
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
