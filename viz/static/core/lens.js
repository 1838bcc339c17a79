// The attention lens: what a query reads of its cache. Here are the places: each key with its token,
// its block, and who computed it; how strong a weight is drawn; and which steps have arrays at all.
// The weights themselves come from the server (minivllm/trace/lens.py), or from arrays that the page has
// (attention.js). Pure.

import { laidOut } from "#core/batch.js";
import { blockHistory } from "#core/biography.js";
import { indexOver } from "#core/indexed.js";
import { explain, listed, plural } from "#core/reasons.js";

export const BLOCKS_IN_FULL = 40; // of a long context only these, the heaviest, are shown token by token
const TAKEN = ["kv.alloc", "kv.reserve"];

// --- places ----------------------------------------------------------------------------------------

// What `req` reads in `step`: {req, step, size, start, queries, keys, cached, tokens, blocks}, or null
// where no token of it ran. A block: {logical, id, from, to, how, by, readers, holders}
//     how: "now" (computed in this step) | "own" (before, by itself) | "hit" (taken over from the cache)
//     by: {req, step} who took the block and computed what is in it, null where that was not kept
//     readers: others whose tokens of this step read the same block; holders: others that have it
// `laid`: what laidOut(store, step) answers, where it is known.
export function placesOf(store, step, req, laid = laidOut(store, step)) {
  const { batch, state } = laid ?? {};
  const row = batch?.requests.indexOf(req) ?? -1;
  if (row < 0) return null;
  const { block_size: size } = state.config;
  const r = state.requests[req];
  const keys = batch.seq_lens[row];
  const queries = batch.query_start_loc[row + 1] - batch.query_start_loc[row];
  const start = keys - queries;
  const texts = [...r.texts, ...r.drafts.map((id) => `<${id}>`)];
  const cached = Math.min(r.num_cached_tokens, start);
  const tokens = Array.from({ length: keys }, (_, position) => ({
    position,
    text: texts[position] ?? "?",
    query: position >= start,
    hit: position < cached,
  }));
  const blocks = [];
  const table = batch.block_table[row].slice(0, Math.ceil(keys / size));
  const readersOf = sharersOf(table, batch.requests, (_, i) => batch.block_table[i], req);
  const holdersOf = sharersOf(table, [...state.running, ...state.waiting], (other) => state.requests[other].table, req);
  for (let from = 0; from < keys; from += size) {
    const logical = from / size;
    const id = table[logical];
    const taken = blockHistory(store, id).findLast((entry) => TAKEN.includes(entry.kind) && entry.step <= step);
    const readers = readersOf.get(id);
    blocks.push({
      logical,
      id,
      from,
      to: Math.min(from + size, keys),
      how: from < cached ? "hit" : from < start ? "own" : "now",
      by: taken ? { req: taken.req, step: taken.step } : null,
      readers,
      holders: holdersOf.get(id).filter((other) => !readers.includes(other)),
    });
  }
  return { req, step, size, start, queries, keys, cached, tokens, blocks };
}

// Block of `table` → those others whose own table has it; each table is gone over once.
function sharersOf(table, requests, tableOf, own) {
  const sharers = new Map(table.map((id) => [id, []]));
  requests.forEach((req, i) => {
    if (req !== own) for (const id of tableOf(req, i)) sharers.get(id)?.push(req);
  });
  return sharers;
}

// Where a block's content comes from, in words.
export function blockOrigin({ how, by, id }, { req, step }) {
  if (how === "hit") {
    if (!by) return "taken over from the cache";
    const whose = by.req === req ? `${req} itself, before it was preempted,` : by.req;
    return `taken over from the cache: ${whose} computed it in step ${by.step}${by.step === step ? ", this one" : ""}`;
  }
  if (how === "own") return `computed before by ${req} itself`;
  return `computed in this step (block ${id} was ${by?.step === step ? "taken now" : "begun before"})`;
}

export function readersWords({ readers, holders }) {
  const words = [];
  if (readers.length) words.push(`${listed(readers)} ${readers.length === 1 ? "reads" : "read"} the same physical block in this step`);
  if (holders.length) words.push(`${listed(holders)} ${holders.length === 1 ? "holds" : "hold"} it, too`);
  return words.join("; ");
}

// Query head → the K/V head it reads with (GQA: neighbours share one).
export const kvHeadOf = (head, heads, kvHeads) => Math.floor(head / (heads / kvHeads));

// --- weights ---------------------------------------------------------------------------------------

// The first token takes what a head has no use for (an attention sink): from this share on it is left
// out of the scale unless the reader wants it in.
const SINK = 0.3;

export const isSink = (weights) => weights.length > 1 && weights[0] >= SINK;

// How strong each weight is drawn, 0…1: its share of the largest; `without`: the first token is left out
// (its share is null), `root`: the square root, so that small ones can be told apart.
export function shades(weights, { without = false, root = false } = {}) {
  const from = without ? 1 : 0;
  let [most, at] = [0, from];
  for (let i = from; i < weights.length; i += 1) if (weights[i] > most) [most, at] = [weights[i], i];
  const share = (weight) => (most ? (root ? Math.sqrt(weight / most) : weight / most) : 0);
  return { most, at, shares: weights.map((weight, i) => (i < from ? null : Math.min(share(weight), 1))) };
}

export const sumOf = (weights, { from, to }) => weights.slice(from, to).reduce((sum, weight) => sum + weight, 0);

// Which blocks are shown token by token: all, or of many the heaviest and the query's own; and what
// the rest holds together.
export function shownBlocks(places, weights, position, most = BLOCKS_IN_FULL) {
  const { blocks, size } = places;
  if (blocks.length <= most) return { shown: blocks, left: 0, weight: 0 };
  const sums = blocks.map((block) => sumOf(weights, block));
  const keep = new Set([0, Math.floor(position / size)]);
  for (const i of [...sums.keys()].sort((a, b) => sums[b] - sums[a])) if (keep.size < most) keep.add(i);
  const rest = sums.reduce((sum, weight, i) => sum + (keep.has(i) ? 0 : weight), 0);
  return { shown: blocks.filter((_, i) => keep.has(i)), left: blocks.length - keep.size, weight: rest };
}

// 0.5537 → "0.55", 0.0012 → "0.0012"; a number of a weight.
export const weightText = (weight) => (weight >= 0.0995 ? weight.toFixed(2) : weight >= 0.00095 ? weight.toFixed(3) : weight > 0 ? "< 0.001" : "0");

// --- which steps have arrays -------------------------------------------------------------------------

const capturedIndex = indexOver(
  () => ({ steps: new Map(), left: new Map() }),
  (index, { kind, data }, step) => {
    if (kind === "exec.tensors") index.steps.set(step, data);
    if (kind === "trace.left_out") index.left.set(step, [...(index.left.get(step) ?? []), data]);
  },
);

// Step → data of its exec.tensors.
export const capturedSteps = (store) => capturedIndex(store).steps;

// Why the arrays of a request are not there, in a step in which it ran: {what, cause}; null: they are.
export function missingWords(store, step, req) {
  const { steps, left } = capturedIndex(store);
  const told = steps.get(step);
  if (told?.arrays.some(({ name }) => name === `attention.${req}`)) return null;
  const reasons = left.get(step) ?? [];
  const own = reasons.find(({ arrays }) => arrays.includes(`attention.${req}`)) ?? reasons.find(({ arrays }) => !arrays.length);
  const what = `The attention of ${req} in step ${step} is not here.`;
  if (own) {
    const size = own.limit ? ` It needs ${megabytes(own.need)}, the limit is ${megabytes(own.limit)} (--trace-tensors-limit).` : "";
    return { what, cause: `It was left out: ${explain(own.reason)} (${own.reason}).${size}${own.message ? ` ${own.message}` : ""}` };
  }
  if (told) return { what, cause: "The worker has kept other arrays of this step, but not these." };
  return { what, cause: steps.size ? "This step was not recorded; others were." : "No step of this run was recorded." };
}

const megabytes = (bytes) => (bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`);

// Up to `most` of these steps, those around `step`.
export function nearest(steps, step, most = 12) {
  const at = steps.findIndex((each) => each >= step);
  const from = Math.max(Math.min((at < 0 ? steps.length : at) - most / 2, steps.length - most), 0);
  return steps.slice(from, from + most);
}

// --- armed -------------------------------------------------------------------------------------------

// What somebody has asked for and did not get yet: {next: true|false, steps: [43, …]}. The engine
// takes a wish in at the next step's boundary, so of a paused one it is not told yet.
export function armedOf(store) {
  let next = false;
  const steps = new Set();
  const see = ({ kind, data, step }) => {
    if (kind === "trace.arm") {
      if (data.called_back) {
        next = false;
        steps.clear();
      } else if (data.armed_step === null) next = true;
      else steps.add(data.armed_step);
    } else if (kind === "batch.compose" && data.rows.length) next = false; // this step was it
    else if (kind === "trace.left_out") steps.delete(step);
  };
  for (const event of armIndex(store)) see(event);
  for (const event of store.pending) see(event);
  return { next, steps: [...steps].filter((step) => step > store.lastStep).sort((a, b) => a - b) };
}

const ARMING = ["trace.arm", "trace.left_out", "batch.compose"];
// Only from the last wish on: of a long run that is little.
const armIndex = indexOver(
  () => [],
  (list, event) => void (ARMING.includes(event.kind) && (event.kind === "trace.arm" || list.length) && list.push(event)),
);

// "The next step that runs tokens, and step 43, will be recorded."
export function armedWords({ next, steps }) {
  const names = [...(next ? ["the next step that runs tokens"] : []), ...steps.map((step) => `step ${step}`)];
  if (!names.length) return "";
  const words = listed(names);
  return `${words[0].toUpperCase()}${words.slice(1)} will be recorded: ${plural(names.length, "step")} a little slower, the others as they are.`;
}
