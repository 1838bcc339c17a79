// A trace file as text: a header line, then one event a line. Read in the page, from the reader's
// own disk; minivllm/trace/file.py is the same for the server.

import { splitLives } from "#core/lives.js";

const SCHEMA = "minivllm.trace/1.";

// `gallery/tiny-pressure.trace.jsonl.gz` → `tiny-pressure`
export const nameOf = (path) => path.split("/").at(-1).split(".")[0].toLowerCase() || "trace";

export async function textOf(file) {
  if (!file.name.endsWith(".gz")) return file.text();
  const unpacked = file.stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).text();
}

// Header, and each life of each stream with its events. Throws an Error that names the line.
export function parseTrace(text) {
  const lines = text.split("\n");
  while (lines.length && !lines.at(-1).trim()) lines.pop();
  const parsed = lines.map((line, i) => parseLine(line, i + 1));
  const [header, ...events] = parsed;
  if (typeof header?.schema !== "string" || !header.schema.startsWith(SCHEMA)) {
    throw new Error(`Its first line is no header of a trace (${SCHEMA}x).`);
  }
  const bad = events.findIndex((event) => typeof event.kind !== "string" || typeof event.seq !== "number");
  if (bad >= 0) throw new Error(`Line ${bad + 2} is no event.`);
  return { header, lives: splitLives(events.filter((event) => typeof event.stream === "string")) };
}

function parseLine(line, number) {
  try {
    const value = JSON.parse(line);
    if (value && typeof value === "object") return value;
  } catch {
    // told below, with the number
  }
  throw new Error(`Line ${number} is no JSON: the file is cut or altered there.`);
}
