// What the pool view and the drawers are made of, run by `node --test` (tests/viz/test_views_core.py
// starts it): batches, block histories and prefix trees against Python's, and their own arithmetic.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const root = new URL("../../", import.meta.url);
const core = (name) => import(new URL(`viz/static/core/${name}`, root));
const { TraceStore } = await core("store.js");
const { batchOf, firstDisagreement, tokenPlace } = await core("batch.js");
const { ahead, breakAt, findStop, stopIn } = await core("breaks.js");
const { unknownWords } = await core("words.js");
const { blockHistory, lostWords, whoMissed } = await core("biography.js");
const { originsOf, pathOf, prefixText, prefixTree } = await core("prefixes.js");
const { batchText, knownTexts, samplingRows, withTop } = await core("sampling.js");
const { eventsOfLine, sourceMap, stepsOfLine } = await core("sources.js");
const { whyCard } = await core("why.js");
const { stepFacts } = await core("facts.js");
const { buildScene } = await core("scene.js");
const { lights, physicalLayout, queueMotion, ranWords, tableAt, tableCellXY, tablesLayout } = await core("poolview.js");

const readJson = (path) => JSON.parse(readFileSync(new URL(path, root), "utf8"));
const views = readJson("tests/data/views.json");
const eventsOf = (name) => readJson(`tests/vectors/${name}.json`).events;
const storeOf = (events) => {
  const store = new TraceStore();
  store.ingest(events);
  return store;
};
const tiny = () => storeOf(eventsOf("tiny-pressure"));

for (const [name, { batches, prefixes, blocks, stops }] of Object.entries(views)) {
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

  test(`${name}: a recording stops at the events at which the engine's gate holds`, () => {
    const events = eventsOf(name);
    for (const [words, expected] of Object.entries(stops)) {
      const { matches } = breakAt(words, true);
      const held = events.filter((event) => matches(event, store.sources.get(event.src))).map(({ seq }) => seq);
      assert.deepEqual(held, expected, words);
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
  assert.match(card.why.at(-1).text, /What was evicted in step 10 was missed: r4 looked for it in step 1\d/);
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

test("captured arrays tell the likeliest where the event does not", () => {
  const batch = { requests: ["r1", "r2"], query_start_loc: [0, 3, 5] };
  const said = (req, token_id) => ({ req, token_id, text: "x", logprob: null, rank: null });
  const rows = samplingRows([{ kind: "sample", data: { rows: [said("r1", 7), said("r2", 8), said("r2", 9)] } }]);
  const half = Math.log(0.5);
  const top = { rows: [2, 3, 4], token_ids: [[7, 5], [8, 5], [5, 6]], logprobs: [[half, -3], [half, -3], [half, -3]] };
  const textOf = knownTexts({ requests: { r1: { tokens: [5, 5], texts: [" five", ""] } } });
  const told = withTop(rows, batch, top, textOf).map(({ candidates }) => candidates.map(({ token_id, text, drawn }) => [token_id, text, drawn]));
  assert.deepEqual(told, [[[7, "", true], [5, " five", false]], [[8, "", true], [5, " five", false]], [[5, " five", false], [6, "", false], [9, "x", true]]]);
});

test("a draft in the batch has the text that its id has elsewhere, or is named by its id", () => {
  const batch = { input_ids: [5, 5, 6, 0], texts: [" cat", "", "", ""], slot_mapping: [8, 9, 10, -1] };
  const textOf = knownTexts({ requests: { r1: { tokens: [5], texts: [" six"] } } });
  assert.deepEqual([0, 1, 2, 3].map((i) => batchText(batch, i, textOf)), [" cat", " six", "#6", "·"]);
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

// --- the pool view -----------------------------------------------------------------------------

const sceneAt = (store, step) => buildScene(store.stateAfter(step), stepFacts(store.eventsOf(step)), () => 0);

test("what is lit: a block and who holds it; a request, what it left, and what its look-up found", () => {
  const store = tiny();
  const scene = sceneAt(store, 12);
  assert.equal(lights(scene, null), null);
  const block = lights(scene, { block: 10 });
  assert.deepEqual([[...block.blocks], [...block.requests]], [[10], ["r4"]]);
  assert.deepEqual([...lights(scene, { req: "r1" }).blocks].sort(), [1, 2, 3, 4]); // left by it
  assert.deepEqual([...lights(scene, { req: "r5" }).blocks].sort(), [1, 2, 3, 4]); // would be hit
  assert.deepEqual(scene.running.map((row) => ranWords(row, scene.facts)), ["token 29 runs", "1–4 reused, 5–11 run"]);
});

test("block tables: whole while they fit, then a line each, then bars; a cell is found again", () => {
  const rows = (count, length) => [...Array(count).keys()].map((i) => ({ req: `r${i + 1}`, table: [...Array(length).keys()].map((j) => j + 1) }));
  const few = tablesLayout(rows(2, 8), 280, 600, 2);
  assert.equal(few.mode, "full");
  assert.deepEqual(few.entries.map(({ lines, shown }) => [lines, shown.length]), [[1, 8], [1, 8]]);
  for (const entry of few.entries) {
    entry.shown.forEach((_, k) => {
      const { x, y } = tableCellXY(few, entry, k);
      assert.deepEqual([tableAt(few, x + 3, y + 3).entry.req, tableAt(few, x + 3, y + 3).k], [entry.req, k]);
    });
  }
  const long = tablesLayout(rows(1, 200), 280, 600, 2).entries[0].shown;
  assert.equal(long[0], 0);
  assert.equal(long.at(-1), 199);
  assert.equal(long.filter((logical) => logical === null).length, 1);
  const chosen = tablesLayout(rows(1, 40), 280, 900, 2, "r1").entries[0].shown;
  assert.deepEqual(chosen, [...Array(40).keys()]); // the one that is chosen is whole
  assert.equal(tablesLayout(rows(30, 40), 280, 600, 3).mode, "compact");
  const many = tablesLayout(rows(256, 60), 280, 600, 5);
  assert.equal(many.mode, "dense");
  assert.ok(many.name + many.cell * 60 <= 280);
  for (const layout of [tablesLayout([], 280, 600, 2), tablesLayout(rows(3, 0), 10, 10, 1)]) assert.ok(layout.height >= 0);
});

test("blocks with their words where all fit, else as on the Board; on a phone never", () => {
  assert.deepEqual([physicalLayout(15, 608, 500).detail, physicalLayout(15, 608, 500).columns], ["words", 5]);
  assert.equal(physicalLayout(40, 608, 500).detail, "slots");
  assert.equal(physicalLayout(15, 360, 320, 60).size, 60);
  assert.equal(physicalLayout(10_000, 608, 600).detail, "pixel");
});

test("the queue: a hit is pulled out of the middle, what comes back slides in, the rest moves up", () => {
  const [before, now] = [[4, 14, 3], [15, 4, 3]];
  const at = (progress) => queueMotion(now, before, progress, 0, 10);
  assert.deepEqual(at(1), now.map((id, i) => ({ id, at: i, alpha: 1, shift: 0 })));
  const half = Object.fromEntries(at(0.5).map((each) => [each.id, each]));
  assert.deepEqual(half[14], { id: 14, at: 1, alpha: 0.5, shift: 0.5 });
  assert.equal(half[4].at, 0.5);
  assert.ok(half[15].alpha > 0.5 && half[15].at === 0);
  assert.equal(half[3].at, 2);
  assert.equal(queueMotion([...Array(9000).keys()], null, 1, 100, 120).length, 20);
});

test("stops are found forward and backward, event by event, and each is found both ways", () => {
  const store = tiny();
  const breaks = [breakAt("preemption"), breakAt("eviction")];
  const forward = [];
  for (let at = { step: 0, event: null }; (at = findStop(store, breaks, at, 1)); ) forward.push(at);
  assert.deepEqual(forward.map(({ step }) => step), [6, 8, 10, 12, 12, 14]);
  const back = [];
  for (let at = { step: store.lastStep, event: null }; (at = findStop(store, breaks, at, -1)); ) back.unshift(at);
  assert.deepEqual(back, forward);
  const [{ event }] = forward;
  assert.equal(store.eventsOf(6)[event - 1].kind, "kv.evict");
  assert.equal(stopIn(store, breaks, 6, event), 0);
  assert.equal(findStop(store, [], { step: 0, event: null }, 1), null);
});

test("a breakpoint at a step is one stop, and the gate is asked only for steps that lie ahead", () => {
  const store = tiny();
  const breaks = [breakAt("step 5"), breakAt("preemption or step 9")];
  const steps = [];
  for (let at = { step: 0, event: null }; (at = findStop(store, breaks, at, 1)); ) steps.push(at.step);
  assert.deepEqual(steps, [5, 8, 9]);
  assert.equal(ahead(breaks, 4), "step 5 or preemption or step 9");
  assert.equal(ahead(breaks, 5), "preemption or step 9");
  assert.equal(ahead(breaks, 12), "preemption");
  assert.equal(ahead([breakAt("step 5")], 5), "");
});

test("words that name nothing are refused with those that are allowed", () => {
  for (const words of ["", "   ", "sched.", "skip nobody", "or", "line 3", "finish or", "nosuch r4"]) {
    assert.throws(() => breakAt(words), /names nothing. Allowed: preemption, eviction/, words);
  }
  assert.equal(breakAt("  finish   r4 ").words, "finish r4");
});

test("an event of a kind that is not known here is told, a known one is not", () => {
  const { events } = readJson("tests/vectors/tiny-pressure.json");
  assert.equal(unknownWords(events), "");
  const strange = [...events.slice(0, 3), { kind: "cache.warm" }, { kind: "sched.steal" }, { kind: "cache.warm" }];
  assert.equal(unknownWords(strange), "3 events of kinds this page does not know: cache.warm, sched.steal");
  assert.equal(unknownWords([{ kind: "x.y" }]), "1 event of a kind this page does not know: x.y");
});
