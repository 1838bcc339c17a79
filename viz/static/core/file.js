// A trace file as text: a header line, then one event a line. Read in the page, from the reader's
// own disk; minivllm/trace/file.py is the same for the server.

const SCHEMA = "minivllm.trace/1.";

// `gallery/tiny-pressure.trace.jsonl.gz` → `tiny-pressure`
export const nameOf = (path) => path.split("/").at(-1).split(".")[0].toLowerCase() || "trace";

export async function textOf(file) {
  if (!file.name.endsWith(".gz")) return file.text();
  const unpacked = file.stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).text();
}

// Header, and the events of the engine that spoke first. Throws an Error that names the line.
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
  const stream = events.find((event) => event.stream?.startsWith("engine"))?.stream;
  return { header, events: events.filter((event) => event.stream === stream) };
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
