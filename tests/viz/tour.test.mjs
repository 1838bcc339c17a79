// The stops of a tour, and questions that the trace answers.

import assert from "node:assert/strict";
import test from "node:test";

const { answerOf, grade, nextStop, stopBefore } = await import(new URL("../../viz/static/core/tour.js", import.meta.url));

const STOPS = [{ step: 2 }, { step: 7, ask: {} }, { step: 8 }, { step: 8 }, { step: 3 }];

test("the next stop follows the last one, or where the reader has gone", () => {
  const asked = new Set();
  assert.equal(nextStop(STOPS, 0, -1, asked), 0);
  assert.equal(nextStop(STOPS, 2, 0, asked), 1);
  assert.equal(nextStop(STOPS, 5, 0, asked), 1);
  assert.equal(nextStop(STOPS, 7, 0, asked), 1, "the question of the step one has walked to");
  assert.equal(nextStop(STOPS, 8, 2, asked), 3, "two stops in one step");
  assert.equal(nextStop(STOPS, 8, 3, asked), 4, "a stop may lie before");
  assert.equal(nextStop(STOPS, 3, 4, asked), null);
  assert.equal(nextStop(STOPS, 9, 1, asked), null);
});

test("a question that was asked is not asked again, until one goes back to it", () => {
  assert.equal(nextStop(STOPS, 2, 0, new Set([1])), 2);
  assert.equal(nextStop(STOPS, 7, 1, new Set([1])), 2);
  assert.equal(stopBefore(STOPS, 8, 2), 1);
  assert.equal(stopBefore(STOPS, 2, 0), null);
  assert.equal(stopBefore([{ step: 2 }, { step: 6 }], 5, -1), 0);
});

test("the trace answers, and grades", () => {
  const events = [
    { kind: "sched.grant", req: "r1", data: { n: 12 } },
    { kind: "sched.grant", req: "r2", data: { n: 3 } },
    { kind: "sched.victim", req: "r4", data: { tokens_lost: 10 } },
  ];
  assert.equal(answerOf(events, { kind: "sched.grant", req: "r2", read: "n" }), "3");
  assert.equal(answerOf(events, { kind: "sched.victim", read: "req" }), "r4");
  assert.equal(answerOf(events, { kind: "kv.evict", read: "req" }), null);
  const words = { right: "Right: {}.", wrong: "It is {}." };
  assert.deepEqual(grade(words, " R4", "r4"), { right: true, words: "Right: r4." });
  assert.deepEqual(grade(words, "11", "3"), { right: false, words: "It is 3." });
});
