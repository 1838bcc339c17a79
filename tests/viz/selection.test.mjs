// One selection over all views, and a Why for each kind of it: requests, blocks, tokens, events, lines,
// and gaps. Held to the vectors.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";

const root = new URL("../../", import.meta.url);
const core = (name) => import(new URL(`viz/static/core/${name}`, root));
const { TraceStore } = await core("store.js");
const { findEvent, fromAddress, notHere, lineOf, samePick, srcsOf, stepsOf, targetOf, toAddress } = await core("selection.js");
const { passesOf } = await core("tokens.js");
const { formatHash, parseHash } = await core("url.js");
const { whyCard } = await core("why.js");
const { KINDS } = await core("kinds.js");

const read = (path) => JSON.parse(readFileSync(new URL(path, root), "utf8"));
const storeOf = (name) => {
  const store = new TraceStore();
  store.ingest(read(`tests/vectors/${name}.json`).events);
  return store;
};
const VECTORS = readdirSync(new URL("tests/vectors", root)).filter((name) => name.endsWith(".json")).map((name) => name.slice(0, -5));
// With its sources, which the vectors leave out.
const tiny = new TraceStore();
tiny.ingest(readFileSync(new URL("minivllm/gallery/tiny-pressure.trace.jsonl", root), "utf8").trim().split("\n").slice(1).map((line) => JSON.parse(line)).filter(({ stream }) => stream === "engine0"));
const card = (step, chosen, store = tiny) => whyCard(store, step, chosen, () => 0);
const told = (made) => made.why.map(({ name }) => name);

test("each selection comes back from the address as it went in", () => {
  const picks = [
    { req: "r4" }, { req: "r4", position: 0 }, { req: "r4", position: 10 }, { block: 6 }, { event: { stream: "engine0", seq: 1042 } },
    { event: { stream: "api", seq: 3 } }, { line: { file: "minivllm/core/scheduler.py", line: 212 } }, { gap: "running" }, { unused: true },
  ];
  for (const pick of picks) {
    const hash = formatHash({ run: "a", step: 8, ...toAddress(pick) });
    assert.deepEqual(fromAddress(parseHash(hash)), pick, hash);
    assert.ok(samePick(pick, fromAddress(parseHash(hash))));
    assert.equal(picks.filter((other) => samePick(pick, other)).length, 1, hash);
  }
  assert.equal(formatHash({ run: "a", step: 8, ...toAddress({ req: "r4", position: 8 }) }), "#/run/a/step/8/req/r4/token/9");
  for (const broken of ["told/engine0", "told/x.y", "line/abc", "gap/soup", "token/3"]) assert.equal(fromAddress(parseHash(`#/run/a/${broken}`)), null, broken);
  assert.deepEqual(fromAddress(parseHash("#/run/a/req/r4/token/0")), { req: "r4" }); // the first is 1
  assert.equal(formatHash({ run: "a", step: 10, ...toAddress({ unused: true }) }), "#/run/a/step/10/gap/budget");
});

test("an event is found by its number, in any step", () => {
  for (const store of [tiny, storeOf("last-steps")]) {
    for (const [step, { events }] of store.steps) {
      events.forEach((event, i) => {
        const found = findEvent(store, event);
        assert.deepEqual([found.step, found.place, found.count], [step, i + 1, events.length]);
        assert.equal(found.event, event);
      });
    }
  }
  assert.equal(findEvent(tiny, { stream: "engine0", seq: 10 ** 6 }), null);
  assert.equal(findEvent(tiny, { stream: "engine1", seq: 20 }), null);
  assert.equal(findEvent(new TraceStore(), { stream: "engine0", seq: 1 }), null);
  const front = [{ stream: "api", seq: 4, kind: "http.done", data: {} }];
  assert.equal(findEvent(tiny, { stream: "api", seq: 4 }, front).event, front[0]);
});

test("an event lights its request and its block; a line lights its steps; a token those in which it ran", () => {
  const evict = tiny.eventsOf(10).find(({ kind }) => kind === "kv.evict");
  assert.deepEqual(targetOf({ event: evict }, tiny), { req: "r1", block: 15 });
  assert.deepEqual([...stepsOf(tiny, { event: evict }, passesOf)], [10]);
  const line = lineOf(tiny, evict);
  assert.ok(srcsOf(tiny, line).includes(evict.src));
  assert.deepEqual([...stepsOf(tiny, { line }, passesOf)], [6, 10, 12, 14]); // where something is evicted
  assert.equal(targetOf({ line }, tiny), null);
  const token = { req: "r4", position: 8 }; // " five": drawn in 5, computed in 6, lost in 8, computed again in 12
  assert.deepEqual(passesOf(tiny, token), [{ step: 5, what: "drawn" }, { step: 6, what: "computed" }, { step: 12, what: "again" }]);
  assert.deepEqual([...stepsOf(tiny, token, passesOf)], [5, 6, 12]);
  assert.equal(stepsOf(tiny, { req: "r4" }, passesOf), null);
});

test("the card of a token tells where it lies, and why it ran, was reused, or did not", () => {
  const first = { req: "r2", position: 0 };
  const reused = card(2, first);
  assert.match(reused.now, /reused, not run\. Its K and V lie in slot 4: block 1, offset 0/);
  assert.match(reused.why[0].text, /who computed it: r1, in step 1/);
  assert.deepEqual(told(reused), ["kv.hit"]);
  const ran = card(2, { req: "r2", position: 9 });
  assert.deepEqual(told(ran), ["sched.grant"]);
  assert.match(ran.why[0].text, /r2 was granted 3 tokens in this step: tokens 9–11/);
  assert.equal(ran.source.kind, "sched.grant");
  const waits = card(9, { req: "r4", position: 8 });
  assert.deepEqual(told(waits), ["no_free_blocks"]);
  assert.deepEqual(waits.next, { step: 12, text: "computed again" });
  assert.deepEqual(told(card(3, { req: "r3", position: 21 })), ["no_budget"]);
  const drawn = card(5, { req: "r4", position: 8 });
  assert.match(drawn.why.at(-1).text, /its K and V are computed in the next one/);
  assert.deepEqual(told(card(5, { req: "r4", position: 10 })), ["sample"]); // not said yet
  assert.equal(card(5, { req: "r4", position: 99 }), null);
});

test("the card of an event tells what it is, what it carries, its reason with its numbers, and its line", () => {
  const skip = card(1, { event: tiny.eventsOf(9).find(({ kind }) => kind === "sched.skip") });
  assert.deepEqual([skip.title, skip.at.step], ["sched.skip", 9]);
  assert.match(skip.why[0].text, /\(need 3, have 2, hit 8\)/);
  assert.equal(skip.why[0].name, "no_free_blocks");
  assert.deepEqual(skip.next, { step: 10, text: "sched.skip of r4 again" });
  assert.deepEqual(skip.fields.find(([name]) => name === "need"), ["need", "3"]);
  assert.ok(skip.source.file.endsWith(".py"));
  const alloc = card(6, { event: tiny.eventsOf(6).find(({ kind }) => kind === "kv.evict") });
  assert.match(alloc.why[0].text, /^Block 6: evicted for r4: what r2 left there is forgotten/);
});

test("the card of a line counts what it told, and knows the next step", () => {
  const event = tiny.eventsOf(8).find(({ kind }) => kind === "sched.victim");
  const made = card(8, { line: lineOf(tiny, event) });
  assert.match(made.why[0].text, /was taken once: it told sched\.victim/);
  assert.match(made.now, /emit/);
  assert.deepEqual(made.life.map(({ step }) => step), [8]);
  assert.match(card(3, { line: lineOf(tiny, event) }).why[0].text, /never taken/);
  assert.deepEqual(card(3, { line: lineOf(tiny, event) }).next, { step: 8, text: "1 event" });
  assert.equal(card(3, { line: { file: "nowhere.py", line: 1 } }), null);
});

test("an empty lane answers, too", () => {
  assert.match(card(2, { gap: "waiting" }).why[0].text, /^Everyone who has come was admitted: 2 requests run/);
  assert.deepEqual(card(2, { gap: "waiting" }).next, { step: 3, text: "r3 comes" });
  assert.equal(card(17, { gap: "running" }).why[0].text, "All 5 requests that came are done.");
  assert.deepEqual(card(2, { gap: "done" }).next, { step: 5, text: "r2 finishes" });
  const stuck = storeOf("grammars");
  for (let step = stuck.firstStep + 1; step <= stuck.lastStep; step += 1) {
    const { running, waiting } = stuck.stateAfter(step);
    if (!running.length && waiting.length) assert.match(card(step, { gap: "running" }, stuck).why[0].text, new RegExp(`^${waiting[0]}: `));
  }
});

for (const name of VECTORS) {
  test(`${name}: whatever is clicked in whatever step, there is an answer with its name`, () => {
    const store = storeOf(name);
    if (!store.config) return;
    for (let step = store.firstStep + 1; step <= store.lastStep; step += 1) {
      const { requests, blocks } = store.stateAfter(step);
      const answers = (chosen) => {
        const made = card(step, chosen, store);
        assert.ok(made?.why.length && made.why.every(({ text, name: reason }) => text && reason), `${step}: ${JSON.stringify(chosen)}`);
        return made;
      };
      answers({ unused: true });
      for (const gap of ["waiting", "running", "done"]) assert.ok(card(step, { gap }, store).now);
      for (const [req, r] of Object.entries(requests)) {
        answers({ req });
        for (let position = 0; position < r.tokens.length; position += 3) answers({ req, position });
      }
      for (let id = 1; id < blocks.length; id += 1) assert.ok(card(step, { block: id }, store).now, `block ${id}`);
      for (const event of store.eventsOf(step)) {
        const made = card(step, { event }, store);
        assert.ok(made.now && made.subtitle, event.kind);
        if (event.kind in KINDS) assert.equal(made.now, KINDS[event.kind]);
        if (event.data.reason) assert.ok(told(made).includes(event.data.reason), event.kind);
      }
    }
  });
}

test("the card tells where the tokens were that a lookup missed, and what a preemption cost", () => {
  const texts = (step, chosen) => card(step, chosen).why.map(({ text }) => text);
  const lost = "Its tokens 5–8 were in block 15 until step 10, when that was evicted for r1.";
  assert.ok(texts(12, { req: "r4" }).includes(lost));
  assert.ok(texts(10, { req: "r4" }).includes(lost)); // it waits, and would have to run them again
  assert.ok(texts(5, { req: "r4" }).includes("No block holds its tokens 1–4 now."));
  assert.ok(texts(2, { req: "r2" }).includes("From token 9 on nothing is reused: only full blocks are cached."));
  const again = card(12, { req: "r4" }).why.find(({ name }) => name === "req.preempt");
  assert.equal(again.text, "It was preempted in step 8 and lost 10 computed tokens: 4 of them are found again, and 6 of the 7 that run now are computed a second time.");
  assert.equal(again.step, 8);
  const miss = tiny.eventsOf(10).find(({ kind }) => kind === "kv.miss");
  const { why, now } = card(10, { event: { stream: "engine0", seq: miss.seq } });
  assert.deepEqual([why[0].text, why[0].name, why[0].step], [lost, "not_cached", 10]);
  assert.equal(now, "The lookup ended at logical block `at_block`."); // the marks are the panel's
});

test("the card of a block tells why it was evicted, taken or given back, with the queue as it stood", () => {
  const first = (step, block) => card(step, { block }).why[0].text;
  assert.equal(first(6, 6), "r4 needed 1 new block; the free queue was 6◆, after r1 took 10. No blank one was left, so what had been given back longest ago went: block 6, in step 5.");
  assert.equal(first(8, 6), "r4 was preempted in step 8 and gave it back; r3 took it.");
  assert.equal(first(9, 14), "r4 gave it back in step 8: it was preempted for r3.");
  assert.match(first(12, 5), /^r4 needed 2 new blocks; the free queue was 10◆ 5◆ 4◆ 3◆ 2◆ …, after r3 took 15\. /);
  assert.match(first(12, 15), /^It was blank and the next in the free queue when r3 needed a block, in step 12/);
});

test("who stands behind the head is told the head's numbers, and the event that stopped the line", () => {
  const { why, events, source } = card(10, { req: "r5" });
  assert.equal(why[0].text, "Stands behind r4: under fcfs nobody overtakes the head of the line. r4 needs 3 blocks, 1 is free.");
  assert.deepEqual(events.map(({ kind }) => kind), ["sched.stop"]);
  assert.equal(source.kind, "sched.stop");
});

test("a sentence begins as one, and a request's name stays as it is", () => {
  assert.equal(card(10, { unused: true }).why[0].text, "r4 needs 3 blocks, 1 is free.");
  assert.equal(card(4, { req: "r4" }).why[0].text, "The budget of 12 is used up.");
  assert.deepEqual(told(card(8, { req: "r4" })), ["preempted", "preempted_this_step"]);
});

test("a recording that is here whole has no more to come, whether it was shut down or not", () => {
  const store = storeOf("tiny-pressure");
  const next = () => card(17, { block: 6 }, store).next;
  store.ended = false;
  assert.equal(next().text, "not known yet");
  store.end();
  assert.equal(next().text, "nothing more in this run");
});

test("the card of a line shows the whole statement", () => {
  const event = tiny.eventsOf(12).find(({ kind }) => kind === "kv.miss");
  assert.match(card(12, { line: lineOf(tiny, event) }).now, /^self\.trace\.emit\(KvMiss, request\.req_id, at_block=.*\)$/);
});

test("what an address names and the run has not is said, with what there is", () => {
  assert.deepEqual(notHere(tiny, 99, null), ["There is no step 99.", "The steps here are 0 to 17."]);
  assert.deepEqual(notHere(tiny, 9, { req: "zzz" }), ["There is no request “zzz” in what is here.", "There are: r1, r2, r3, r4 and r5."]);
  for (const block of [0, 99]) assert.deepEqual(notHere(tiny, 9, { block }), [`There is no block ${block}.`, "The pool has blocks 1 to 15."]);
  for (const chosen of [null, { req: "r4" }, { block: 15 }, { unused: true }]) assert.equal(notHere(tiny, 17, chosen), null);
});
