// The attention lens in the page's pure core: whose block a key lies in, how strong a weight is drawn,
// which steps have arrays, and what is armed.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const root = new URL("../../", import.meta.url);
const core = (name) => import(new URL(`viz/static/core/${name}`, root));
const { TraceStore } = await core("store.js");
const { batchOf } = await core("batch.js");
const { armedOf, armedWords, blockOrigin, capturedSteps, isSink, kvHeadOf, missingWords, nearest, placesOf, readersWords, shades, shownBlocks, sumOf } = await core("lens.js");

const eventsOf = (name) => JSON.parse(readFileSync(new URL(`tests/vectors/${name}.json`, root), "utf8")).events;
const storeOf = (events) => {
  const store = new TraceStore();
  store.ingest(events);
  return store;
};

test("tiny-pressure, step 2: r2 reads two blocks that r1 computed, and r1 reads them, too", () => {
  const places = placesOf(storeOf(eventsOf("tiny-pressure")), 2, "r2");
  assert.deepEqual([places.start, places.queries, places.keys, places.cached], [8, 3, 11, 8]);
  assert.deepEqual(places.blocks.map(({ id, how }) => [id, how]), [[1, "hit"], [2, "hit"], [6, "now"]]);
  assert.deepEqual(places.blocks[0].by, { req: "r1", step: 1 });
  assert.deepEqual(places.blocks[0].readers, ["r1"]);
  assert.deepEqual(places.blocks[2].readers, []);
  assert.equal(blockOrigin(places.blocks[0], places), "taken over from the cache: r1 computed it in step 1");
  assert.match(readersWords(places.blocks[0]), /^r1 reads the same physical block in this step$/);
  assert.deepEqual(places.tokens.filter(({ query }) => query).map(({ position }) => position), [8, 9, 10]);
  assert.equal(places.tokens.map(({ text }) => text).join(""), "You are a kind and patient teacher. Say hi!");
});

test("step 12: r4 resumes and takes over a block of its own from before", () => {
  const store = storeOf(eventsOf("tiny-pressure"));
  const places = placesOf(store, 12, "r4");
  assert.deepEqual(places.blocks.map(({ id, how }) => [id, how]), [[14, "hit"], [10, "now"], [5, "now"]]);
  assert.equal(blockOrigin(places.blocks[0], places), "taken over from the cache: r4 itself, before it was preempted, computed it in step 5");
  const decode = placesOf(store, 13, "r4");
  assert.deepEqual(decode.blocks.map(({ how }) => how), ["hit", "own", "own"]);
  assert.equal(placesOf(store, 9, "r4"), null); // it waits
});

for (const name of ["tiny-pressure", "speculation", "static-contiguous"]) {
  test(`${name}: keys, queries and blocks are those of the batch, in every step`, () => {
    const store = storeOf(eventsOf(name));
    for (let step = store.firstStep + 1; step <= store.lastStep; step += 1) {
      const batch = batchOf(store, step);
      (batch?.requests ?? []).forEach((req, i) => {
        const places = placesOf(store, step, req);
        assert.equal(places.keys, batch.seq_lens[i]);
        assert.equal(places.start, batch.positions[batch.query_start_loc[i]]);
        places.blocks.forEach(({ id, logical }) => assert.equal(id, batch.block_table[i][logical]));
        assert.equal(places.tokens.length, places.keys);
      });
    }
  });
}

test("a weight's shade is its share of the largest that is shown", () => {
  const weights = [0.6, 0.1, 0.25, 0.05];
  assert.ok(isSink(weights) && !isSink([0.1, 0.9]) && !isSink([1]));
  assert.deepEqual(shades(weights).shares.map((share) => Math.round(share * 100)), [100, 17, 42, 8]);
  const without = shades(weights, { without: true });
  assert.deepEqual([without.at, without.most, without.shares], [2, 0.25, [null, 0.4, 1, 0.2]]);
  assert.equal(shades(weights, { without: true, root: true }).shares[1], Math.sqrt(0.4));
  assert.deepEqual(shades([1, 0, 0], { without: true }).shares, [null, 0, 0]); // nothing is left: no division by 0
  assert.deepEqual([0, 2, 3, 8].map((head) => kvHeadOf(head, 9, 3)), [0, 0, 1, 2]);
});

test("of a long context the heaviest blocks are shown, and what the rest holds is told", () => {
  const blocks = Array.from({ length: 100 }, (_, i) => ({ from: i * 4, to: i * 4 + 4 }));
  const weights = new Array(400).fill(0.001);
  weights[4 * 57] = 0.5;
  const { shown, left, weight } = shownBlocks({ blocks, size: 4 }, weights, 399, 10);
  assert.deepEqual([shown.length, left], [10, 90]);
  assert.ok([0, 57, 99].every((i) => shown.includes(blocks[i])));
  const held = shown.reduce((sum, block) => sum + sumOf(weights, block), 0);
  assert.ok(Math.abs(weight + held - weights.reduce((a, b) => a + b)) < 1e-9);
  assert.equal(shownBlocks({ blocks: blocks.slice(0, 5), size: 4 }, weights, 19).left, 0);
});

// A trace with other events between, numbered anew.
const withMore = (more) => {
  const events = eventsOf("tiny-pressure").flatMap((event) => [event, ...(more(event) ?? []).map((one) => ({ ...event, src: 0, req: null, ...one }))]);
  return storeOf(events.map((event, i) => ({ ...event, seq: i + 1 })));
};
const arm = (armed_step, called_back = false) => ({ kind: "trace.arm", data: { armed_step, called_back } });

test("what is armed is told until its step has run, or it is called back", () => {
  const at = (step, ...events) => withMore((event) => (event.kind === "step.begin" && event.step === step ? events : null));
  const cut = (store, step) => storeOf([...store.steps.values()].flatMap(({ events }) => events).filter((event) => event.step <= step));
  const asked = at(5, arm(null), arm(9), arm(12));
  assert.deepEqual(armedOf(cut(asked, 5)), { next: false, steps: [9, 12] }); // step 5 ran tokens
  assert.deepEqual(armedOf(cut(asked, 9)), { next: false, steps: [12] });
  assert.deepEqual(armedOf(at(5, arm(99), arm(null, true))), { next: false, steps: [] });
  const pending = storeOf([...eventsOf("tiny-pressure").filter(({ kind }) => kind !== "run.end"), { ...arm(null), seq: 10_000, step: 18, src: 0 }].map((event, i) => ({ ...event, seq: i + 1 })));
  assert.equal(armedWords(armedOf(pending)), "The next step that runs tokens will be recorded: 1 step a little slower, the others as they are.");
});

test("arrays that are not there are told with the reason and its numbers", () => {
  const tensors = (names) => ({ kind: "exec.tensors", data: { arrays: names.map((name) => ({ name })), requests: [] } });
  const left = { kind: "trace.left_out", data: { reason: "tensors_limit", arrays: ["attention.r3"], need: 5e6, limit: 1e6, message: "" } };
  const store = withMore((event) => (event.kind === "exec.forward" && event.step === 4 ? [left, tensors(["attention.r1", "k"])] : null));
  assert.deepEqual([...capturedSteps(store).keys()], [4]);
  assert.equal(missingWords(store, 4, "r1"), null);
  assert.match(missingWords(store, 4, "r3").cause, /\(tensors_limit\)\. It needs 5\.0 MB, the limit is 1\.0 MB/);
  assert.equal(missingWords(store, 5, "r1").cause, "This step was not recorded; others were.");
  assert.equal(missingWords(storeOf(eventsOf("tiny-pressure")), 5, "r1").cause, "No step of this run was recorded.");
  assert.deepEqual(nearest([1, 2, 3, 4, 5, 6], 5, 2), [4, 5]);
});
