// From what is chosen, typed, pasted or dropped to the origins of pictures.

const PICTURE_FILE = /\.(jpe?g|jfif|png|apng|gif|webp|avif|heic|heif|bmp|tiff?|ico|ppm|pgm|pbm|tga)$/i;
const HOST_AND_PATH = /^[\p{L}\p{N}_-]+(\.[\p{L}\p{N}_-]+)+(:\d+)?\/./u;

export function originsOfFiles(files) {
  return [...files].map((file) => ({ file, name: file.name }));
}

/** The addresses that were typed, each with https:// where it has no scheme. */
export function originsOfTyped(text) {
  return text.split(/\s+/).filter(Boolean).map((word) => ({ url: withScheme(word) }));
}

/** What was dropped or pasted: files before addresses, as a picture dragged from a page is both. */
export async function originsIn(transfer) {
  // All is taken at once: the browser empties the transfer as soon as something is waited for.
  const text = transfer.getData("text/uri-list") || transfer.getData("text/plain");
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const found = items.map((item) => {
    const entry = item.webkitGetAsEntry?.();
    return entry?.isDirectory ? picturesIn(entry) : originsOfFiles([item.getAsFile()]);
  });
  const origins = (await Promise.all(found)).flat();
  if (items.length > 0) return origins;
  const addresses = text.split(/\s+/).filter((word) => /^(https?|data):/i.test(word) || HOST_AND_PATH.test(word));
  return addresses.map((word) => ({ url: withScheme(word) }));
}

export function hasFiles(transfer) {
  return [...transfer.items].some((item) => item.kind === "file");
}

// example.com/a.png, example.com:8000/a.png and //example.com/a.png; not ftp://…, data:… or a path.
function withScheme(text) {
  const lacksIt = /^(\/\/)?[\p{L}\p{N}[]/u.test(text) && !/^[a-z][a-z\d+.-]*:(?!\d)/i.test(text);
  return lacksIt ? `https://${text.replace(/^\/\//, "")}` : text;
}

// The pictures in a folder and the folders in it, by name; what else lies there is left alone.
async function picturesIn(folder) {
  const reader = folder.createReader();
  const entries = [];
  for (let some; (some = await new Promise((...callbacks) => reader.readEntries(...callbacks))).length > 0; ) {
    entries.push(...some); // a hundred at a time
  }
  entries.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  const origins = [];
  for (const entry of entries) {
    if (entry.isDirectory) origins.push(...(await picturesIn(entry)));
    else if (PICTURE_FILE.test(entry.name)) {
      const file = await new Promise((...callbacks) => entry.file(...callbacks));
      origins.push({ file, name: entry.fullPath.slice(1) });
    }
  }
  return origins;
}
