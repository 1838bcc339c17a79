// The story of a step: one or two sentences and a line of numbers, made from its events. Twin of
// minivllm/trace/story.py; the vectors in tests/vectors hold both to the same words.

import { explain } from "#core/reasons.js";

const FULL = "the budget is full";
const MAX_HEADLINE = 140; // characters that two sentences may take together

// `before`: the state when the step begins to take its inputs; `events`: all of the step's.
export function story(before, events) {
  const facts = new Facts(before, events);
  const told = [];
  for (const tell of TELLERS) {
    const sentence = tell(facts)[0];
    if (sentence) told.push([tell, sentence]);
  }
  if (!told.length) return { headline: "Nothing runs.", also: also(facts, true) };
  let headline = told[0][1];
  for (const [tell, sentence] of told.slice(1)) {
    const full = headline.toLowerCase().includes(FULL); // said once
    const both = `${headline} ${full ? sentence.replace(`; ${FULL}`, "") : sentence}`;
    if (!LAST_TWO.includes(tell) && [...both].length <= MAX_HEADLINE) {
      headline = both;
      break;
    }
  }
  if (facts.allDone) headline += " All requests are done.";
  else if (facts.numFree === 0) headline += " The pool is full.";
  return { headline, also: also(facts, told[0][0] !== decodes) };
}

class Facts {
  constructor(before, events) {
    this.before = before;
    this.byKind = new Map();
    for (const event of events) {
      const list = this.byKind.get(event.kind);
      if (list) list.push(event);
      else this.byKind.set(event.kind, [event]);
    }
    this.ledger = this.of("sched.ledger")[0]?.data ?? null;
    this.budgetFull = this.ledger !== null && this.ledger.used === this.ledger.budget;
    const refunded = new Set(this.of("sched.refund").map((e) => e.req));
    this.decodes = this.of("sched.grant")
      .filter((e) => e.data.why === "decode" && !refunded.has(e.req))
      .map((e) => e.req);
    const takings = [...this.of("kv.alloc"), ...this.of("kv.reserve")];
    this.numTaken = sum(takings, (e) => e.data.blocks.length);
    this.numGivenBack = sum(this.of("kv.free"), (e) => e.data.front.length + e.data.back.length);
    const touched = this.of("kv.touch").filter((e) => e.data.ref === 1).length;
    this.numFree = before.free.length - this.numTaken - touched + this.numGivenBack;
    const alive = before.waiting.length + before.running.length + this.of("req.enqueue").length;
    const ended = this.of("req.finish").length;
    this.allDone = alive === ended && ended > 0;
  }

  of(kind) {
    return this.byKind.get(kind) ?? [];
  }

  one(kind, req) {
    return this.of(kind).find((event) => event.req === req) ?? null;
  }
}

function broken(facts) {
  return [
    ...facts.of("trace.violation").map((e) => `An invariant is broken: ${e.data.message}.`),
    ...facts.of("run.error").map((e) => `The step failed: ${e.data.error}.`),
  ];
}

function changed(facts) {
  const value = (v) => (typeof v === "boolean" ? (v ? "on" : "off") : `${v}`);
  const knobs = facts.of("run.knob").map(({ data }) => `${data.name} is ${value(data.value)}`);
  return knobs.length ? [`From here on ${list(knobs)}.`] : [];
}

function preempted(facts) {
  return facts.of("sched.victim").map(({ req: victim, data }) => {
    const why = data.policy === "fcfs" ? `${victim} came last` : `${victim} is last by priority`;
    const who = data.for === victim ? "it" : data.for;
    return (
      `${victim} is preempted: ${who} needs ${count(data.need, "block")}, ` +
      `${data.have} ${are(data.have)} free, ${why}. ` +
      `It loses ${count(data.tokens_lost, "computed token")}.`
    );
  });
}

function refused(facts) {
  const larger = facts.of("sched.skip").filter((e) => e.data.reason === "larger_than_pool");
  return [
    ...facts.of("req.error").map((e) => `${e.req} ends with an error: ${e.data.message}.`),
    ...larger.map(
      ({ req, data }) =>
        `${req} ends: it needs ${count(data.need, "block")}, the whole pool has ${data.have}.`,
    ),
    ...facts.of("req.abort").map((e) => `${e.req} is aborted: ${explain(e.data.why)}.`),
  ];
}

function resumed(facts) {
  return facts.of("req.resume").map(({ req, data: { tokens, hit } }) => {
    const n = granted(facts, req);
    return hit
      ? `${req} resumes: ${hit} of its ${tokens} tokens are still in ${blocksOf(facts, req)}; ` +
          `${n} ${run(n)}.${full(facts)}`
      : `${req} resumes: ${n} of its ${tokens} tokens ${run(n)} again.${full(facts)}`;
  });
}

function admitted(facts) {
  const list = facts.of("req.admit");
  const together = [];
  if (list.length > 1) {
    const n = sum(list, (e) => granted(facts, e.req));
    const hit = sum(list, (e) => e.data.hit);
    const reused = hit ? `${count(hit, "prompt token")} reused, ` : "";
    together.push(
      `${names(list)} are admitted: ${reused}${count(n, "prompt token")} ${run(n)}` +
        `${full(facts, true)}.`,
    );
  }
  const each = list.map(({ req, data: { tokens, hit } }) => {
    const n = granted(facts, req);
    if (hit) {
      return (
        `${req} is admitted: ${hit} of its ${tokens} prompt tokens are already ` +
        `in ${blocksOf(facts, req)}; ${n} ${run(n)}${full(facts, true)}.`
      );
    }
    const part = n === tokens && n > 1 ? `all ${tokens}` : `${n} of its ${tokens}`;
    return `${req} is admitted: ${part} prompt tokens ${run(n)}${full(facts, true)}.`;
  });
  return [...together, ...each];
}

function finished(facts) {
  const list = facts
    .of("req.finish")
    .filter((e) => ["stop", "length"].includes(e.data.reason) && (e.data.why ?? null) === null);
  const together = [];
  if (list.length > 1) {
    const back = facts.numGivenBack;
    together.push(
      `${names(list)} finish; ${count(back, "block")} ${back === 1 ? "comes" : "come"} back.`,
    );
  }
  const each = list.map(({ req, data }) => {
    const freed = facts.one("kv.free", req);
    const back = freed ? freed.data.front.length + freed.data.back.length : 0;
    const cached = freed ? freed.data.back.length : 0;
    return `${req} finishes after ${count(data.output_tokens, "token")}; ${cameBack(back, cached)}.`;
  });
  return [...together, ...each];
}

function cameBack(back, cached) {
  if (back === 0) return "no block comes back";
  const blocks = `${count(back, "block")} ${back === 1 ? "comes" : "come"} back, `;
  if (cached === 0) return blocks + (back > 1 ? "none of them cached" : "not cached");
  if (cached === back) return blocks + (back > 1 ? "all still cached" : "still cached");
  return `${blocks}${cached} of them still cached`;
}

// Only a reason that was not the same in the step before.
function waits(facts) {
  const stop = facts.of("sched.stop")[0]?.data;
  const said = [];
  for (const { req, data } of facts.of("sched.skip")) {
    const old = facts.before.requests[req]?.wait ?? null;
    if (data.reason === "larger_than_pool") continue;
    if (old !== null && old.behind === null && old.reason === data.reason) continue;
    const behind = stop?.head === req ? stop.behind : [];
    const newly = behind.filter((other) => !stoodBehind(facts, other));
    const tail = newly.length ? ` ${list(newly)} ${newly.length > 1 ? "wait" : "waits"} behind it.` : "";
    said.push(`${req} waits: ${waitReason(facts, data)}.${tail}`);
  }
  return said;
}

function waitReason(facts, data) {
  if (data.reason === "no_budget") return `the budget of ${facts.ledger.budget} is used up`;
  if (data.reason === "no_free_blocks") {
    const kept = data.kept ? ` beyond the ${data.kept} kept back` : "";
    return `it needs ${count(data.need, "block")}, ${data.have} ${are(data.have)} free${kept}`;
  }
  if (data.reason === "chunking_off") {
    return `its ${data.need} tokens must run whole, ${data.have} of the budget are left`;
  }
  if (data.reason === "static_batch") {
    return `batching is static, and ${count(data.need, "request")} of the batch still ${data.need === 1 ? "runs" : "run"}`;
  }
  if (data.reason === "fragmented") {
    return `it needs ${count(data.need, "neighbouring block")}, at most ${data.have} ${are(data.have)} free in a row`;
  }
  return explain(data.reason);
}

function stoodBehind(facts, req) {
  const wait = facts.before.requests[req]?.wait ?? null;
  return wait !== null && wait.behind !== null;
}

function evicted(facts) {
  const events = facts.of("kv.evict");
  const together = [];
  if (events.length > 1) {
    const reqs = list([...new Set(events.map((e) => e.req))]);
    together.push(
      `${events.length} cached blocks are evicted for ${reqs}: their content is forgotten.`,
    );
  }
  const each = events.map(({ req, data }) => {
    const left = data.left_by ? `what ${data.left_by} left there` : "its content";
    return `Block ${data.block} is evicted for ${req}: ${left} is forgotten.`;
  });
  return [...together, ...each];
}

function chunkGoesOn(facts) {
  return facts
    .of("sched.grant")
    .filter((e) => ["chunk", "last_chunk"].includes(e.data.why))
    .map(({ req, data: { n } }) => {
      const lacked = facts.one("sched.chunk", req)?.data.of ?? n;
      return n === lacked
        ? `${req} runs the last ${count(n, "token")} of its prompt.`
        : `${req} runs ${n} of the ${lacked} tokens that it lacks.`;
    });
}

function decodes(facts) {
  const n = facts.decodes.length;
  if (n === 0) return [];
  const drafts = numDrafts(facts);
  if (drafts) {
    const right = sum(facts.of("spec.accept"), (e) => e.data.n);
    const said = facts.of("req.token").filter((e) => facts.decodes.includes(e.req)).length;
    const who = n === 1 ? `${facts.decodes[0]} decodes` : `${n} requests decode`;
    const were = right === 1 ? "was" : "were";
    return [`${who} ${count(said, "token")}: ${right} of ${count(drafts, "draft")} ${were} right.`];
  }
  return [n === 1 ? `${facts.decodes[0]} decodes one token.` : `${n} requests decode one token each.`];
}

const TELLERS = [
  broken,
  changed,
  preempted,
  refused,
  resumed,
  admitted,
  finished,
  waits,
  evicted,
  chunkGoesOn,
  decodes,
];
const LAST_TWO = [chunkGoesOn, decodes];

// What the headline does not tell, counted.
function also(facts, withDecodes) {
  const parts = [];
  const n = facts.decodes.length;
  if (withDecodes && n) {
    parts.push(`${count(n, "request")} ${n === 1 ? "decodes" : "decode"}`);
    const drafts = numDrafts(facts);
    const right = sum(facts.of("spec.accept"), (e) => e.data.n);
    if (drafts) parts.push(`${right} of ${count(drafts, "draft")} right`);
  }
  const reused = sum([...facts.of("req.admit"), ...facts.of("req.resume")], (e) => e.data.hit);
  if (reused) parts.push(`${count(reused, "token")} reused`);
  const [back, taken] = [facts.numGivenBack, facts.numTaken];
  if (back) parts.push(`${count(back, "block")} given back${taken ? `, ${taken} taken` : ""}`);
  else if (taken) parts.push(`${count(taken, "block")} taken`);
  const gone = facts.of("kv.evict").length;
  if (gone) parts.push(`${gone} evicted`);
  const ready = facts.of("req.grammar_ready");
  if (ready.length) parts.push(`grammar of ${names(ready)} ready`);
  parts.push(`${facts.numFree} free`);
  return parts.join(" · ");
}

// --- words -------------------------------------------------------------------------------------

const count = (n, noun) => (n === 1 ? `${n} ${noun}` : `${n} ${noun}s`);
const are = (n) => (n === 1 ? "is" : "are");
const run = (n) => (n === 1 ? "runs" : "run");
const sum = (items, value) => items.reduce((total, item) => total + value(item), 0);

function list(items) {
  const shown = items.length > 4 ? [...items.slice(0, 3), `${items.length - 3} more`] : items;
  if (shown.length === 1) return shown[0];
  return `${shown.slice(0, -1).join(", ")} and ${shown[shown.length - 1]}`;
}

const names = (events) => list(events.map((event) => event.req));

const granted = (facts, req) => facts.one("sched.grant", req)?.data.n ?? 0;

// Those that ran: a decode is one token and its drafts.
const numDrafts = (facts) => sum(facts.decodes, (req) => granted(facts, req) - 1);

// Said of whoever took the last of the budget.
function full(facts, joined = false) {
  if (!facts.budgetFull) return "";
  return joined ? `; ${FULL}` : ` T${FULL.slice(1)}.`;
}

// The blocks of a request's hit.
function blocksOf(facts, req) {
  const ids = facts
    .of("kv.touch")
    .filter((e) => e.req === req)
    .map((e) => String(e.data.block));
  if (ids.length < 2) return ids.length ? `block ${ids[0]}` : "no block"; // a wrong engine's trace
  return ids.length > 4 ? `${ids.length} blocks` : `blocks ${list(ids)}`;
}
