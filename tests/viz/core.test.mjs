// The pure core of the page, run by `node --test` (tests/viz/test_core.py starts it): the fold and
// the story against the vectors that also hold the Python side, and the page's own arithmetic.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";
import { gzipSync } from "node:zlib";

const root = new URL("../../", import.meta.url);
const core = (name) => import(new URL(`viz/static/core/${name}`, root));
const { apply, clone, fold, newState } = await core("fold.js");
const { stepViolations, violations } = await core("invariants.js");
const { TraceStore } = await core("store.js");
const { story } = await core("story.js");
const { stepFacts, strongest, summarise } = await core("facts.js");
const { buildScene, tokenFlags } = await core("scene.js");
const layout = await core("layout.js");
const palette = await core("palette.js");
const { Clock, REST, beatAt, nextSpeed, planBeats } = await core("clock.js");
const { Player } = await core("player.js");
const { HueAssigner } = await core("hues.js");
const { nameOf, parseTrace, textOf } = await core("file.js");
const { formatHash, parseHash } = await core("url.js");
const { applyToFront, endOfLife, frontFrom, frontJson, newFront, routeCard } = await core("front.js");
const { engineStreams, findRequest, newestOf, splitLives } = await core("lives.js");
const { whyCard } = await core("why.js");
const { find } = await core("find.js");
const { sayState } = await core("say.js");

const json = (value) => JSON.parse(JSON.stringify(value));
const readText = (path) => readFileSync(new URL(path, root), "utf8");
const readJson = (path) => JSON.parse(readText(path));

const vectors = readdirSync(new URL("tests/vectors/", root))
  .filter((name) => name.endsWith(".json"))
  .map((name) => ({ name, ...readJson(`tests/vectors/${name}`) }));

test("there are vectors", () => assert.ok(vectors.length >= 3));

for (const { name, events, steps } of vectors) {
  const eventsOf = (step) => events.filter((event) => event.step === step);

  test(`${name}: the fold equals Python's after every step`, () => {
    const state = newState();
    for (const { step, state: expected } of steps) {
      for (const event of eventsOf(step)) apply(state, event);
      assert.deepEqual(json(state), expected, `step ${step}`);
    }
  });

  test(`${name}: the story equals Python's in every step`, () => {
    const state = newState();
    for (const { step, headline, also } of steps) {
      const before = clone(state);
      for (const event of eventsOf(step)) apply(state, event);
      if (headline === null) continue;
      assert.deepEqual(story(before, eventsOf(step)), { headline, also }, `step ${step}`);
    }
  });

  test(`${name}: no invariant is broken at any step's end`, () => {
    const store = new TraceStore();
    store.ingest(events);
    assert.deepEqual(store.violated, []);
  });
}

// --- the store ---------------------------------------------------------------------------------

const tiny = vectors.find(({ name }) => name === "tiny-pressure.json");
const tinyStore = () => {
  const store = new TraceStore();
  store.ingest(tiny.events);
  return store;
};
const hueOf = (store) => (req) => store.hues.of[req];
const sceneAt = (store, step, beat) =>
  buildScene(store.stateAfter(step), stepFacts(store.eventsOf(step)), hueOf(store), beat);

test("stepping back and forth lands on identical states", () => {
  const store = tinyStore();
  const forward = tiny.steps.map(({ step }) => JSON.stringify(store.stateAfter(step)));
  for (const { step } of [...tiny.steps].reverse()) {
    store.recent.clear(); // not from the cache: folded again
    assert.equal(JSON.stringify(store.stateAfter(step)), forward[step]);
  }
});

test("walking event by event reaches the state of the whole step", () => {
  const store = tinyStore();
  for (let step = 1; step <= store.lastStep; step += 1) {
    const within = store.stateWithin(step, store.eventsOf(step).length);
    assert.deepEqual(json(within), json(store.stateAfter(step)));
  }
});

test("a trace that was cut to its last steps begins with their state", () => {
  const cut = vectors.find(({ name }) => name === "last-steps.json");
  const store = new TraceStore();
  store.ingest(cut.events);
  const first = cut.steps[0].step;
  assert.deepEqual([store.firstStep, store.lastStep], [first, first + cut.steps.length - 1]);
  for (const { step, state } of cut.steps) {
    assert.deepEqual(json(store.stateAfter(step)), state);
  }
  assert.throws(() => store.stateAfter(first - 1), /no step/);
  const { running, waiting } = store.stateAfter(first);
  assert.ok([...running, ...waiting].every((req) => store.hues.of[req] >= 0));
  assert.throws(() => store.ingest([{ ...cut.events[0], seq: store.seq + 9 }]), /is missing/);
});

test("a snapshot is not changed by folding on from it", () => {
  const state = fold(tiny.events.slice(0, 120));
  const copy = clone(state);
  const before = JSON.stringify(copy);
  fold(tiny.events.slice(120), state);
  assert.equal(JSON.stringify(copy), before);
  assert.notEqual(JSON.stringify(state), before);
});

test("a missing event is an error, a repeated one is passed over", () => {
  const store = new TraceStore();
  store.ingest(tiny.events.slice(0, 10));
  store.ingest(tiny.events.slice(5, 12));
  assert.equal(store.seq, 12);
  assert.throws(() => store.ingest(tiny.events.slice(13)), /event 13 is missing/);
});

test("a store that begins at a snapshot agrees with a whole one, also once its past is there", () => {
  const whole = tinyStore();
  const state = whole.stateAfter(9);
  const late = new TraceStore({ seq: state.seq, step: 9, state, hues: whole.hues.of });
  late.ingest(tiny.events.filter((event) => event.seq > state.seq));
  assert.deepEqual(json(late.stateAfter(17)), json(whole.stateAfter(17)));
  assert.throws(() => late.stateAfter(8), /no step 8/);

  const older = new TraceStore();
  older.ingest(tiny.events.filter((event) => event.seq <= state.seq));
  late.prepend(older);
  for (const { step } of tiny.steps) {
    assert.deepEqual(json(late.stateAfter(step)), json(whole.stateAfter(step)), `step ${step}`);
  }
  assert.deepEqual(late.index, whole.index);
  assert.deepEqual(late.hues.of, whole.hues.of);
});

test("a broken invariant is noticed at the step's end", () => {
  const store = new TraceStore();
  const cut = tiny.events.filter((event) => event.kind !== "kv.free");
  store.ingest(cut.map((event, i) => ({ ...event, seq: i + 1 })));
  assert.equal(store.violated[0].step, 5);
});

const damaged = readJson("tests/data/broken-states.json");
for (const { name, changes, breaches } of damaged.cases) {
  test(`a state with ${name} is told in Python's words`, () => {
    const state = json(damaged.state);
    for (const [path, value] of changes) {
      const at = path.slice(0, -1).reduce((part, key) => part[key], state);
      at[path.at(-1)] = value;
    }
    assert.deepEqual(violations(state), breaches);
  });
}

test("a step that grants more than its budget breaks an invariant", () => {
  const store = new TraceStore();
  const lower = (event) =>
    event.kind === "run.config"
      ? { ...event, data: { ...event.data, max_num_batched_tokens: 5 } }
      : event;
  store.ingest(tiny.events.map(lower));
  assert.deepEqual(store.violated[0], {
    step: 1,
    message: "the grants add up to 12 tokens, the budget is 5",
    told: false,
  });
});

test("what the engine tells of itself is a breach of the step that tells it", () => {
  const told = { kind: "trace.violation", req: null, data: { message: "it leaks" } };
  const end = tiny.events.find(({ kind, step }) => kind === "step.end" && step === 3);
  const events = tiny.events.flatMap((event) => (event === end ? [{ ...end, ...told }, event] : [event]));
  const store = new TraceStore();
  store.ingest(events.map((event, i) => ({ ...event, seq: i + 1 })));
  assert.deepEqual(store.violated, [{ step: 3, message: "it leaks", told: true }]);
});

test("a failed step does not end the run, and a run that ended says nothing more comes", () => {
  const at = tiny.events.findIndex(({ kind, step }) => kind === "sched.ledger" && step === 3);
  const say = (kind, data) => ({ ...tiny.events[at], kind, req: null, data });
  const failed = say("run.error", { error: "RuntimeError", message: "no memory" });
  const begun = tiny.events.filter(({ step }) => step <= 3);
  begun.splice(at + 1, 0, failed);
  const events = begun.map((event, i) => ({ ...event, seq: i + 1 }));
  const store = new TraceStore();
  store.ingest(events);
  const next = () => whyCard(store, 3, { req: "r1" }, () => 0).next.text;
  assert.equal(next(), "not known yet");
  store.ingest([{ ...say("run.end", { steps: 3 }), seq: store.seq + 1 }]);
  assert.equal(next(), "nothing more in this run");
});

test("the Why card of who runs drafts counts them apart from the token said last", () => {
  const { events } = vectors.find(({ name }) => name === "speculation.json");
  const store = new TraceStore();
  store.ingest(events);
  const words = [];
  for (let step = 1; step <= store.lastStep; step += 1) {
    for (const { req, n, why } of stepFacts(store.eventsOf(step)).grants) {
      if (why !== "decode" || !store.stateAfter(step).running.includes(req)) continue;
      const card = whyCard(store, step, { req }, () => 0);
      const told = card.why.find(({ name }) => name === "spec.propose");
      assert.equal(Boolean(told), n > 1, `${req} in step ${step}`);
      if (told) words.push(told.text);
    }
  }
  assert.ok(words.length > 3);
  assert.ok(words.includes("3 drafts ran with the token it said last: 3 were right."), words.join());
});

test("a negative grant breaks an invariant", () => {
  const ledger = { rows: [{ req: "r1", granted: -3 }] };
  const found = stepViolations({ max_num_batched_tokens: 9 }, { budget: 9 }, ledger);
  assert.deepEqual(found, ["r1 is granted -3 tokens"]);
});

test("hues are given at arrival, the lowest that is free, then grey", () => {
  const hues = new HueAssigner();
  for (let i = 1; i <= 9; i += 1) hues.see({ kind: "req.arrive", req: `r${i}` });
  hues.see({ kind: "req.finish", req: "r3" });
  hues.see({ kind: "req.finish", req: "r9" });
  hues.see({ kind: "req.arrive", req: "r10" });
  hues.see({ kind: "req.arrive", req: "r11" });
  assert.deepEqual(Object.values(hues.of), [0, 1, 2, 3, 4, 5, 6, 7, -1, 2, -1]);
});

// --- the scene ---------------------------------------------------------------------------------

test("step 2 shows r2's hit: shared blocks, reused tokens, the unused rest with its reason", () => {
  const scene = sceneAt(tinyStore(), 2);
  const [one, two, three] = scene.pool.faces;
  for (const face of [one, two]) {
    assert.deepEqual([face.state, face.marks, face.ref], ["shared", "↺", 2]);
    assert.deepEqual(face.owners.map((owner) => owner.row.req), ["r1", "r2"]);
  }
  assert.equal(three.state, "used");
  const r2 = scene.running[1];
  const flags = Array.from({ length: r2.known }, (_, i) => tokenFlags(r2, i));
  const { FILLED, OUTPUT, RAN, REUSED } = layout;
  assert.deepEqual(flags, [...Array(8).fill(REUSED), ...Array(3).fill(FILLED | RAN), OUTPUT]);
  assert.equal(scene.budget.why, "nothing waits");
});

test("step 8 shows who gave way, for whom, and where the blocks went", () => {
  const scene = sceneAt(tinyStore(), 8);
  assert.deepEqual(scene.running.map((row) => row.req), ["r1", "r3"]);
  assert.equal(scene.waiting[0].why, "preempted for r3 in this step");
  assert.equal(scene.waiting[0].mark, "!");
  assert.equal(scene.budget.why, "r4 was preempted in this step");
  const face = (id) => scene.pool.faces[id - 1];
  assert.deepEqual([face(6).state, face(6).marks], ["used", "−+"]);
  assert.deepEqual([face(14).state, face(15).state], ["cached", "cached"]);
  assert.deepEqual(scene.pool.free, [15, 14]);
});

test("step 6 shows the eviction and step 12 the resume", () => {
  const store = tinyStore();
  assert.equal(sceneAt(store, 6).pool.faces[5].marks, "✕+");
  const scene = sceneAt(store, 12);
  assert.equal(scene.pool.faces[13].marks, "↺");
  assert.equal(scene.budget.why, "r5 needs 5 blocks, 4 are free");
  assert.equal(scene.waiting[0].why, "needs 5 blocks, 4 are free");
});

test("who stands behind the head says so", () => {
  const scene = sceneAt(tinyStore(), 9);
  assert.deepEqual(
    scene.waiting.map(({ req, why }) => [req, why]),
    [["r4", "needs 3 blocks, 2 are free"], ["r5", "behind r4 (fcfs)"]],
  );
});

test("before the run beat nothing is computed yet, before the output beat nothing is said", () => {
  const store = tinyStore();
  const events = store.eventsOf(5);
  const at = events.findIndex((event) => event.kind === "exec.forward") + 1;
  const state = store.stateWithin(5, at);
  const facts = stepFacts(events.slice(0, at));
  const r4 = (beat) => buildScene(state, facts, hueOf(store), beat).running.find((row) => row.req === "r4");
  assert.equal(r4(2).computed, 0);
  assert.equal(r4(3).computed, 8);
  assert.equal(r4(3).text.newest, "");
});

test("the four sentences tell the whole state", () => {
  const words = sayState(sceneAt(tinyStore(), 9));
  assert.match(words[0], /^Running: r1 with 24 of 25 tokens and r3 with/);
  assert.match(words[1], /^Waiting: r4, needs 3 blocks, 2 are free and r5, behind r4/);
  assert.match(words[2], /2 of 12 tokens run in step 9; 10 unused/);
  assert.match(words[3], /13 of 15 blocks in use, 2 free, 2 of these still cached/);
});

// --- the Why card and find ---------------------------------------------------------------------

test("the Why card of r4 in step 9 tells why two free blocks of its own are not enough", () => {
  const store = tinyStore();
  const card = whyCard(store, 9, { req: "r4" }, hueOf(store));
  assert.match(card.now, /^Waits, first in line\./);
  assert.equal(
    card.why[0].text,
    "Its 11 tokens need 3 blocks; 2 are free. Both hold its own tokens 1–8: a hit saves the work, " +
      "but a cached block that lies free counts as needed, too.",
  );
  assert.equal(card.why[0].name, "no_free_blocks");
  assert.deepEqual(card.since, { step: 8, text: "preempted" });
  assert.deepEqual(card.next, { step: 10, text: "still waits" });
});

test("a block's card is its biography", () => {
  const store = tinyStore();
  const { life, now } = whyCard(store, 6, { block: 6 }, hueOf(store));
  assert.deepEqual(
    life.slice(0, 6).map(({ step, text }) => `${text} (${step})`),
    ["taken by r2 (2)", "given back by r2 (5)", "evicted for r4 (6)", "taken by r4 (6)", "given back by r4 (8)", "taken by r3 (8)"],
  );
  assert.match(now, /In use by r4.*token 9 of r4: “ five”/);
});

test("find gives the steps of a request, a block, a reason and of the ready-made questions", () => {
  const store = tinyStore();
  const steps = (query) => find(store, query, () => "").hits.map((hit) => hit.step);
  assert.deepEqual(steps("preemptions"), [8]);
  assert.deepEqual(steps("evictions"), [6, 10, 12, 14]);
  assert.deepEqual(steps("no_free_blocks"), [9, 10, 11, 12, 13]);
  assert.deepEqual(steps("block 6"), steps("6"));
  for (const step of [2, 5, 6, 8, 13, 14, 17]) assert.ok(steps("6").includes(step), step);
  assert.ok(steps("r5").includes(9) && !steps("r5").includes(3));
  assert.deepEqual(steps("the longest waits"), [14, 5]);
});

// --- arithmetic --------------------------------------------------------------------------------

test("one cell width for all rows, as wide as the longest allows", () => {
  assert.equal(layout.tokenCells(24, 4, 560).cell, 14);
  const long = layout.tokenCells(400, 16, 560);
  assert.ok(long.scaled && Math.abs(long.cell * 400 - 560) < 1e-9);
  for (const [count, size] of [[24, 4], [100, 16], [180, 16]]) {
    const cells = layout.tokenCells(count, size, 560);
    for (let i = 0; i < count; i += 1) {
      const middle = layout.tokenX(i, size, cells) + cells.cell / 2;
      assert.equal(layout.tokenAt(middle, count, size, cells), i);
    }
  }
});

test("blocks shrink until they all fit, and a point finds its block", () => {
  const detail = (count) => layout.poolLayout(count, 440, 476).detail;
  assert.deepEqual([15, 60, 150, 400, 10_000].map(detail), ["slots", "name", "mark", "hue", "pixel"]);
  for (const count of [1, 15, 64, 150, 711, 10_000, 60_000]) {
    const grid = layout.poolLayout(count, 440, 476);
    assert.ok(grid.width <= 440 && grid.height <= 476, `${count} blocks`);
    for (const index of [0, Math.floor(count / 2), count - 1]) {
      const { x, y } = layout.blockXY(index, grid);
      assert.equal(layout.blockAt(x + grid.size / 2, y + grid.size / 2, count, grid), index);
    }
  }
});

test("a pool may begin smaller on a phone and larger when it has the page to itself", () => {
  assert.deepEqual([60, 72, 144].map((large) => layout.poolLayout(15, 358, 2000, large).columns), [5, 4, 2]);
  assert.equal(layout.poolLayout(60, 1392, 476, 144).size, 72);
});

test("the budget bar has a cell per token up to 64, merges many decodes, never overflows", () => {
  const decode = (req) => ({ req, n: 1, start: 20, why: "decode" });
  const twelve = layout.budgetLayout(12, [decode("r1"), { req: "r2", n: 8, start: 0, why: "prefill" }], 600);
  assert.equal(twelve.mode, "cells");
  assert.deepEqual(twelve.segments.map((s) => s.width), [32, 256]);
  const many = Array.from({ length: 200 }, (_, i) => decode(`r${i}`));
  const merged = layout.budgetLayout(2048, [{ req: "p", n: 100, start: 0, why: "chunk" }, ...many], 600);
  assert.deepEqual(merged.segments.map((s) => s.merged), [0, 200]);
  assert.ok(merged.segments.every((s) => s.width >= 3));
  const crowded = layout.budgetLayout(8192, Array.from({ length: 250 }, (_, i) => ({ req: `r${i}`, n: 1, why: "prefill" })), 600);
  assert.ok(crowded.used <= crowded.width + 1e-6);
});

test("long queues show their ends, bars those to whom something happened first", () => {
  const list = Array.from({ length: 46 }, (_, i) => i);
  assert.deepEqual(layout.shownQueue(list), { first: [0, 1, 2, 3, 4], more: 40, last: [45] });
  assert.deepEqual(layout.shownQueue([1, 2]).more, 0);
  const { shown, rest } = layout.shownBars(list, (i) => i === 40, 10);
  assert.equal(shown[0], 40);
  assert.equal(shown.length + rest.length, 46);
});

test("the scrubber finds each step under its bar, also when a bar is many steps", () => {
  for (const steps of [1, 17, 500, 20_000]) {
    const bars = layout.scrubLayout(steps, 800);
    assert.ok(bars.bins * bars.pitch <= 800 + 1e-6);
    const last = layout.scrubStepAt((bars.bins - 0.5) * bars.pitch, steps, bars);
    assert.ok(last > steps - bars.perBin && last <= steps);
    assert.equal(layout.scrubStepAt(-5, steps, bars), 1);
    assert.equal(layout.scrubStepAt(1e9, steps, bars), steps);
  }
});

test("the address names the view, an open drawer and what the view needs beside", () => {
  const place = { ...parseHash("#/run/a/step/8/req/r4"), view: "compare", drawer: "source", params: { with: "b c&d" } };
  const hash = formatHash(place);
  assert.equal(hash, "#/run/a/step/8/req/r4?view=compare&drawer=source&with=b+c%26d");
  assert.deepEqual(parseHash(hash), place);
  const life = parseHash("#/run/live?request=chatcmpl-a&view=life");
  assert.deepEqual([life.request, life.view, life.params], ["chatcmpl-a", "life", {}]);
  assert.deepEqual(parseHash("#run=live&request=chatcmpl-a&view=life"), life);
});

test("an address names run, step, event and what is chosen, and survives nonsense", () => {
  const place = { run: "tiny-pressure", step: 8, event: 3, req: "r4", block: null };
  assert.deepEqual(parseHash(formatHash(place)), { ...parseHash(""), ...place });
  assert.equal(formatHash({ run: "a b", step: 8, req: "r4" }), "#/run/a%20b/step/8/req/r4");
  assert.equal(parseHash("#/run/x/step/-1/block/9e9").step, null);
  assert.equal(parseHash("").run, null);
  const second = { run: "live", engine: 1, life: 2, step: 8, req: "r4" };
  assert.equal(formatHash(second), "#/run/live/engine/1/life/2/step/8/req/r4");
  assert.deepEqual(parseHash(formatHash(second)), { ...parseHash(""), ...second });
  const asked = parseHash("#run=live&request=chatcmpl-a%2Fb");
  assert.deepEqual(asked, { ...parseHash(""), run: "live", request: "chatcmpl-a/b" });
  assert.deepEqual(parseHash("#/run/live?request=chatcmpl-a%2Fb"), asked);
  assert.equal(parseHash("#/run=live&request=x").request, "x");
  assert.equal(parseHash("#/%E0%A4%A").run, null);
  assert.equal(parseHash("#/run/%E0%A4%A/step/3").run, "%E0%A4%A");
});

test("a trace file is read in the page as the server reads it", async () => {
  const bytes = readFileSync(new URL("minivllm/gallery/tiny-pressure.trace.jsonl", root));
  const file = new File([bytes], "Mine.trace.jsonl");
  const { header, lives } = parseTrace(await textOf(file));
  assert.deepEqual(lives.map(({ stream, life }) => [stream, life]), [["engine0", 1]]);
  assert.equal(header.name, "tiny-pressure");
  assert.equal(nameOf(file.name), "mine");
  const store = new TraceStore();
  store.ingest(lives[0].events);
  assert.equal(store.lastStep, 17);
  const packed = new File([gzipSync(bytes)], "mine.trace.jsonl.gz");
  assert.deepEqual(parseTrace(await textOf(packed)).lives, lives);
});

test("a file that is no trace, or is cut, is told with its line", () => {
  const text = readFileSync(new URL("minivllm/gallery/tiny-pressure.trace.jsonl", root), "utf8");
  const lines = text.split("\n");
  assert.throws(() => parseTrace(""), /no header/);
  assert.throws(() => parseTrace("# minivllm"), /Line 1 is no JSON/);
  assert.throws(() => parseTrace('{"schema": "minivllm.trace/2.0"}'), /no header/);
  assert.throws(() => parseTrace(text.slice(0, lines[0].length + 50)), /Line 2 is no JSON: the file is cut/);
  assert.throws(() => parseTrace(`${lines[0]}\n{}\n`), /Line 2 is no event/);
});

// --- several engines ---------------------------------------------------------------------------

const told = readJson("tests/data/front.json");

test("the front end's state is what its events say, as the server makes it", () => {
  const front = newFront();
  let compared = 0;
  for (const { event, state } of told) {
    applyToFront(front, event);
    if (!state) continue;
    compared += 1;
    assert.deepEqual(json(frontJson(front)), state);
    assert.deepEqual(Object.keys(frontJson(front).routes), Object.keys(state.routes));
    assert.deepEqual(frontFrom(state), front);
  }
  assert.ok(compared > 10);
});

test("a trace that was cut begins with the front end's state, and a new front end with none", () => {
  const at = told.findIndex(({ state }) => state?.routes["cmpl-b"]);
  const cut = { ...told[at].event, kind: "run.snapshot", data: { epoch: 1, state: told[at].state, sources: [] } };
  const [front, whole] = [newFront(), newFront()];
  for (const { event } of told) applyToFront(whole, event);
  for (const event of [cut, ...told.slice(at + 1).map((row) => row.event)]) applyToFront(front, event);
  assert.deepEqual(front, whole);
  applyToFront(front, { ...told[0].event, kind: "run.start", data: { epoch: 2 } });
  assert.deepEqual(front, { ...newFront(), seq: told[0].event.seq });
});

test("an event of a later version changes nothing but the number", () => {
  const front = frontFrom(told.at(-1).state);
  applyToFront(front, { stream: "api", seq: 999, kind: "engine.moves", data: { engine: 1 } });
  applyToFront(front, { stream: "engine0", seq: 1000, kind: "engine.dead", data: { engine: 1 } });
  assert.deepEqual(front, { ...frontFrom(told.at(-1).state), seq: 999 });
});

test("the Why card of a request names its engine, the reason and who else could have been picked", () => {
  const front = frontFrom(told.at(-1).state);
  const hit = routeCard(front, { request_id: "cmpl-c", parent: null });
  assert.equal(hit.name, "cached_prefix");
  assert.match(hit.text, /^To engine 0: it holds so much of the prompt/);
  assert.deepEqual(hit.candidates.map(({ engine, cached_tokens }) => [engine, cached_tokens]), [[0, 12], [1, 0]]);
  const again = routeCard(front, { request_id: "cmpl-d", parent: null });
  assert.match(again.text, /its first engine died before it had said anything\. It was sent to engine 1 before\./);
  assert.equal(routeCard(front, { request_id: "1_cmpl-a", parent: "cmpl-a" }).engine, 0);
  assert.equal(routeCard(front, { request_id: "nobody", parent: null }), null);
});

test("the end of a life is told with its cause, and what became of its requests", () => {
  const front = frontFrom(told.at(-1).state);
  assert.deepEqual(endOfLife(front, "engine1", 1, 2), {
    what: "Engine 1 died here: it was killed by signal 9.",
    cause: "Of what it had, 1 request went to another engine and 1 request ended with an error. It was started anew.",
  });
  assert.equal(endOfLife(front, "engine1", 2, 2), null);
  assert.equal(endOfLife(front, "engine0", 1, 2).what, "Here life 1 of engine 0 ends.");
  assert.equal(endOfLife(newFront(), "engine0", 1, 1), null);
  const gap = { of_stream: "engine1", epoch: 2, first: 41, last: 60 };
  applyToFront(front, { stream: "api", seq: 1000, kind: "trace.gap", data: gap });
  const words = "Here the trace of engine 1 breaks off: events 41 to 60 were lost on their way.";
  assert.equal(endOfLife(front, "engine1", 2, 2).what, words);
});

test("lives of a file: apart at each start, numbered as they say, found by a client's id", () => {
  const start = (stream, epoch) => ({ stream, kind: "run.start", seq: 1, data: { epoch } });
  const arrive = (stream, req, id, t_ns, parent = null) =>
    ({ stream, kind: "req.arrive", seq: 2, req, step: 7, t_ns, data: { request_id: id, parent } });
  const lives = splitLives([
    start("engine1", 1), arrive("engine1", "r1", "x", 10), start("engine0", 3), start("engine1", 2),
    arrive("engine1", "r1", "0_n", 20, "n"), arrive("engine0", "r1", "x", 30),
  ]);
  assert.deepEqual(lives.map(({ stream, life, head }) => [stream, life, head]), [["engine1", 1, 2], ["engine0", 3, 2], ["engine1", 2, 2]]);
  assert.deepEqual(engineStreams(lives, { engines: { 10: {}, 2: {} } }), ["engine0", "engine1", "engine2", "engine10"]);
  assert.equal(newestOf(lives, "engine1"), 2);
  assert.equal(newestOf(lives, "engine7"), null);
  assert.equal(findRequest(lives, "x").stream, "engine0"); // where it was sent when its first engine had died
  assert.equal(findRequest(lives, "n").life, 2);
  assert.equal(findRequest(lives, "r1"), null);
});

// --- time --------------------------------------------------------------------------------------

test("beats up to 2 steps a second, one tween up to 5, cuts above; empty beats are left out", () => {
  const facts = (step) => stepFacts(tinyStore().eventsOf(step));
  assert.deepEqual(planBeats(facts(8), 2).beats, [1, 2, 3, 4]);
  assert.deepEqual(planBeats(facts(4), 1).beats, [0, 1, 2, 3, 4]);
  assert.deepEqual(planBeats(facts(7), 1).beats, [1, 3, 4]);
  assert.equal(planBeats(facts(8), 5).kind, "tween");
  assert.equal(planBeats(facts(8), 10).kind, "cut");
  assert.equal(planBeats(facts(8), 1, true).kind, "cut");
  for (const speed of [0.5, 1, 2]) assert.ok(planBeats(facts(4), speed).each <= 140);
  assert.ok(5 * planBeats(facts(4), 2).each <= 500);
});

test("a plan runs its beats in order and comes to rest", () => {
  const plan = { beats: [1, 3], each: 100 };
  assert.equal(beatAt(plan, 0).beat, 1);
  assert.equal(beatAt(plan, 150).beat, 3);
  assert.deepEqual(beatAt(plan, 200), { beat: REST, progress: 1 });
});

test("speeds go up and down their scale and stop at its ends", () => {
  assert.equal(nextSpeed(0.5, 1), 1);
  assert.equal(nextSpeed(2, -1), 1);
  assert.equal(nextSpeed(3, 1), 5);
  assert.equal(nextSpeed(50, 1), 50);
  assert.equal(nextSpeed(0.125, -1), 0.125);
});

test("the player plays at its speed, a key ends a beat at once, nothing queues", () => {
  const player = new Player();
  player.open(tinyStore(), 0);
  player.speed = 2;
  player.play(1000);
  for (let now = 1000; now <= 2900; now += 10) player.frame(now);
  assert.equal(player.step, 4);
  player.place(9);
  assert.deepEqual([player.step, player.beat, player.motion], [9, REST, null]);
  player.pause();
  for (let now = 3000; now <= 5000; now += 10) player.frame(now);
  assert.equal(player.step, 9);
  player.speed = 50;
  player.play(6000);
  for (let now = 6000; now <= 9000; now += 10) player.frame(now);
  assert.deepEqual([player.step, player.playing], [17, false]);
});

test("a reader who does not follow is not moved when the run grows", () => {
  const store = new TraceStore();
  const upTo = (step) => store.ingest(tiny.events.filter((event) => event.step <= step));
  upTo(5);
  const player = new Player();
  player.open(store, 3);
  upTo(8);
  player.grown(0);
  assert.equal(player.step, 3);
  player.place(8);
  player.following = true;
  upTo(9);
  player.grown(0);
  assert.equal(player.step, 9);
  upTo(12);
  player.grown(0);
  assert.equal(player.step, 12);
});

test("walking events crosses the borders of steps", () => {
  const player = new Player();
  const store = tinyStore();
  player.open(store, 3);
  player.walk(1);
  assert.deepEqual([player.step, player.event], [4, 1]);
  player.walk(-1);
  assert.deepEqual([player.step, player.event], [3, null]);
  player.walk(-1);
  assert.deepEqual([player.step, player.event], [3, store.eventsOf(3).length - 1]);
  player.walk(1);
  assert.equal(player.event, null);
});

test("a clock turned by hand runs only then", () => {
  const frames = [];
  const clock = new Clock((callback) => frames.push(callback), () => 5);
  const seen = [];
  clock.byHand();
  clock.next((now) => seen.push(now));
  assert.equal(frames.length, 0);
  clock.turn(10);
  assert.deepEqual(seen, [15]);
});

// --- colours -----------------------------------------------------------------------------------

const { themes, hatches } = readJson("viz/static/palette.json");
const [, share] = /\.chip\.dimmed[^}]*var\(--hue\) (\d+)%/.exec(readText("viz/static/style/base.css"));
const CHIP_BEHIND = Number(share) / 100;

const hexOf = (rgb) => `#${rgb.match(/\d+/g).map((v) => Number(v).toString(16).padStart(2, "0")).join("")}`;

for (const [name, theme] of Object.entries(themes)) {
  test(`${name}: hues stand out from the ground, names on chips and texts can be read`, () => {
    for (const hue of [...theme.hues, theme.grey]) {
      assert.ok(palette.contrast(hue, theme.background) >= 3, `${hue} on the ground`);
      assert.ok(palette.contrast(hue, theme.surface) >= 3, `${hue} on a surface`);
      assert.ok(palette.contrast(hue, theme.ink) >= 4.5, `name on ${hue}`);
    }
    for (const ground of [theme.background, theme.surface, theme.raised]) {
      assert.ok(palette.contrast(theme.text, ground) >= 7);
      assert.ok(palette.contrast(theme.dim, ground) >= 4.5, `dim on ${ground}`);
    }
    assert.ok(palette.contrast(theme.danger, theme.ink) >= 4.5);
    assert.ok(palette.contrast(theme.rim, theme.background) >= 12);
  });

  test(`${name}: what steps back keeps words that can be read, and the focus is seen everywhere`, () => {
    for (const hue of [...theme.hues, theme.grey]) {
      const chip = hexOf(palette.mix(hue, theme.background, CHIP_BEHIND));
      assert.ok(palette.contrast(theme.text, chip) >= 4.5, `name on a chip of ${hue}`);
    }
    for (const ground of [theme.background, theme.surface, theme.raised]) {
      assert.ok(palette.contrast(theme.focus, ground) >= 7);
      for (const words of [theme.text, theme.dim]) {
        const faded = hexOf(palette.mix(words, ground, palette.wordStrength(0.35)));
        assert.ok(palette.contrast(faded, ground) >= 4.5, `${words} of a faded drawing on ${ground}`);
      }
    }
    assert.ok(palette.contrast(theme.faint, theme.background) >= 3, "bars of the scrubber");
  });

  for (const sight of palette.SIGHTS) {
    test(`${name}: eight hues and grey differ for ${sight} sight`, () => {
      const colours = [...theme.hues, theme.grey];
      const least = sight === "normal" ? 0.1 : 0.06;
      colours.forEach((a, i) => {
        for (const b of colours.slice(i + 1)) {
          assert.ok(palette.distance(a, b, sight) >= least, `${a} ${b}: ${palette.distance(a, b, sight)}`);
        }
      });
    });
  }

  test(`${name}: red is nobody's hue`, () => {
    for (const hue of theme.hues) assert.ok(palette.distance(hue, theme.danger) >= 0.1, hue);
  });
}

test("words fade less than drawings, and not at all where nothing is drawn yet", () => {
  assert.equal(palette.wordStrength(0), 0);
  assert.equal(palette.wordStrength(1), 1);
  assert.ok(palette.wordStrength(0.6) === palette.wordStrength(0.35) && palette.wordStrength(0.1) < 0.3);
});

test("every hue has a hatch of its own", () => {
  assert.equal(new Set(hatches).size, 8);
});

test("a request that failed has another mark than one that is done", () => {
  const end = (reason) => ({ kind: "req.finish", req: "r1", data: { reason } });
  const mark = (...reasons) => strongest([summarise(stepFacts(reasons.map(end)), 1)]);
  assert.equal(mark("stop"), "✓");
  assert.equal(mark("error"), "⊘");
});
