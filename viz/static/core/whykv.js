// The Why card's words for the cache: why a lookup ended, why this block was taken or evicted, and
// what a preemption cost. Part of why.js.

import { blockHistory, lastEvicted, whoMissed } from "#core/biography.js";
import { explain, listed, plural, sentence } from "#core/reasons.js";

const QUEUE_SHOWN = 5;

// --- a lookup ----------------------------------------------------------------------------------------

// Why the request's lookup ended where it did. `only`: this reason alone is worth a word.
export function missWhy({ store, events, state }, req, only = null, event = null) {
  const miss = event ?? events.filter((each) => each.kind === "kv.miss" && each.req === req).at(-1);
  if (!miss || (only && miss.data.reason !== only)) return [];
  const { at_block: block, reason, hash } = miss.data;
  const size = state.config.block_size;
  const tokens = `tokens ${block * size + 1}–${(block + 1) * size}`;
  const lost = hash ? lastEvicted(store, hash, miss.seq) : null;
  if (lost) return [{ text: `Its ${tokens} were in block ${lost.block} until step ${lost.step}, when that was evicted for ${lost.req}.`, name: reason, step: lost.step }];
  const here = hash ? `No block holds its ${tokens} now` : sentence(explain(reason));
  return [{ text: `${block && !hash ? `From token ${block * size + 1} on nothing is reused: ${explain(reason)}` : here}.`, name: reason }];
}

// What a request that resumes had computed before: lost in a step that is named.
export function lossWhy({ store, step, facts }, req, hit) {
  for (const k of (store.index.get(req) ?? []).filter((n) => n < step).reverse()) {
    const event = store.eventsOf(k).find(({ kind, req: whose }) => kind === "req.preempt" && whose === req);
    if (!event) continue;
    const lost = event.data.tokens_lost;
    const n = facts.grants.find((grant) => grant.req === req)?.n ?? 0;
    const again = Math.max(Math.min(lost - hit, n), 0);
    const found = hit ? `${Math.min(hit, lost)} of them are found again, and ` : "";
    const twice = again ? `${again} of the ${n} that run now are computed a second time` : "none of them runs in this step";
    return [{ text: `It was preempted in step ${k} and lost ${plural(lost, "computed token")}: ${found}${twice}.`, name: "req.preempt", step: k }];
  }
  return [];
}

// --- a block -----------------------------------------------------------------------------------------

// What was done to it last, and why; and what its last eviction cost.
export function blockWhy(store, step, id, life) {
  const past = life.filter((entry) => entry.step <= step);
  const last = past.at(-1);
  const before = past.at(-2);
  const eviction = past.filter(({ kind }) => kind === "kv.evict").at(-1);
  const why = [];
  if (last?.kind === "kv.alloc" && before?.kind === "kv.evict") why.push(...evictionWhy(store, before));
  else if (last?.kind === "kv.alloc") why.push(takenWhy(store, last, before));
  else if (last?.kind === "kv.free") why.push(freedWhy(store, last));
  return [...why, ...forgotten(store, eviction)];
}

function takenWhy(store, { step, req }, before) {
  const given = before?.kind === "kv.free" && before.step === step ? victimOf(store, before) : null;
  const text = given
    ? `${before.req} was preempted in step ${step} and gave it back; ${given.for} took it.`
    : `It was blank and the next in the free queue when ${req} needed a block, in step ${step}.`;
  return { text, name: "kv.alloc" };
}

function freedWhy(store, freed) {
  const victim = victimOf(store, freed);
  return {
    text: victim ? `${freed.req} gave it back in step ${freed.step}: it was preempted for ${victim.for}.` : `${freed.req} gave it back in step ${freed.step}, with its whole table.`,
    name: "kv.free",
  };
}

const victimOf = (store, { step, req }) => store.eventsOf(step).find((event) => event.kind === "sched.victim" && event.req === req)?.data ?? null;

// Why this block and no other: how the free queue stood at that moment.
export function evictionWhy(store, { step, seq, req }) {
  const events = store.eventsOf(step);
  const at = events.findIndex((event) => event.seq === seq);
  const id = events[at].data.block;
  const takes = (event) => ["kv.alloc", "kv.reserve"].includes(event.kind) && event.req === req;
  const taking = events.slice(at).find(takes)?.data.blocks ?? [id];
  const before = events.findLastIndex((event, i) => i < at && event.kind !== "kv.evict") + 1; // one taking, its first eviction
  const { free, blocks } = store.stateWithin(step, before);
  const queue = free.slice(0, QUEUE_SHOWN).map((each) => `${each}${blocks[each].hash === null ? "" : "◆"}`);
  const freed = blockHistory(store, id).filter((entry) => entry.kind === "kv.free" && entry.seq < seq).at(-1);
  const earlier = events.slice(0, at).filter(({ kind }) => kind === "kv.alloc").map((event) => `${event.req} took ${listed(event.data.blocks)}`);
  const blank = taking.filter((each) => blocks[each].hash === null);
  const since = freed ? `, in step ${freed.step}` : "";
  return [{
    text:
      `${req} needed ${plural(taking.length, "new block")}; the free queue was ${queue.join(" ")}${free.length > QUEUE_SHOWN ? " …" : ""}` +
      `${earlier.length ? `, after ${listed(earlier, 3)}` : ""}. ${blank.length ? `Blank ${listed(blank)} went first, then` : "No blank one was left, so"} ` +
      `what had been given back longest ago${blank.length ? "" : " went"}: block ${id}${since}.`,
    name: "kv.evict",
    step,
  }];
}

// What the last eviction cost: nothing, or somebody's hit.
function forgotten(store, eviction) {
  if (!eviction) return [];
  const missed = whoMissed(store, eviction.hash, eviction.step);
  const [first] = missed;
  const text = missed.length
    ? `What was evicted in step ${eviction.step} was missed: ${listed(missed.map(({ req, step }) => `${req} looked for it in step ${step}`))}.`
    : `What was evicted in step ${eviction.step} ${store.ended ? "was never looked for again" : "has not been looked for since"}.`;
  return [{ text, name: "kv.evict", step: first?.step ?? null }];
}
