// What the pool view and the drawers are made of, run by `node --test` (tests/viz/test_views_core.py
// starts it): batches, block histories and prefix trees against Python's, and their own arithmetic.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const root = new URL("../../", import.meta.url);
const core = (name) => import(new URL(`viz/static/core/${name}`, root));
const { TraceStore } = await core("store.js");
const { batchOf, firstDisagreement, tokenPlace } = await core("batch.js");
const { blockHistory, lostWords, whoMissed } = await core("biography.js");
const { originsOf, pathOf, prefixText, prefixTree } = await core("prefixes.js");
const { samplingRows } = await core("sampling.js");
const { eventsOfLine, sourceMap, stepsOfLine } = await core("sources.js");
const { whyCard } = await core("why.js");

const readJson = (path) => JSON.parse(readFileSync(new URL(path, root), "utf8"));
const views = readJson("tests/data/views.json");
const eventsOf = (name) => readJson(`tests/vectors/${name}.json`).events;
const storeOf = (events) => {
  const store = new TraceStore();
  store.ingest(events);
  return store;
};
const tiny = () => storeOf(eventsOf("tiny-pressure"));

for (const [name, { batches, prefixes, blocks }] of Object.entries(views)) {
  const store = storeOf(eventsOf(name));

  test(`${name}: the batch equals Python's in every step`, () => {
    for (const [step, expected] of Object.entries(batches)) {
      if (Number(step) > store.lastStep) continue; // words after the last step
      assert.deepEqual(batchOf(store, Number(step)), expected, `step ${step}`);
    }
  });

  test(`${name}: the tree of prefixes equals Python's after every step`, () => {
    for (const [step, expected] of Object.entries(prefixes)) {
      if (Number(step) > store.lastStep) continue;
      const state = store.stateAfter(Number(step));
      const origins = originsOf(store);
      const rows = prefixTree(state, origins).map(({ hash, blocks: ids, depth, lost }) => ({
        hash, blocks: ids, depth, lost, text: prefixText(state, origins, hash),
      }));
      assert.deepEqual(rows, expected, `step ${step}`);
    }
  });

  test(`${name}: the history of each block equals Python's`, () => {
    for (const [id, expected] of Object.entries(blocks)) {
      const told = blockHistory(store, Number(id)).map(({ step, words }) => [step, words]);
      assert.deepEqual(told, expected.filter(([step]) => step <= store.lastStep), `block ${id}`);
    }
  });
}

// --- block histories ---------------------------------------------------------------------------

test("an eviction tells who missed what was forgotten", () => {
  const store = tiny();
  const evicted = [...Array(15).keys()].flatMap((i) => blockHistory(store, i + 1)).filter(({ kind }) => kind === "kv.evict");
  assert.deepEqual(evicted.map(({ step }) => step).sort((a, b) => a - b), [6, 10, 12, 12, 14]);
  // Block 15 held tokens 5–8 of r4: r4 itself looks for them again, first in the step of the eviction.
  const [{ hash }] = evicted.filter(({ step }) => step === 10);
  assert.deepEqual(whoMissed(store, hash, 10).map(({ req }) => req), ["r4"]);
  assert.match(lostWords(store, 10, 15), /^missed since by r4 in step 1\d$/);
  assert.equal(lostWords(store, 10, 14), "");
  const card = whyCard(store, 12, { block: 15 }, () => 0);
  assert.match(card.why[0].text, /What was evicted in step 10 was missed: r4 looked for it in step 1\d/);
});

test("the index of a run that grows is the same as that of a whole one", () => {
  const events = eventsOf("tiny-pressure");
  const store = new TraceStore();
  for (let i = 0; i < events.length; i += 40) {
    store.ingest(events.slice(i, i + 40));
    blockHistory(store, 6);
  }
  assert.deepEqual(blockHistory(store, 6), blockHistory(tiny(), 6));
});

// --- prefixes ----------------------------------------------------------------------------------

test("step 12: r1's chain, r3's, and r4's tail under its head", () => {
  const store = tiny();
  const state = store.stateAfter(12);
  const origins = originsOf(store);
  const rows = prefixTree(state, origins);
  const line = ({ depth, blocks, hash }) => `${"-".repeat(depth)}${blocks.join("+")} ${prefixText(state, origins, hash).trim()}`;
  const told = rows.map(line);
  assert.deepEqual(told.slice(0, 4), ["1 You are a kind", "-2 and patient teacher.", "--3 Why is the sky", "---4 blue in the morning"]);
  assert.ok(told.includes("14 One, two,") && told.includes("-10 three, four,"));
  const node = rows.find(({ blocks }) => blocks[0] === 4);
  assert.deepEqual(pathOf(state, origins, node.hash), [1, 2, 3, 4]);
});

test("a node whose parent was evicted before it is lost, and so is all below it", () => {
  const state = {
    config: { block_size: 2 }, requests: { r1: { texts: ["a", "b", "c", "d", "e", "f"], table: [] } },
    blocks: [], cached: { h2: [5, 9], h3: [6] },
  };
  const origins = new Map([["h1", { parent: null, req: "r1", logical: 0, at: 0 }], ["h2", { parent: "h1", req: "r1", logical: 1, at: 1 }], ["h3", { parent: "h2", req: "r1", logical: 2, at: 2 }]]);
  const rows = prefixTree(state, origins);
  assert.deepEqual(rows.map(({ blocks, depth, lost }) => [blocks, depth, lost]), [[[5, 9], 0, true], [[6], 1, true]]);
  assert.equal(prefixText(state, origins, "h3"), "ef");
});

// --- the batch ---------------------------------------------------------------------------------

test("a token of the batch leads to its slot, its block, its request", () => {
  const store = tiny();
  const batch = batchOf(store, 12); // r3 1, r4 7
  assert.deepEqual(batch.requests, ["r3", "r4"]);
  assert.deepEqual(batch.query_start_loc, [0, 1, 8]);
  assert.deepEqual(tokenPlace(batch, 0, 4), { req: "r3", row: 0, position: 28, slot: 60, block: 15, offset: 0 });
  assert.deepEqual(tokenPlace(batch, 7, 4), { req: "r4", row: 1, position: 10, slot: 22, block: 5, offset: 2 });
  assert.equal(tokenPlace(batch, 8, 4), null);
});

test("a recorded array that is not what the events say is found", () => {
  const batch = batchOf(tiny(), 12);
  const same = { input_ids: batch.input_ids, block_table: batch.block_table };
  assert.equal(firstDisagreement(batch, same), null);
  const other = { ...same, slot_mapping: batch.slot_mapping.with(3, 99) };
  assert.deepEqual(firstDisagreement(batch, other), { name: "slot_mapping", index: 3, told: batch.slot_mapping[3], recorded: 99 });
});

// --- sampling ----------------------------------------------------------------------------------

test("each candidate tells its share before and after, and which processor touched it", () => {
  const row = {
    req: "r1", token_id: 2, text: " b", logprob: Math.log(0.25), rank: 2,
    before: [{ token_id: 1, text: " a", logprob: Math.log(0.5) }, { token_id: 2, text: " b", logprob: Math.log(0.25) }],
    after: [{ token_id: 2, text: " b", probability: 1 }],
    processors: [{ name: "bad_words", masked: true, count: 1, token_ids: [1], texts: [" a"] }, { name: "temperature", masked: false, count: 2, token_ids: [1, 2], texts: [] }],
  };
  const [told] = samplingRows([{ kind: "sample", data: { rows: [row] } }]);
  assert.deepEqual(told.candidates.map(({ text, marks, drawn }) => [text, marks, drawn]), [[" a", ["masked", "changed"], false], [" b", ["", "changed"], true]]);
  assert.ok(Math.abs(told.candidates[0].before - 0.5) < 1e-9 && told.candidates[0].after === null);
  assert.equal(told.candidates[1].after, 1);
  const [bare] = samplingRows([{ kind: "sample", data: { rows: [{ req: "r1", token_id: 2, text: " b", logprob: null, rank: null }] } }]);
  assert.equal(bare.told, false);
});

// --- sources -----------------------------------------------------------------------------------

test("lines that told something are counted up to the step, and lead to their events", () => {
  const [header, ...lines] = readFileSync(new URL("minivllm/gallery/tiny-pressure.trace.jsonl", root), "utf8").trim().split("\n");
  assert.match(header, /schema/);
  const store = storeOf(lines.map((line) => JSON.parse(line)).filter((event) => event.stream === "engine0"));
  const files = sourceMap(store, 8);
  const { functions } = files.find(({ file }) => file.endsWith("core/scheduler.py"));
  const preempt = functions.find(({ name }) => name === "Scheduler._preempt");
  const line = preempt.lines.find(({ hits }) => hits > 0);
  assert.equal(line.now, line.hits);
  assert.deepEqual(stepsOfLine(store, line.srcs).map(({ step }) => step), [8]);
  assert.ok(eventsOfLine(store, line.srcs, 8).some(({ event }) => event.kind === "req.preempt"));
  assert.equal(sourceMap(store, 7).flatMap((each) => each.functions).find(({ name }) => name === "Scheduler._preempt").hits, 0);
  const all = sourceMap(store, store.lastStep).flatMap((each) => each.functions).reduce((sum, { hits }) => sum + hits, 0);
  const events = [...store.steps.values()].flatMap((step) => step.events).filter(({ kind }) => kind !== "run.source");
  assert.equal(all, events.filter(({ src }) => src > 0).length);
});
