// What a class is made of, run by `node --test`: who has let go, what stands in the line, Predict's
// questions from every vector, and a store that ends where it is asked.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";

const root = new URL("../../", import.meta.url);
const core = (name) => import(new URL(`viz/static/core/${name}`, root));
const { TraceStore } = await core("store.js");
const { Grip, heardOfClass, nobody, standing, tallyWords } = await core("following.js");
const { questionOf } = await core("predict.js");
const { whyCard } = await core("why.js");

const vectors = readdirSync(new URL("tests/vectors", root)).filter((name) => name.endsWith(".json") && name !== "grammars.json");
const eventsOf = (name) => JSON.parse(readFileSync(new URL(`tests/vectors/${name}`, root), "utf8")).events.filter((event) => event.stream !== "api");
const storeOf = (events) => {
  const store = new TraceStore();
  store.ingest(events);
  return store;
};
const tiny = () => storeOf(eventsOf("tiny-pressure.json"));
const questions = (store) => {
  const all = [];
  for (let step = store.firstStep + 1; step <= store.lastStep; step += 1) {
    const question = questionOf(store.stateAfter(step - 1), store.eventsOf(step));
    if (question) all.push([step, question]);
  }
  return all;
};

test("only a move by the reader's own hand lets go", () => {
  const grip = new Grip();
  assert.equal(grip.hasLetGo("a", 0), false); // never led
  grip.settle("a");
  grip.touched(1000);
  assert.equal(grip.hasLetGo("a", 1001), false); // a key that moves nothing
  assert.equal(grip.hasLetGo("b", 1002), true);
  grip.settle("b");
  assert.equal(grip.hasLetGo("c", 1003), false); // the step came by itself
  grip.touched(1004);
  assert.equal(grip.hasLetGo("c", 1005), false);
  assert.equal(grip.hasLetGo("d", 9000), false); // long after the last key
});

test("the line says whom a page follows, that it has let go, and how many do", () => {
  const led = heardOfClass(nobody(), { leads: false, led: true, gone: false, note: "" });
  assert.equal(standing(nobody()), null);
  assert.match(standing(led).text, /follows the teacher’s/);
  assert.deepEqual(standing({ ...led, follows: false }), { text: "You have let go of the teacher’s page.", follow: true });
  assert.match(standing({ ...led, missing: "mine" }).text, /“mine”, which is not here/);
  const away = heardOfClass({ ...led, follows: false }, { leads: false, led: false, gone: true, note: "" });
  assert.equal(away.follows, false); // who let go stays free until the class is over
  assert.match(standing(away).text, /is away/);
  const over = heardOfClass(away, { leads: false, led: false, gone: false, note: "The class is over." });
  assert.deepEqual([over.follows, standing(over).text], [true, "The class is over."]);
  const leads = { ...nobody(), leads: true, led: true };
  assert.equal(standing({ ...leads, crowd: { following: 1, free: 0 } }).text, "You lead: 1 of 1 page follows.");
  assert.equal(standing({ ...leads, crowd: { following: 27, free: 3 } }).text, "You lead: 27 of 30 pages follow, 3 have let go.");
  assert.equal(standing(leads).text, "You lead: 0 of 0 pages follow.");
});

test("the tally names the most first", () => {
  const choices = [{ id: "r1", text: "r1" }, { id: "r3", text: "r3" }, { id: "r4", text: "r4" }];
  assert.equal(tallyWords(choices, { r1: 8, r4: 19 }), "r4 19, r1 8, r3 0");
});

test("tiny-pressure: what is asked before which step, and what is right", () => {
  const asked = questions(tiny()).map(([step, { kind, answer }]) => [step, kind, answer.join(" ")]);
  assert.deepEqual(asked, [
    [1, "fate", "runs"],
    [2, "fate", "runs"],
    [3, "fate", "runs"],
    [4, "fate", "no_budget"],
    [5, "fate", "runs"],
    [6, "block", "6"],
    [8, "victim", "r4"],
    [9, "fate", "no_free_blocks"],
    [10, "block", "15"],
    [12, "fate", "runs"],
    [14, "fate", "runs"],
  ]);
  const [, gives] = questions(tiny()).find(([step]) => step === 8);
  assert.equal(gives.ask, "r3 needs 1 block and none is free. Who gives way?");
  assert.deepEqual(gives.choices.map(({ id }) => id), ["r1", "r3", "r4"]);
});

for (const name of vectors) {
  const store = storeOf(eventsOf(name));

  test(`${name}: a question has its answer among different choices, and does not give it away`, () => {
    for (const [step, { ask, choices, answer }] of questions(store)) {
      const ids = choices.map(({ id }) => id);
      const texts = choices.map(({ text }) => text);
      assert.ok(choices.length >= 2 && choices.length <= 6, `step ${step}`);
      assert.equal(new Set(ids).size, ids.length, `step ${step}: ${ids}`);
      assert.equal(new Set(texts).size, texts.length, `step ${step}: ${texts}`);
      assert.ok(answer.length && answer.every((id) => ids.includes(id)), `step ${step}`);
      assert.ok(ask.endsWith("?") && ask.length <= 140, `step ${step}: ${ask}`);
      assert.ok([ask, ...texts].every((text) => text.length <= 300 && !/undefined|null|NaN/.test(text)), `step ${step}`);
    }
  });

  test(`${name}: a store that ends at a step is the one that had only come so far`, () => {
    for (let step = store.firstStep; step <= store.lastStep; step += 1) {
      const cut = store.upTo(step);
      assert.deepEqual(cut.head, store.stateAfter(step), `step ${step}`);
      assert.deepEqual([cut.lastStep, cut.firstStep, cut.pending.length, cut.ended], [step, store.firstStep, 0, false]);
      assert.throws(() => cut.stateAfter(step + 1));
      for (const steps of cut.index.values()) assert.ok(steps.every((at) => at <= step) && steps.length);
      assert.ok(cut.violated.every((item) => item.step <= step));
    }
  });
}

test("what comes next is not in the Why card of a store that ends", () => {
  const [whole, hue] = [tiny(), () => 0];
  assert.equal(whyCard(whole, 5, { req: "r4" }, hue).next.step, 6);
  assert.deepEqual(whyCard(whole.upTo(5), 5, { req: "r4" }, hue).next, { step: null, text: "not known yet" });
  const ahead = whyCard(whole, 5, { block: 6 }, hue).life.filter(({ step }) => step > 5);
  assert.ok(ahead.length);
  assert.deepEqual(whyCard(whole.upTo(5), 5, { block: 6 }, hue).life.filter(({ step }) => step > 5), []);
});
