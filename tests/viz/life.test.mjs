// The life of a request in the page's pure core: its way over all streams (held to trace/life.py),
// its stair and its steps (held to trace/metrics.py, and to what BOARD draws of tiny-pressure).

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";

const root = new URL("../../", import.meta.url);
const core = (name) => import(new URL(`viz/static/core/${name}`, root));
const { TraceStore } = await core("store.js");
const { wayOf } = await core("way.js");
const { splitLives } = await core("lives.js");
const { foldColumns, lifeOf, livesIn, textOf, whyNot } = await core("life.js");
const { bandsInTime, clientTimes } = await core("lifetimes.js");
const { columnWords, stateWords, summaryOf, tokenState, tokenWords } = await core("lifewords.js");

const readJson = (path) => JSON.parse(readFileSync(new URL(path, root), "utf8"));
const { ways, metrics } = readJson("tests/data/ways.json");
const storeOf = (name) => {
  const store = new TraceStore();
  store.ingest(readJson(`tests/vectors/${name}.json`).events);
  return store;
};

for (const [name, { events, hops }] of Object.entries(ways)) {
  test(`${name}: the way of each request is Python's`, () => {
    const lives = splitLives(events);
    for (const [id, expected] of Object.entries(hops)) {
      const { places, hops: mine } = wayOf(lives, id);
      assert.deepEqual({ places, hops: mine }, expected, id);
    }
  });
}

for (const [name, requests] of Object.entries(metrics)) {
  test(`${name}: a life's numbers are those of the metrics, and its bands add up`, () => {
    const lives = livesIn(storeOf(name));
    assert.deepEqual([...lives.keys()], Object.keys(requests));
    for (const [req, expected] of Object.entries(requests)) {
      const life = lives.get(req);
      const { ttft, tpot, outputs } = life;
      assert.deepEqual({ ttft, tpot, outputs }, { ttft: expected.ttft, tpot: expected.tpot, outputs: expected.outputs }, req);
      const steps = life.bands.reduce((sum, band) => sum + band.steps, 0);
      assert.equal(steps, life.columns.length, req);
      assert.equal(steps, life.ended - life.arrived + 1, req);
      const unran = life.columns.filter(({ ran }) => !ran).length;
      assert.equal(Object.values(life.waited).reduce((sum, n) => sum + n, 0), unran, req);
      if (expected.queue !== null) {
        const wait = life.bands[0].band === "wait" ? life.bands[0].steps : 0;
        assert.equal(wait, expected.queue, req);
      }
    }
  });
}

test("the life of one request is the same, computed alone or with all", () => {
  const store = storeOf("tiny-pressure");
  for (const [req, life] of livesIn(store)) assert.deepEqual(lifeOf(store, req), life);
  assert.equal(lifeOf(store, "r9"), null);
});

test("r4 of tiny-pressure is as BOARD 4 draws it", () => {
  const life = lifeOf(storeOf("tiny-pressure"), "r4");
  const column = (what) => life.columns.map(what);
  assert.deepEqual(column(({ step }) => step), [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
  assert.deepEqual(column(({ computed }) => computed), [0, 8, 9, 10, 0, 0, 0, 0, 11, 12, 13, 14, 15]);
  assert.deepEqual(column(({ ran }) => ran), [0, 8, 1, 1, 0, 0, 0, 0, 7, 1, 1, 1, 1]);
  assert.deepEqual(column(whyNot), ["budget", "", "", "", "for r3", "3>2", "3>1", "3>1", "", "", "", "", ""]);
  assert.deepEqual(column(({ mark }) => mark).join(""), "!✓");
  assert.deepEqual(column(({ hit }) => hit).filter(Boolean), [4]);
  assert.equal(life.columns.at(-1).known, 16);
  const blocks = life.blocks.map((periods) => periods.map(({ block }) => block));
  assert.deepEqual(blocks, [[14, 14], [15, 10], [6, 5], [15]]);
  const bands = life.bands.map(({ band, steps }) => `${band} ${steps}`);
  assert.deepEqual(bands, ["wait 1", "prefill 1", "decode 2", "preempted 4", "resume 1", "decode 4"]);
  assert.deepEqual([life.ttft, life.tpot.toFixed(2), life.steps], [2, "1.57", 13]);
  assert.deepEqual(life.waited, { no_budget: 1, preempted_this_step: 1, no_free_blocks: 3 });
  const five = life.tokens[8];
  assert.deepEqual([five.sampled, five.ran], [5, [6, 12]]);
  assert.deepEqual([life.tokens[0].hits, life.tokens[0].ran], [[12], [5]]);
});

test("a life that goes on grows with its steps", () => {
  const { events } = readJson("tests/vectors/tiny-pressure.json");
  const store = new TraceStore();
  store.ingest(events.filter(({ step }) => step <= 9));
  const life = lifeOf(store, "r4");
  assert.equal(life.ended, null);
  assert.deepEqual(life.columns.at(-1).wait.reason, "no_free_blocks");
  const arrival = events.findIndex(({ kind, step }) => kind === "req.arrive" && step === 9);
  const waiting = new TraceStore();
  waiting.ingest(events.slice(0, arrival + 1));
  assert.deepEqual(lifeOf(waiting, "r5").columns, []); // it has come, and no step was taken since
});

test("of a trace that was cut, a life begins where the trace does, and says so", () => {
  const whole = lifeOf(storeOf("tiny-pressure"), "r4");
  const cut = lifeOf(storeOf("last-steps"), "r4");
  assert.deepEqual([cut.cut, cut.arrived, cut.steps], [true, 4, 13]);
  const from = cut.columns[0].step;
  const rest = whole.columns.filter(({ step }) => step >= from);
  const shape = ({ step, computed, known, table, ran }) => ({ step, computed, known, table, ran });
  assert.deepEqual(cut.columns.map(shape), rest.map(shape));
});

test("many steps that pass alike are folded, with the first and the last left to see", () => {
  const column = (step, more = {}) => ({ step, ran: 1, band: "decode", mark: "", hit: 0, wait: null, victim: null, ...more });
  const columns = [column(1, { ran: 9, band: "prefill" })];
  for (let step = 2; step <= 215; step += 1) columns.push(column(step));
  columns.push(column(216, { mark: "✓" }));
  const shown = foldColumns(columns);
  assert.deepEqual(shown.map((item) => item.column?.step ?? [item.from, item.to, item.count]), [1, 2, [3, 214, 212], 215, 216]);
  assert.equal(foldColumns(columns.slice(0, 9)).length, 9);
  const { columns: tiny } = lifeOf(storeOf("tiny-pressure"), "r4");
  assert.equal(foldColumns(tiny).length, tiny.length);
});

test("text knows where a chunk begins, and what was held back until when", () => {
  const life = lifeOf(storeOf("tiny-pressure"), "r4");
  const words = life.tokens.slice(8).map(({ text }) => text);
  const tell = (kind, data) => ({ kind, data: { request_id: life.requestId, ...data } });
  const events = [tell("http.chunk", { tokens: 0 })];
  for (let i = 0; i < 8; i += 1) {
    events.push(tell("req.detokenize", { tokens: 1 }));
    if (i === 2) events.push(tell("req.held_back", { text: words[2] }));
    if (i === 3) events.push(tell("req.held_back", { text: words[2] + words[3] }));
    if (i === 4) events.push(tell("req.released", { text: "" }));
    if (i < 2 || i > 3) events.push(tell("http.chunk", { tokens: i === 4 ? 3 : 1 }));
    events.push({ kind: "req.detokenize", data: { request_id: "another", tokens: 5 } });
  }
  const { chunks, held } = textOf(life, events);
  assert.deepEqual(chunks, [0, 1, 2, 5, 6, 7]);
  assert.deepEqual([...held], [[2, 4], [3, 4]]);
  assert.deepEqual(textOf(life, []), { chunks: [], held: new Map() });
});

test("a life, a step and a token in words", () => {
  const store = storeOf("tiny-pressure");
  const life = lifeOf(store, "r4");
  assert.match(summaryOf(life), /^r4: 13 steps: wait 1, prefill 1, decode 2, preempted 4, resume 1 and decode 4\. 15 of 16 tokens/);
  const column = (step, row) => columnWords(life, { step, row }, store.config);
  assert.equal(column(9), "step 9: needs 3 blocks, 2 are free · 0 of 11 computed");
  assert.equal(column(8), "step 8: preempted for r3 in this step · 0 of 11 computed");
  assert.match(column(12, 1), /^step 12: 7 tokens ran, 4 reused \(resume\) · 11 of 12 computed · block 10 holds “/);
  assert.equal(column(3), "");
  const token = { ...life.tokens[8], row: { logprob: -0.3337, rank: 1, before: [{ text: " five", logprob: -0.3337 }, { text: "\n", logprob: -2 }] } };
  const words = tokenWords({ ...life, tokens: life.tokens.with(8, token) }, 8, new Map([[0, 1]]));
  assert.match(words, /slot 0 · sampled in step 5 · computed in step 6 \(block 6\) and again in step 12 \(block 5\)/);
  assert.match(words, /logprob -0\.33, rank 1 · likeliest “ five” -0\.33, “⏎” -2\.00 · held back until/);
  assert.match(tokenWords(life, 0, new Map()), /of the prompt · computed in step 5 \(block 14\) and reused in step 12 \(block 14\)$/);
  const state = (step, index, held = new Map()) => {
    const at = life.columns.find((item) => item.step === step);
    return stateWords(tokenState(life, at, held, step, index));
  };
  assert.deepEqual([0, 4, 10, 11].map((index) => state(12, index)), ["reused", "ran now", "ran now", "not computed"]);
  assert.deepEqual([0, 8, 11].map((index) => state(9, index)), ["not computed", "not computed", "not said yet"]);
  assert.equal(state(5, 8, new Map([[0, 1]])), "not computed, held back");
  assert.equal(state(6, 8, new Map([[0, 1]])), "ran now");
});

test("by the clock the queue is what lay between arrival and admission, be it less than a step", () => {
  const bands = [{ band: "prefill", from: 1, to: 1, steps: 1, ns: 370 }, { band: "decode", from: 2, to: 9, steps: 8, ns: 3000 }];
  const told = (life) => bandsInTime(life).map(({ band, ns }) => [band, ns]);
  assert.deepEqual(told({ bands, arrived_ns: 7, admitted_ns: 20 }), [["wait", 13], ["prefill", 357], ["decode", 3000]]);
  const late = [{ band: "wait", from: 1, to: 4, steps: 4, ns: 100 }, ...bands];
  assert.deepEqual(told({ bands: late, arrived_ns: 0, admitted_ns: 110 }), [["wait", 110], ["prefill", 360], ["decode", 3000]]);
  assert.equal(bandsInTime({ bands, arrived_ns: 7, admitted_ns: null }), bands); // it was never admitted
  const life = lifeOf(storeOf("tiny-pressure"), "r4");
  const sum = (list) => list.reduce((total, { ns }) => total + ns, 0);
  assert.equal(sum(bandsInTime(life)), sum(life.bands));
});

test("the first byte and the text held back are timed by what the front end told", () => {
  const events = [["http.request", 100], ["req.detokenize", 200], ["http.first_byte", 210],
    ["req.detokenize", 300], ["req.held_back", 301], ["req.detokenize", 400], ["req.held_back", 401], ["req.detokenize", 500],
    ["req.detokenize", 600], ["req.held_back", 601], ["req.released", 700], ["http.done", 800]].map(([kind, t_ns]) => ({ kind, t_ns }));
  assert.deepEqual(clientTimes(events), { first: 110, held: 199 + 99, times: 3 });
  assert.deepEqual(clientTimes([]), { first: null, held: 0, times: 0 });
});
