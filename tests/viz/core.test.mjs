// The pure core of the page, run by `node --test` (tests/viz/test_core.py starts it): the fold and
// the story against the vectors that also hold the Python side, and the page's own arithmetic.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";

const root = new URL("../../", import.meta.url);
const core = (name) => import(new URL(`viz/static/core/${name}`, root));
const { apply, clone, fold, newState, violations } = await core("fold.js");
const { TraceStore } = await core("store.js");
const { story } = await core("story.js");

const json = (value) => JSON.parse(JSON.stringify(value));
const readJson = (path) => JSON.parse(readFileSync(new URL(path, root), "utf8"));

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
