// All captions as one text: for the clipboard, as CSV and as JSON, in the columns that the command line writes.

const COLUMNS = ["source", "output", "error", "code"];

/** What a card says, as a row; a card at work has neither caption nor error. */
export function rowOf({ picture, result, error }) {
  const { origin, name } = picture;
  const source = origin.file || origin.sample ? name : origin.url;
  return { source, output: result?.text, error: error?.message, code: error?.code };
}

/** A line for each caption: the picture, a tab, its caption. */
export function toLines(rows) {
  const captioned = rows.filter(({ output }) => output !== undefined);
  return captioned.map((row) => [row.source, row.output].map((cell) => cell.replace(/\s+/g, " ")).join("\t")).join("\n");
}

/** RFC 4180. */
export function toCsv(rows) {
  const quoted = (cell = "") => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const records = [COLUMNS, ...rows.map((row) => COLUMNS.map((column) => row[column]))];
  return records.map((record) => `${record.map(quoted).join(",")}\r\n`).join("");
}

export function toJson(rows) {
  return `${JSON.stringify(rows, null, 2)}\n`;
}

export function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser reads it in its own time
}
