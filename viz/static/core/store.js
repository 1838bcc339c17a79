// The trace in the page: events by step, and the state after any step. Stepping back is as cheap
// as forward: a snapshot every 64 steps, fold on from the nearest one.
//
// Step k has every event after step k−1's step.end up to its own step.end: what came in before a
// step belongs to the step that takes it. A page that came late begins at a snapshot (`base`) and
// later puts the older part before it.
//
// A store holds one life of one engine: of one that was started anew, steps and `seq` count from 1
// again, and mean other events.

import { stepFacts, summarise } from "#core/facts.js";
import { apply, clone, newState } from "#core/fold.js";
import { HueAssigner } from "#core/hues.js";
import { stepViolations, violations } from "#core/invariants.js";

export const SNAPSHOT_EVERY = 64;
const KEPT_STATES = 16; // those near the cursor, so that walking costs one step's events

export class TraceStore {
  constructor(base = null) {
    this.base = base ? { ...base, state: clone(base.state) } : null;
    this.firstStep = base ? base.step : 0; // the earliest step whose state can be had
    this.lastStep = this.firstStep; // the latest whole one
    this.seq = base ? base.seq : 0;
    this.steps = new Map(); // step → {events, summary}
    this.pending = []; // events of the step that has not ended
    this.sources = new Map(); // src → data of run.source
    this.last = null; // the latest event
    this.head = base ? clone(base.state) : newState();
    this.snapshots = new Map([[this.firstStep, clone(this.head)]]);
    this.recent = new Map();
    const living = base ? [...base.state.waiting, ...base.state.running] : [];
    this.hues = new HueAssigner(base?.hues, living);
    this.ended = false;
    this.violated = []; // {step, message, told: by the engine; else only seen here}
    this.index = new Map(); // request → steps in which something happened to it
  }

  get config() {
    return this.head.config;
  }

  // Take the next events of the stream; those known already are passed over.
  ingest(events) {
    for (const event of events) {
      if (event.seq <= this.seq) continue;
      if (event.kind === "run.snapshot" && this.seq === 0) {
        this.#beginAt(event);
        continue;
      }
      if (event.seq !== this.seq + 1) {
        throw new Error(`event ${this.seq + 1} is missing, got ${event.seq}`);
      }
      this.seq = event.seq;
      this.last = event;
      this.hues.see(event);
      apply(this.head, event);
      this.pending.push(event);
      if (event.kind === "run.source") this.sources.set(event.data.src, event.data);
      if (event.kind === "run.config") this.#begin();
      if (event.kind === "run.end") this.ended = true; // a failed step (run.error) ends no run
      if (event.kind === "step.end") this.#close(event.step);
    }
  }

  // All of a recording is here; whether its engine was shut down in it or not, nothing comes any more.
  end() {
    this.ended = true;
  }

  // A trace that was cut to its last steps begins with the state before them.
  #beginAt(event) {
    apply(this.head, event);
    this.seq = event.seq;
    this.last = event;
    this.firstStep = this.lastStep = event.step;
    for (const source of event.data.sources) this.sources.set(source.src, source);
    const living = [...this.head.running, ...this.head.waiting];
    this.hues = new HueAssigner(event.data.hues, living);
    for (const req of living) if (!(req in this.hues.of)) this.hues.see({ kind: "req.arrive", req });
    this.snapshots = new Map([[event.step, clone(this.head)]]);
    this.steps.set(event.step, { events: [], summary: null });
  }

  // The configuration alone is step 0: an empty pool, before anything came in.
  #begin() {
    this.snapshots.set(0, clone(this.head));
    this.steps.set(0, { events: this.pending, summary: null });
    this.pending = [];
  }

  #close(step) {
    const events = this.pending;
    this.pending = [];
    const facts = stepFacts(events);
    // Told by the engine that checks itself, or seen here: the same breach is one.
    const seen = [
      ...stepViolations(this.head.config, facts.begin, facts.ledger),
      ...violations(this.head),
    ];
    for (const message of new Set([...facts.violations, ...seen])) {
      this.violated.push({ step, message, told: facts.violations.includes(message) });
    }
    this.steps.set(step, { events, summary: summarise(facts, step) });
    for (const event of events) {
      if (!event.req) continue;
      const list = this.index.get(event.req) ?? [];
      if (list[list.length - 1] !== step) list.push(step);
      this.index.set(event.req, list);
    }
    this.lastStep = step;
    if (step % SNAPSHOT_EVERY === 0) this.snapshots.set(step, clone(this.head));
  }

  eventsOf(step) {
    return this.steps.get(step)?.events ?? [];
  }

  // The state after `step`; to be read only. Throws if the step lies outside what is here.
  stateAfter(step) {
    const known = this.recent.get(step) ?? this.snapshots.get(step);
    if (known) return known;
    if (step < this.firstStep || step > this.lastStep) throw new Error(`no step ${step} here`);
    let from = step - 1;
    while (!this.recent.has(from) && !this.snapshots.has(from)) from -= 1;
    const state = clone(this.recent.get(from) ?? this.snapshots.get(from));
    for (let k = from + 1; k <= step; k += 1) {
      for (const event of this.eventsOf(k)) apply(state, event);
    }
    this.#keep(step, state);
    return state;
  }

  // The state within `step`, after the first `count` of its events.
  stateWithin(step, count) {
    const state = clone(this.stateAfter(step - 1));
    for (const event of this.eventsOf(step).slice(0, count)) apply(state, event);
    return state;
  }

  #keep(step, state) {
    this.recent.set(step, state);
    if (this.recent.size > KEPT_STATES) this.recent.delete(this.recent.keys().next().value);
  }

  // The same as it was known after `step`: what lies beyond is not in it. It takes no events.
  upTo(step) {
    const part = new TraceStore();
    const until = (map) => new Map([...map].filter(([at]) => at <= step));
    Object.assign(part, { base: this.base, firstStep: this.firstStep, lastStep: step, sources: this.sources, hues: this.hues });
    part.steps = until(this.steps);
    part.snapshots = until(this.snapshots);
    part.head = clone(this.stateAfter(step));
    part.last = this.eventsOf(step).at(-1) ?? null;
    part.seq = part.last?.seq ?? this.base?.seq ?? 0;
    part.violated = this.violated.filter((item) => item.step <= step);
    for (const [req, list] of this.index) {
      const known = list.filter((at) => at <= step);
      if (known.length) part.index.set(req, known);
    }
    return part;
  }

  // Put the older part of the same stream, folded apart from seq 1 on, before this one.
  prepend(older) {
    for (const part of ["steps", "snapshots", "sources"]) {
      this[part] = new Map([...older[part], ...this[part]]);
    }
    for (const [req, list] of older.index) {
      const own = (this.index.get(req) ?? []).filter((step) => step > older.lastStep);
      this.index.set(req, [...list, ...own]);
    }
    this.violated = [...older.violated, ...this.violated];
    this.hues.of = { ...older.hues.of, ...this.hues.of };
    this.firstStep = older.firstStep;
    this.base = null;
  }
}
