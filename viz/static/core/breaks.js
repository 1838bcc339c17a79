// Where to stop, in a few words, as a test of single events. Twin of minivllm/trace/until.py, so that
// a recording stops where the live engine's gate would hold: at the event itself, inside its step.
// Words that stay (a breakpoint) mean “step 30” alone; the gate, asked to run until there, holds at the
// first from 30 on and is done, so it is asked only for steps that lie ahead (`ahead`).

import { KINDS } from "#core/kinds.js";
import { REASONS } from "#core/reasons.js";

// What the marks of the scrubber stand for.
export const MARKED = [["!", "preemption"], ["✕", "eviction"], ["↺", "prefix hit"], ["✓", "finish"]];

const GROUPS = new Set(Object.keys(KINDS).map((kind) => kind.split(".")[0]));

const NAMED = {
  preemption: ({ kind }) => kind === "sched.victim",
  eviction: ({ kind }) => kind === "kv.evict",
  "prefix hit": ({ kind, data }) => kind === "kv.hit" && data.tokens > 0,
  skip: ({ kind }) => kind === "sched.skip",
  finish: ({ kind }) => kind === "req.finish",
};

// They tell of the trace and the gate, not of the engine: nobody is held there.
const NO_DECISION = new Set(["run.start", "run.source", "run.idle", "run.end", "gate.change", "trace.arm", "trace.left_out", "exec.tensors"]);

const ALLOWED = `${Object.keys(NAMED).join(", ")}, skip REASON, step N, a kind or group of events, a reason, FILE:LINE; a request (r4) alone or behind it; several joined by “or”`;

// {words, matches(event, source)}; `source`: {file, line} of what emitted it. Throws for words that name
// nothing. `until`: as the gate takes them.
export function breakAt(words, until = false) {
  const tests = words.trim().split(/\s+or\s+/).map((part) => single(part.trim().split(/\s+/).join(" "), words, until));
  const matches = (event, source) => !NO_DECISION.has(event.kind) && tests.some((each) => each(event, source));
  return { words: words.trim().split(/\s+/).join(" "), matches };
}

// Of several words what the gate may be asked for, from this step on; "" where nothing is left.
export function ahead(list, step) {
  const passed = (part) => Number(/^step (\d+)$/.exec(part.trim())?.[1] ?? Infinity) <= step;
  return list.flatMap(({ words }) => words.split(" or ")).filter((part) => !passed(part)).join(" or ");
}

function single(part, words, until) {
  const [, before, req] = /^(?:(.*) )?(r[1-9]\d*)$/.exec(part) ?? [null, part, null];
  if (!before && !req) throw new Error(`“${words}” names nothing. Allowed: ${ALLOWED}.`);
  const what = before ? testOf(before, words, until) : () => true;
  return req ? (event, source) => event.req === req && what(event, source) : what;
}

// For who types. As in Python.
const SHORT = { preempt: "preemption", evict: "eviction", hit: "prefix hit" };

function testOf(given, words, until) {
  const what = Object.hasOwn(SHORT, given) ? SHORT[given] : given;
  if (what in NAMED) return NAMED[what];
  if (what in KINDS) return ({ kind }) => kind === what;
  if (GROUPS.has(what)) return ({ kind }) => kind.startsWith(`${what}.`);
  if (what in REASONS) return ({ data }) => gives(data, what);
  const [, reason] = /^skip[ :](\w+)$/.exec(what) ?? [];
  if (reason in REASONS) return ({ kind, data }) => kind === "sched.skip" && gives(data, reason);
  const [, step] = /^step (\d{1,9})$/.exec(what) ?? [];
  if (step) return (event) => event.kind === "step.begin" && (until ? event.step >= Number(step) : event.step === Number(step));
  const [, file, line] = /^(?:line )?(\S+\.py):(\d{1,9})$/.exec(what) ?? [];
  if (file) return (_event, source) => source?.line === Number(line) && `/${source.file}`.endsWith(`/${file}`);
  throw new Error(`“${words}” names nothing. Allowed: ${ALLOWED}.`);
}

const gives = (data, reason) => data.reason === reason || data.why === reason || data.unused_reason === reason;

// How many events of `step` are shown at its first stop behind its first `shown` ones; 0: there is none.
export function stopIn(store, breaks, step, shown = 0) {
  const events = store.eventsOf(step);
  for (let i = shown; i < events.length; i += 1) {
    if (stopsAt(store, breaks, events[i]) !== null) return i + 1;
  }
  return 0;
}

// The next (+1) or the previous (−1) stop from where one stands: {step, event} | null.
export function findStop(store, breaks, { step, event }, direction) {
  if (!breaks.length) return null;
  const count = (k) => store.eventsOf(k).length;
  if (direction > 0) {
    for (let k = step, from = event ?? count(k); k <= store.lastStep; k += 1, from = 0) {
      const at = stopIn(store, breaks, k, from);
      if (at) return { step: k, event: at };
    }
    return null;
  }
  for (let k = step, end = event === null ? count(k) : event - 1; k >= store.firstStep; k -= 1, end = count(k)) {
    const at = store.eventsOf(k).slice(0, end).findLastIndex((each) => stopsAt(store, breaks, each) !== null) + 1;
    if (at) return { step: k, event: at };
  }
  return null;
}

// Which of them: the words of the first that holds here.
export function stopsAt(store, breaks, event) {
  return breaks.find((each) => each.matches(event, store.sources.get(event.src)))?.words ?? null;
}
