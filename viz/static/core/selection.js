// What may be selected, anywhere, and shown by every view. Pure.
//
//     {req} · {req, position}: a token · {block} · {unused: true}: the budget that was left over
//     {event: {stream, seq}} · {line: {file, line}} · {gap: "waiting" | "running" | "done"}: an empty lane
//
// In the address: /req/r4 · /req/r4/token/9 (the first is 1) · /block/6 · /told/engine0.1042 · /line/FILE:212 · /gap/running · /gap/budget

import { indexOver } from "#core/indexed.js";
import { listed } from "#core/reasons.js";
import { stepsOfLine } from "#core/sources.js";

const GAPS = ["waiting", "running", "done"];
const UNUSED = "budget"; // in the address a gap, too
export const NOTHING = { req: null, block: null, token: null, told: null, line: null, gap: null };

export function samePick(a, b) {
  return Boolean(a && b) && JSON.stringify(canonical(a)) === JSON.stringify(canonical(b));
}

function canonical({ req = null, position = null, block = null, unused = false, event = null, line = null, gap = null }) {
  return [req, position, req ? null : block, unused, event && [event.stream, event.seq], line && [line.file, line.line], gap];
}

// As parts of the address; nothing selected: all null.
export function toAddress(chosen) {
  const { req, position, block, unused, event, line, gap } = chosen ?? {};
  return {
    ...NOTHING,
    req: req ?? null,
    token: req && position !== undefined && position !== null ? position + 1 : null,
    block: req ? null : block ?? null,
    told: event ? `${event.stream}.${event.seq}` : null,
    line: line ? `${line.file}:${line.line}` : null,
    gap: unused ? UNUSED : gap ?? null,
  };
}

export function fromAddress({ req, token, block, told, line, gap }) {
  if (req) return token ? { req, position: token - 1 } : { req };
  if (block !== null && block !== undefined) return { block };
  const event = /^([a-z]+\d*)\.(\d{1,15})$/.exec(told ?? "");
  if (event) return { event: { stream: event[1], seq: Number(event[2]) } };
  const place = /^(.+):(\d{1,7})$/.exec(line ?? "");
  if (place) return { line: { file: place[1], line: Number(place[2]) } };
  if (gap === UNUSED) return { unused: true };
  return GAPS.includes(gap) ? { gap } : null;
}

// What an address names and the run has not: [what, what there is], or null.
export function notHere({ config, head, firstStep, lastStep }, step, chosen) {
  if (step > lastStep) return [`There is no step ${step}.`, `The steps here are ${firstStep} to ${lastStep}.`];
  if (chosen?.req && !(chosen.req in head.requests)) {
    const names = Object.keys(head.requests);
    return [`There is no request “${chosen.req}” in what is here.`, names.length ? `There are: ${listed(names, 12)}.` : "None has come."];
  }
  const last = config.num_kv_blocks - 1; // 0 is the null block
  if (chosen?.block > last || chosen?.block === 0) return [`There is no block ${chosen.block}.`, `The pool has blocks 1 to ${last}.`];
  return null;
}

// --- events ----------------------------------------------------------------------------------------

// The first seq of each whole step.
const firstSeqs = indexOver(
  () => [],
  (list, { seq }, step) => void (list.at(-1)?.step === step || list.push({ step, seq })),
);

// {event, step, place: 1 = the first of its step, count}; null where it is not here.
export function findEvent(store, { stream, seq }, frontEvents = []) {
  if (stream === "api") {
    const event = frontEvents.find((each) => each.seq === seq);
    return event ? { event, step: null, place: null, count: null } : null;
  }
  const list = firstSeqs(store);
  let [low, high] = [0, list.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (list[middle].seq <= seq) low = middle;
    else high = middle - 1;
  }
  const { step } = list[low] ?? {};
  const events = step === undefined ? [] : store.eventsOf(step);
  const at = events.findIndex((each) => each.seq === seq);
  return at < 0 || events[at].stream !== stream ? null : { event: events[at], step, place: at + 1, count: events.length };
}

// --- what it is about --------------------------------------------------------------------------------

// The block that an event is about: the only one, or the first.
export const blockOf = ({ data }) => data.block ?? (Array.isArray(data.blocks) && typeof data.blocks[0] === "number" ? data.blocks[0] : null);

// What the views light: {req, position, block}, each or none; null where it is about nobody.
export function targetOf(chosen, store, frontEvents) {
  if (!chosen || chosen.unused || chosen.line || chosen.gap) return null;
  if (!chosen.event) return chosen;
  const found = findEvent(store, chosen.event, frontEvents);
  if (!found) return null;
  const { req } = found.event;
  const block = blockOf(found.event);
  if (req) return block === null ? { req } : { req, block };
  return block === null ? null : { block };
}

// The source ids of a line.
export function srcsOf(store, { file, line }) {
  return [...store.sources.values()].filter((source) => source.file === file && source.line === line).map(({ src }) => src);
}

// The line that emitted an event: {file, line} or null.
export function lineOf(store, event) {
  const source = event ? store.sources.get(event.src) : null;
  return source ? { file: source.file, line: source.line } : null;
}

// The steps that a selection is about, to be marked in the scrubber and the timelines; null: none to mark.
export function stepsOf(store, chosen, tokenPasses) {
  if (chosen?.line) return new Set(stepsOfLine(store, srcsOf(store, chosen.line)).map(({ step }) => step));
  if (chosen?.event) {
    const found = findEvent(store, chosen.event);
    return found?.step ? new Set([found.step]) : null;
  }
  if (chosen?.position === undefined || chosen?.position === null) return null;
  return new Set(tokenPasses(store, chosen).map(({ step }) => step));
}
