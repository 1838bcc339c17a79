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

const { answerOf } = await core("attention.js");
const { StepArrays, placesIn } = await core("numbers.js");

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

// --- where the arrays lie in the page ------------------------------------------------------------------

const vector = JSON.parse(readFileSync(new URL("tests/data/lens.json", root), "utf8"));
const bytes = () => Uint8Array.from(Buffer.from(vector.raw, "base64")).buffer;

const ROUNDED = { distance: 0.006, entropy: 6e-4 }; // as the server answers them; else five digits

function close(got, due, where, within = 6e-6) {
  if (typeof due === "number") assert.ok(Math.abs(got - due) <= within, `${where}: ${got}, due is ${due}`);
  else if (due === null) assert.equal(got, due, where);
  else {
    assert.deepEqual(Object.keys(got).sort(), Object.keys(due).sort(), where);
    for (const key of Object.keys(due)) close(got[key], due[key], `${where}.${key}`, ROUNDED[key] ?? within);
  }
}

test("a page without a server answers what minivllm/trace/lens.py answers, of float32, float16 and bfloat16", () => {
  const places = placesIn(bytes(), vector.told);
  const source = new StepArrays(bytes(), vector.told, (name) => places[name]);
  for (const { asked, answer } of vector.answers) {
    const { req, what, ...rest } = asked;
    const got = answerOf(source, req, what, rest);
    close(got, answer, JSON.stringify(asked));
    if (what === "row") got.weights.forEach((weight, i) => assert.ok(Math.abs(weight - answer.weights[i]) < 1e-9));
  }
  assert.deepEqual(source.widened("slot_mapping").values, [16, -1, 2 ** 40]);
  assert.equal(source.kvHeads, 1);
});

test("an index that is not there, and a mean over too many numbers, are refused in words", () => {
  const source = { shape: () => [30, 9, 200, 200], part: () => [], kvHeads: 3 };
  assert.throws(() => answerOf(source, "r1", "row", { layer: 30 }), /layer: got 30; allowed: 0 to 29/);
  assert.throws(() => answerOf(source, "r1", "row", { query: -1 }), /query: got -1; allowed: 0 to 199/);
  assert.throws(() => answerOf(source, "r1", "matrix", {}), /one of 10800000 numbers; at most 4000000: name a layer/);
});

test("a file that is cut, or another run's, is not taken for the step's", () => {
  const { told } = vector;
  assert.throws(() => placesIn(bytes().slice(0, -8), told), /step-000003\.safetensors is cut: \d+ bytes, \d+ were written/);
  const other = bytes();
  new Uint8Array(other)[other.byteLength - 1] ^= 1;
  assert.throws(() => placesIn(other, told), /its checksum is another one/);
});
