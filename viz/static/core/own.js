// A scenario of one's own: rows of lengths and knobs, as text for an address and for a file. Pure.

export const FIELDS = ["arrives", "prefix", "own", "outputs", "priority"];
export const NEW_ROW = { arrives: 1, prefix: 0, own: 8, outputs: 4, priority: 0 };
export const NEW_KNOBS = { num_kv_blocks: 16, block_size: 4, max_num_batched_tokens: 12, max_num_seqs: 8, max_model_len: 64 };
const MOST_ADDRESS = 3000; // characters

// {request: […], engine: {…}} → 1.8.9.10_2.8.3.4*block_size-4 (a row is arrives.prefix.own.outputs[.priority])
export function addressOf({ request, engine }) {
  const rows = request.map((row) => FIELDS.map((name) => row[name]).join(".").replace(/\.0$/, ""));
  const knobs = Object.keys(engine).sort().map((name) => `${name}-${engine[name]}`);
  return [rows.join("_"), ...knobs].join("*");
}

// The way back; null where it is no such text.
export function formAt(text) {
  if (!text || text.length > MOST_ADDRESS) return null;
  const [rows, ...knobs] = text.split("*");
  const request = rows.split("_").map((row) => {
    const values = row.split(".");
    if (values.length < 4 || values.length > 5 || !values.every((value) => /^-?\d{1,6}$/.test(value))) return null;
    return Object.fromEntries(FIELDS.map((name, i) => [name, Number(values[i] ?? 0)]));
  });
  const engine = {};
  for (const knob of knobs) {
    const [, name, value] = /^([a-z_]{1,40})-([\w.+-]{1,40})$/.exec(knob) ?? [];
    if (!name) return null;
    engine[name] = valueOf(value);
  }
  return request.includes(null) ? null : { request, engine };
}

const valueOf = (text) => (text === "true" ? true : text === "false" ? false : /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text);

// As a file that `minivllm trace record` and this page read.
export function tomlOf({ request, engine }, name) {
  const value = (given) => (typeof given === "string" ? JSON.stringify(given) : String(given));
  const knobs = Object.entries(engine).map(([knob, given]) => `${knob} = ${value(given)}`);
  const tables = request.flatMap((row) => [
    "",
    "[[request]]",
    `arrives = ${row.arrives}`,
    `prompt_tokens = ${row.prefix + row.own}`,
    ...(row.prefix ? [`shared_prefix = ${row.prefix}`] : []),
    `output_tokens = ${row.outputs}`,
    ...(row.priority ? [`priority = ${row.priority}`] : []),
  ]);
  return [`name = ${JSON.stringify(name)}`, 'title = "A scenario of my own: no model, the tokens are placeholders."', "", "[engine]", ...knobs, ...tables, ""].join("\n");
}

// The names that the rows' requests will have: by arrival, and in one step in the order of the rows.
export function namesOf(request) {
  const order = request.map((_, i) => i).sort((a, b) => request[a].arrives - request[b].arrives || a - b);
  const names = [];
  order.forEach((row, i) => (names[row] = `r${i + 1}`));
  return names;
}
