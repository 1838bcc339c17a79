// The timeline: requests × steps. What each request did in each step is one cell; neighbours that are
// alike are one run of cells, so that 50,000 events stay a few thousand. A lane is used again when
// its request has ended: there are as many lanes as requests were ever alive at once.
//
// It grows with its store; nothing is computed twice.

import { stepFacts, strongest, summarise } from "#core/facts.js";

// Code of a cell → what it says, the rarest first: folded cells show the first that is among them.
export const CELLS = {
  "!": "preempted",
  "⊘": "ended early: cancelled, refused or failed",
  "✓": "finished",
  R: "resumes after preemption",
  h: "prefill, with a prefix hit",
  p: "prefill",
  c: "a chunk of its prompt, not its last",
  "–": "in the batch, but runs nothing",
  w: "waits",
  d: "decode",
};
const RANK = Object.fromEntries(Object.keys(CELLS).map((code, i) => [code, i]));

const made = new WeakMap();

export function timelineOf(store) {
  const known = made.get(store);
  if (known && known.firstStep === store.firstStep) return known.grow(store);
  const timeline = new Timeline(store);
  made.set(store, timeline);
  return timeline.grow(store);
}

export class Timeline {
  constructor(store) {
    const state = store.snapshots.get(store.firstStep) ?? store.head;
    this.firstStep = store.firstStep; // the state before the first cells
    this.lastStep = store.firstStep;
    this.rows = new Map(); // request → {req, lane, from, arrived, ended, runs: [{code, did, from, to, reason, behind}]}
    this.lanes = []; // lane → its rows, in order
    this.steps = []; // {step, used, budget, limit, free, mark, begin, end}, the first is firstStep + 1
    this.pool = 0;
    this.alive = new Map();
    this.busy = []; // lane → does somebody live in it?
    this.free = state.free.length;
    for (const req of [...state.running, ...state.waiting]) {
      const row = this.#born(req, state.requests[req].arrived_step, this.firstStep + 1);
      row.running = state.running.includes(req);
      row.again = state.requests[req].num_preemptions > 0;
    }
  }

  get peak() {
    return this.lanes.length;
  }

  grow(store) {
    for (let step = this.lastStep + 1; step <= store.lastStep; step += 1) this.#take(store, step);
    this.pool = Math.max((store.head.blocks.length || 1) - 1, 0);
    return this;
  }

  #born(req, arrived, from) {
    let lane = this.busy.indexOf(false);
    if (lane < 0) lane = this.lanes.push([]) - 1;
    this.busy[lane] = true;
    const row = { req, lane, from, arrived, ended: null, runs: [], running: false, again: false };
    this.lanes[lane].push(row);
    this.rows.set(req, row);
    this.alive.set(req, row);
    return row;
  }

  #take(store, step) {
    if (step === 1) this.free = store.snapshots.get(0)?.free.length ?? this.free;
    const { events } = store.steps.get(step);
    const facts = stepFacts(events);
    for (const req of facts.arrived) this.#born(req, step, step);
    const grants = new Map(facts.grants.map((grant) => [grant.req, grant]));
    const limits = new Map((facts.ledger?.rows ?? []).map((row) => [row.req, row.limited_by]));
    const behind = new Set(facts.stop?.behind);
    for (const row of this.alive.values()) this.#cell(row, step, facts, grants.get(row.req), limits, behind);
    for (const req of facts.finished.keys()) {
      const row = this.alive.get(req);
      if (!row) continue;
      row.ended = step;
      this.busy[row.lane] = false;
      this.alive.delete(req);
    }
    this.#sums(events, facts, step);
    this.lastStep = step;
  }

  #cell(row, step, facts, grant, limits, behind) {
    const { req } = row;
    const admitted = facts.admitted.get(req);
    if (admitted) row.running = true;
    if (admitted?.resumed) row.again = true;
    let [did, reason, head] = ["w", null, null];
    if (facts.preempted.has(req)) {
      [did, row.running] = ["!", false];
      reason = "preempted";
    } else if (admitted?.resumed) did = "R";
    else if (admitted?.hit) did = "h";
    else if (grant) did = grant.why === "decode" ? "d" : grant.why === "chunk" ? "c" : "p";
    else if (row.running) [did, reason] = ["–", limits.get(req) ?? null];
    else if (facts.skipped.has(req)) ({ reason } = facts.skipped.get(req));
    else if (facts.stop && (facts.stop.head === req || behind.has(req))) {
      ({ reason } = facts.stop);
      if (behind.has(req)) ({ head } = facts.stop);
    }
    const end = facts.finished.get(req);
    const code = !end ? did : end.reason === "abort" || end.reason === "error" ? "⊘" : "✓";
    const last = row.runs.at(-1);
    if (last && last.to === step - 1 && last.code === code && last.reason === reason && last.behind === head) last.to = step;
    else row.runs.push({ code, did, from: step, to: step, reason, behind: head, again: row.again });
  }

  #sums(events, facts, step) {
    let [begin, end] = [null, null];
    for (const { kind, data, t_ns: t } of events) {
      if (kind === "kv.alloc" || kind === "kv.reserve") this.free -= data.blocks.length;
      else if (kind === "kv.touch" && data.ref === 1) this.free -= 1;
      else if (kind === "kv.free") this.free += data.front.length + data.back.length;
      else if (kind === "step.begin") begin = t;
      else if (kind === "step.end") end = t;
    }
    const { used = 0, budget = 0, unused_reason: why = null } = facts.ledger ?? {};
    const limit = !facts.ledger ? "nothing ran" : used >= budget ? "budget" : (why ?? "nothing_waits");
    const mark = strongest([summarise(facts, step)]);
    this.steps.push({ step, used, budget, limit, free: this.free, mark, begin: begin ?? end, end: end ?? begin });
  }

  at(step) {
    return this.steps[step - this.firstStep - 1] ?? null;
  }

  // Who lives in a lane at a step, or null.
  rowIn(lane, step) {
    return this.lanes[lane]?.find((row) => row.from <= step && (row.ended === null || step <= row.ended)) ?? null;
  }

  // The run of cells of a request that a step lies in, or null.
  cell(req, step) {
    const { runs = [] } = this.rows.get(req) ?? {};
    const at = runs[firstFrom(runs, step)];
    return at && at.from <= step ? at : null;
  }

  // A request's cells as letters, one a step; `·` where it is not there. A chunk is a prefill here.
  letters(req, from = this.firstStep + 1, to = this.lastStep) {
    let text = "";
    for (let step = from; step <= to; step += 1) {
      const code = this.cell(req, step)?.code ?? "·";
      text += code === "c" ? "p" : code;
    }
    return text;
  }
}

// The first run that does not end before `step`.
function firstFrom(runs, step) {
  let [low, high] = [0, runs.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (runs[middle].to < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

// --- where it goes -----------------------------------------------------------------------------

// The part that is seen: steps from `from` up to before `to`; both may lie within a step.
export const wholeView = (timeline) => ({ from: timeline.firstStep + 1, to: Math.max(timeline.lastStep, timeline.firstStep + 1) + 1 });

const LEAST = 4; // steps that the closest view shows

// Closer (factor < 1) or wider, with the step at `at` where it is.
export function zoom(view, whole, factor, at) {
  const length = Math.min(Math.max((view.to - view.from) * factor, Math.min(LEAST, whole.to - whole.from)), whole.to - whole.from);
  const share = (at - view.from) / (view.to - view.from);
  return inside({ from: at - share * length, to: at + (1 - share) * length }, whole);
}

export const pan = (view, whole, by) => inside({ from: view.from + by, to: view.to + by }, whole);

function inside({ from, to }, whole) {
  const by = Math.max(whole.from - from, 0) || Math.min(whole.to - to, 0);
  return { from: Math.max(from + by, whole.from), to: Math.min(to + by, whole.to) };
}

// Steps to places and back. By time, a step is as wide as it lasted.
export function axisOf(timeline, view, width, byTime = false) {
  const clock = byTime ? clockOf(timeline) : (step) => step;
  const [from, to] = [clock(view.from), clock(view.to)];
  const scale = width / Math.max(to - from, 1e-9);
  const x = (step) => (clock(step) - from) * scale;
  const [first, last] = [timeline.firstStep + 1, Math.max(timeline.lastStep, timeline.firstStep + 1)];
  return {
    width,
    x,
    from: Math.max(Math.floor(view.from), first),
    to: Math.min(Math.ceil(view.to) - 1, last),
    stepAt(place) {
      let [low, high] = [first, last];
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (x(middle) <= place) low = middle;
        else high = middle - 1;
      }
      return low;
    },
  };
}

// Step, or a part of one → ns since the run's start. A step lasts until the next one begins.
function clockOf({ steps, firstStep }) {
  const begin = (i) => (i < steps.length ? steps[i].begin : steps.at(-1)?.end) ?? 0;
  return (step) => {
    const at = step - firstStep - 1;
    const i = Math.min(Math.max(Math.floor(at), 0), steps.length);
    return begin(i) + (at - i) * (begin(i + 1) - begin(i));
  };
}

// What to draw of a row: [{code, x, w, from, to}], left to right. Where cells are narrower than a pixel,
// the rarest of those that share it stands for them, so there are never more pieces than pixels.
export function pieces(row, axis) {
  const found = [];
  const { runs } = row;
  for (let i = firstFrom(runs, axis.from); i < runs.length && runs[i].from <= axis.to; i += 1) {
    const run = runs[i];
    const x = axis.x(run.from);
    const w = axis.x(run.to + 1) - x;
    const last = found.at(-1);
    const shares = last && w < 1 && Math.floor(last.x + last.w - 1e-6) >= Math.floor(x) && last.w <= 1;
    if (shares) {
      if (RANK[run.code] < RANK[last.code]) Object.assign(last, { code: run.code, from: run.from, to: run.to });
    } else if (last?.code === run.code && last.to === run.from - 1 && w >= 1) {
      Object.assign(last, { w: x + w - last.x, to: run.to }); // the same for another reason
    } else {
      const left = w < 1 ? Math.floor(x) : x;
      found.push({ code: run.code, x: left, w: Math.max(w, 1), from: run.from, to: run.to });
    }
  }
  return found;
}

// Round steps to write under the axis, at least `apart` pixels from one another.
export function ticks(axis, apart = 48) {
  const steps = Math.max(axis.to - axis.from + 1, 1);
  const least = (steps * apart) / Math.max(axis.width, 1);
  const size = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  const every = [1, 2, 5, 10].map((n) => n * size).find((n) => n >= least) ?? 10 * size;
  const found = [];
  for (let step = Math.ceil(axis.from / every) * every; step <= axis.to; step += every) if (step) found.push(step);
  return found;
}

// How high a lane is, so that they fit; below the least they scroll.
export const laneHeight = (lanes, height) => Math.max(Math.min(Math.floor(height / Math.max(lanes, 1)), 34), 3);
