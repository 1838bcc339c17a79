// The source that ran: every event names the line that emitted it, and `run.source` gives each
// function's text once. Lines that emit are the branches that decide; they are counted for the run
// so far and for the step. Twin of minivllm/trace/source_map.py.

import { indexOver } from "#core/indexed.js";

// src → [{step, n}], in order.
const hitsOf = indexOver(
  () => new Map(),
  (hits, { src, kind }, step) => {
    if (kind === "run.source") return;
    const list = hits.get(src);
    if (!list) hits.set(src, [{ step, n: 1 }]);
    else if (list.at(-1).step === step) list.at(-1).n += 1;
    else list.push({ step, n: 1 });
  },
);

// [{file, functions: [{name, first, hits, now, lines: [{number, text, srcs, hits, now}]}]}], the
// files in the order in which they first told something. `upto`: hits of the steps up to this one.
export function sourceMap(store, upto) {
  const hits = hitsOf(store);
  const files = new Map();
  for (const source of store.sources.values()) {
    if (!files.has(source.file)) files.set(source.file, new Map());
    const functions = files.get(source.file);
    const known = functions.get(source.first_line) ?? { name: source.function, first: source.first_line, text: "", srcs: new Map() };
    known.text ||= source.text;
    const list = known.srcs.get(source.line) ?? [];
    list.push(source.src);
    known.srcs.set(source.line, list);
    functions.set(source.first_line, known);
  }
  return [...files].map(([file, functions]) => ({
    file,
    functions: [...functions.values()].sort((a, b) => a.first - b.first).map((each) => withHits(each, hits, upto)),
  }));
}

function withHits({ name, first, text, srcs }, hits, upto) {
  const lines = text.replace(/\n$/, "").split("\n").map((line, i) => {
    const number = first + i;
    const own = srcs.get(number) ?? [];
    const count = (keep) => own.reduce((sum, src) => sum + (hits.get(src) ?? []).reduce((n, at) => n + (keep(at.step) ? at.n : 0), 0), 0);
    return { number, text: line, srcs: own, hits: own.length ? count((step) => step <= upto) : 0, now: own.length ? count((step) => step === upto) : 0 };
  });
  const total = (field) => lines.reduce((sum, line) => sum + line[field], 0);
  return { name, first, lines, hits: total("hits"), now: total("now") };
}

// The steps in which a line told something: [{step, n}].
export function stepsOfLine(store, srcs) {
  const all = new Map();
  for (const src of srcs) {
    for (const { step, n } of hitsOf(store).get(src) ?? []) all.set(step, (all.get(step) ?? 0) + n);
  }
  return [...all].sort(([a], [b]) => a - b).map(([step, n]) => ({ step, n }));
}

// The events that a line told in one step, with their place in it (1 = the first).
export function eventsOfLine(store, srcs, step) {
  return store.eventsOf(step).flatMap((event, i) => (srcs.includes(event.src) && event.kind !== "run.source" ? [{ event, place: i + 1 }] : []));
}
