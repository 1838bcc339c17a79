// Timeline and Compare: the pure cores, held to what Python makes of the same vectors
// (tests/data/compare.json) and to the picture that the two runs of tiny-pressure must give.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const root = new URL("../../", import.meta.url);
const core = (name) => import(new URL(`viz/static/core/${name}`, root));
const { accounts } = await core("account.js");
const { compare } = await core("compare.js");
const { measure } = await core("metrics.js");
const { fixed, join, signed } = await core("phrases.js");
const { rows } = await core("sidebyside.js");
const { TraceStore } = await core("store.js");
const { twinStep } = await core("sync.js");
const { axisOf, pan, pieces, ticks, timelineOf, wholeView, zoom } = await core("timeline.js");
const { traceOf } = await core("trace.js");

const json = (value) => JSON.parse(JSON.stringify(value));
const readJson = (path) => JSON.parse(readFileSync(new URL(path, root), "utf8"));

const stores = new Map();
function load(name, { cut = null, fidelity = "given", params = null } = {}) {
  const key = `${name} ${cut} ${JSON.stringify(params)}`;
  if (!stores.has(key)) {
    const store = new TraceStore();
    const events = readJson(`tests/vectors/${name}.json`).events.map((event) => ({ ...event, t_ns: event.seq * 1e6 }));
    if (params) events.find(({ kind, req }) => kind === "req.arrive" && req === "r1").data.params = params;
    store.ingest(events.slice(0, cut ?? undefined));
    stores.set(key, store);
  }
  return traceOf(stores.get(key), { fidelity });
}

const pairs = readJson("tests/data/compare.json");
const both = ({ a, b, cut, fidelity, params }) => [load(a, { fidelity, params: params?.[0] }), load(b, { cut, fidelity, params: params?.[1] })];

// --- as Python says it --------------------------------------------------------------------------

for (const pair of pairs) {
  const name = `${pair.a} and ${pair.b}${pair.cut ? ` cut at ${pair.cut}` : ""}${pair.params ? ", asked for otherwise" : ""}`;

  test(`${name}: the same first other decision, causes and differences as Python's`, () => {
    const told = compare(...both(pair));
    const { steps, first, inputs, token, cause, same } = told;
    assert.deepEqual(json({
      steps, first, inputs, token, cause, same,
      not_comparable: told.notComparable,
      by_nature: told.byNature,
      knobs: told.knobs.map(({ words, ...knob }) => knob),
    }), pair.told);
  });

  test(`${name}: the rows that \`minivllm compare\` prints, cell by cell`, () => {
    const [a, b] = both(pair).map(measure);
    assert.deepEqual(rows(a, b), pair.rows);
  });

  test(`${name}: each account adds up to its difference`, () => {
    const [a, b] = both(pair);
    if (pair.told.not_comparable) return;
    const table = new Map(rows(measure(a), measure(b)).map((row) => [row.label, row]));
    const number = (cell) => Number(cell.replaceAll(",", "").replace("−", "-"));
    for (const [label, account] of accounts(a, b)) {
      const row = table.get(label);
      assert.ok(row, label);
      const sum = (parts) => parts.reduce((total, part) => total + part.b - part.a, 0);
      for (const part of account.parts) if (part.parts) assert.equal(sum(part.parts), part.b - part.a, `${label}, ${part.label}`);
      if (account.over) assert.equal(signed(sum(account.parts) / account.over, 2), row.difference, label);
      else if (account.per) assert.equal(signed(account.b / account.per[1] - account.a / account.per[0], 2), row.difference, label);
      else if (!account.reqs || label.startsWith("TTFT") || !label.startsWith("TPOT")) assert.equal(sum(account.parts), number(row.difference), label);
      if (account.reqs) assert.equal(sum(account.parts), account.b - account.a, label);
    }
  });
}

test("halves are rounded to the even digit, as Python does", () => {
  assert.deepEqual([fixed(1.125, 2), fixed(0.375, 2), fixed(2.675, 2), fixed(0.25, 1), fixed(12, 2)], ["1.12", "0.38", "2.67", "0.2", "12.00"]);
  assert.deepEqual([signed(-31_000), signed(0.001, 2), signed(2, 1)], ["−31,000", "0", "+2.0"]);
  assert.deepEqual([join(["a", "b", "c"], 2), join(["a"]), join([])], ["a and 2 more", "a", ""]);
});

// --- the picture --------------------------------------------------------------------------------

const tiny = () => timelineOf(load("tiny-pressure").store);
const bare = () => timelineOf(load("no-caching").store);
const picture = (timeline, to) => [...timeline.rows.keys()].map((req) => `${req} ${timeline.letters(req, 1, to)}`);

test("tiny-pressure's two runs are the two small timelines", () => {
  assert.deepEqual(picture(tiny(), 17), [
    "r1 ppdddddddd✓······",
    "r2 ·hdd✓············",
    "r3 ··pppddddddd✓····",
    "r4 ···wpdd!wwwRddd✓·",
    "r5 ········wwwwwhdd✓",
  ]);
  assert.deepEqual(picture(bare(), 20), [
    "r1 ppdddddddd✓·········",
    "r2 ·ppdd✓··············",
    "r3 ··ppp!Rpddddddd✓····",
    "r4 ···wwwwwp!wRddddd✓··",
    "r5 ········wwwppp!wRpd✓",
  ]);
});

test("a lane is used again: as many as requests lived at once", () => {
  assert.equal(tiny().peak, 4);
  assert.equal(tiny().rowIn(1, 4).req, "r2");
  assert.equal(tiny().rowIn(1, 9).req, "r5");
  assert.equal(tiny().rowIn(1, 7), null);
});

test("a cell has its reason, and who stands in the way", () => {
  const { code, reason, behind } = tiny().cell("r5", 10);
  assert.deepEqual({ code, reason, behind }, { code: "w", reason: "no_free_blocks", behind: "r4" });
  assert.equal(tiny().cell("r1", 1).code, "c", "a chunk, not its last");
  assert.equal(tiny().cell("r5", 8), null);
});

test("free blocks and the limit of each step are those of the fold and the ledger", () => {
  for (const name of ["tiny-pressure", "no-caching", "static-contiguous", "priorities-aborts-reset", "last-steps", "forked"]) {
    const { store } = load(name);
    for (const { step, free } of timelineOf(store).steps) assert.equal(free, store.stateAfter(step).free.length, `${name} ${step}`);
  }
  assert.deepEqual(tiny().steps.slice(6, 10).map((step) => step.limit), [
    "nothing_waits", "preempted_this_step", "no_free_blocks", "no_free_blocks",
  ]);
});

test("a timeline that grows with its run is the one of the whole run", () => {
  const { events } = readJson("tests/vectors/priorities-aborts-reset.json");
  const store = new TraceStore();
  for (let at = 0; at < events.length; at += 37) {
    store.ingest(events.slice(at, at + 37));
    if (store.config) timelineOf(store);
  }
  const whole = timelineOf(load("priorities-aborts-reset").store);
  const grown = timelineOf(store);
  assert.deepEqual([...grown.rows], [...whole.rows]);
  assert.ok([...whole.rows.values()].some((row) => row.runs.at(-1).code === "⊘"));
});

test("a trace that begins late shows who lived then", () => {
  const timeline = timelineOf(load("last-steps").store);
  assert.equal(timeline.firstStep, 11);
  assert.equal(timeline.letters("r3"), "d✓····");
});

// --- the axis -----------------------------------------------------------------------------------

test("places and steps lead to one another, by step and by time", () => {
  for (const byTime of [false, true]) {
    const axis = axisOf(tiny(), wholeView(tiny()), 340, byTime);
    for (let step = 1; step <= 17; step += 1) assert.equal(axis.stepAt((axis.x(step) + axis.x(step + 1)) / 2), step);
    assert.deepEqual([Math.round(axis.x(1)), Math.round(axis.x(18))], [0, 340]);
  }
});

test("zooming keeps the step under the pointer, and nothing leaves the run", () => {
  const whole = wholeView(tiny());
  const close = zoom(whole, whole, 0.5, 9);
  assert.equal((9 - close.from) / (close.to - close.from), (9 - 1) / 17);
  assert.deepEqual(zoom(close, whole, 100, 9), whole);
  assert.equal(zoom(whole, whole, 0.001, 9).to - zoom(whole, whole, 0.001, 9).from, 4);
  assert.deepEqual(pan(close, whole, 99), { from: 18 - 8.5, to: 18 });
});

test("ticks are round steps, far enough apart", () => {
  const axis = (from, to) => ({ from, to, width: 480 });
  assert.deepEqual(ticks(axis(1, 17)), [2, 4, 6, 8, 10, 12, 14, 16]);
  assert.deepEqual(ticks(axis(1, 5000)), [500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500, 5000]);
});

// 5,000 steps with 40 requests, one of which is preempted over and over.
function longRun() {
  const events = [];
  const tell = (kind, step, req, data) => events.push({ stream: "engine0", seq: events.length + 1, step, phase: "schedule", kind, t_ns: events.length, src: 0, req, data });
  const config = { ...load("tiny-pressure").store.config, num_kv_blocks: 16 };
  tell("run.config", 0, null, config);
  for (let step = 1; step <= 5000; step += 1) {
    const at = (n) => `r${n}`;
    const born = step <= 40 ? at(step) : null;
    if (born) {
      tell("req.arrive", step, born, { request_id: born, prompt_token_ids: [1], texts: ["a"], params: {}, max_tokens: 9999 });
      tell("req.enqueue", step, born, { position: 0 });
    }
    tell("step.begin", step, null, { budget: 64, max_num_seqs: 64, waiting: 0, running: 0, free_blocks: 0 });
    if (born) tell("req.admit", step, born, { hit: 0, tokens: 1 });
    const victim = step % 97 === 0 && step > 40 ? at(7) : null;
    if (victim) tell("req.preempt", step, victim, { tokens_lost: 1, position: 0 });
    else if (step % 97 === 1 && step > 97) tell("req.resume", step, at(7), { hit: 0, tokens: 1 });
    const rows = [];
    for (let n = 1; n <= Math.min(step, 40); n += 1) {
      if (at(n) !== victim) tell("sched.grant", step, at(n), { n: 1, start: 0, why: "decode" });
    }
    tell("sched.ledger", step, null, { budget: 64, used: 40, rows, unused_reason: "nothing_waits" });
    tell("step.end", step, null, { schedule_ns: 0, execute_ns: 0, update_ns: 0 });
  }
  const store = new TraceStore();
  store.ingest(events);
  return { store, events: events.length };
}

test("200,000 events are folded into no more pieces than there are pixels, and no mark is lost", () => {
  const { store, events } = longRun();
  assert.ok(events > 200_000);
  const timeline = timelineOf(store);
  const row = timeline.rows.get("r7");
  assert.ok(row.runs.length < 250 && timeline.rows.get("r8").runs.length === 1);
  const axis = axisOf(timeline, wholeView(timeline), 100);
  const drawn = pieces(row, axis);
  assert.ok(drawn.length <= 120, `${drawn.length} pieces on 100 pixels`);
  assert.ok(drawn.filter((piece) => piece.code === "!").length >= 45, "each preemption has its pixel");
  assert.ok(drawn.filter((piece) => piece.code === "R").length < 10, "the rarer of two that share a pixel is shown");
});

// --- one cursor ---------------------------------------------------------------------------------

test("by step the numbers are the same; by token the same output token of the request", () => {
  const [a, b] = [load("tiny-pressure"), load("no-caching")];
  assert.equal(twinStep(a, b, 8), 8);
  assert.equal(twinStep(b, a, 20), 17, "A has ended");
  assert.equal(twinStep(a, b, 5, "r4"), 9, "its first token");
  assert.equal(twinStep(a, b, 10, "r4"), twinStep(a, b, 7, "r4"), "nothing new was said meanwhile");
  for (let step = 5; step <= 16; step += 1) {
    const said = (trace, at) => trace.events.filter((e) => e.kind === "req.token" && e.req === "r4" && e.step <= at).length;
    assert.equal(said(a, step), said(b, twinStep(a, b, step, "r4")), `step ${step}`);
  }
});
