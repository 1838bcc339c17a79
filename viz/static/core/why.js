// The Why card: what is chosen, in words. Now, why (with the numbers and the name of the reason),
// since when, what is next, and the source line that decided it. Pure: store and step in, text out.

import { blockLife } from "#core/biography.js";
import { stepFacts } from "#core/facts.js";
import { explain, listed, plural, sentence, unusedText, waitText } from "#core/reasons.js";
import { blockWhy, lossWhy, missWhy } from "#core/whykv.js";
import { aboutEvent, aboutGap, aboutLine, aboutToken } from "#core/whypicks.js";

const are = (n) => (n === 1 ? "is" : "are");

// `chosen`: as core/selection.js says. Answers null when there is nothing to tell.
export function whyCard(store, step, chosen, hueOf, words = (text) => text, frontEvents = []) {
  if (step < store.firstStep) return null;
  const aboutStep = (at) => {
    const events = store.eventsOf(at);
    return { store, step: at, state: store.stateAfter(at), events, facts: stepFacts(events), words };
  };
  const about = aboutStep(step);
  const { state } = about;
  const whyAt = (at, req) => {
    const there = aboutStep(at);
    return there.state.requests[req] ? requestWhy(there, req, there.state.requests[req]) : [];
  };
  if (chosen.line) return aboutLine(about, chosen.line);
  if (chosen.gap) return sourced(store, aboutGap(about, chosen.gap, whyAt));
  if (chosen.event) {
    const card = aboutEvent(about, chosen.event, frontEvents, whyAt);
    return card && sourced(store, { ...card, hue: card.hueOf ? hueOf(card.hueOf) : undefined });
  }
  if (chosen.req && chosen.position !== undefined && chosen.position !== null) {
    const card = aboutToken(about, chosen, requestWhy);
    return card && sourced(store, { hue: hueOf(chosen.req), ...card });
  }
  if (chosen.unused) return aboutBudget(about);
  if (chosen.block !== undefined && chosen.block !== null) return aboutBlock(about, chosen.block);
  if (chosen.req && state.requests[chosen.req]) {
    return { hue: hueOf(chosen.req), ...aboutRequest(about, chosen.req) };
  }
  return null;
}

// --- a request ---------------------------------------------------------------------------------

function aboutRequest(about, req) {
  const { store, step, state, events, facts } = about;
  const r = state.requests[req];
  const past = (store.index.get(req) ?? []).filter((k) => k < step);
  const coming = (store.index.get(req) ?? []).filter((k) => k > step);
  // That the head stopped the line tells why those behind it wait.
  const mine = events.filter(({ req: whose, kind, data }) => whose === req || (kind === "sched.stop" && data.behind.includes(req)));
  const card = {
    title: req,
    subtitle: r.request_id,
    now: requestNow(req, r, state, facts),
    why: requestWhy(about, req, r),
    since: null,
    next: null,
    source: sourceOf(store, decisive(mine)),
    events: mine,
  };
  const since = sinceStep(store, req, step);
  if (since) card.since = since;
  else if (past.length) card.since = { step: past[past.length - 1], text: "" };
  if (coming.length && r.status !== "finished") {
    card.next = { step: coming[0], text: nextText(store, req, coming[0]) };
  } else if (r.status !== "finished") {
    card.next = { step: null, text: store.ended ? "nothing more in this run" : "not known yet" };
  }
  return card;
}

function requestNow(req, r, state, facts) {
  const outputs = r.tokens.length - r.num_prompt_tokens;
  const said = outputs ? ` It has said ${plural(outputs, "token")} of at most ${r.max_tokens}.` : "";
  if (r.status === "finished") {
    const again = r.num_preemptions ? `, preempted ${plural(r.num_preemptions, "time")}` : "";
    return `Done in step ${r.finished_step} after ${plural(outputs, "token")} (${r.finish_reason})${again}.`;
  }
  if (r.status === "running") {
    const grant = facts.grants.find((g) => g.req === req);
    const ran = grant ? ` ${plural(grant.n, "token")} ran in this step.` : " It did not run in this step.";
    const place = state.running.indexOf(req) + 1;
    return (
      `Runs, ${place} of ${state.running.length}. ${r.num_computed_tokens} of its ` +
      `${r.tokens.length} tokens are computed, in ${plural(r.table.length, "block")}.${ran}${said}`
    );
  }
  const place = state.waiting.indexOf(req);
  const line = place === 0 ? "first in line" : `number ${place + 1} in line`;
  return `Waits, ${line}. ${r.num_computed_tokens} of its ${r.tokens.length} tokens are computed.${said}`;
}

function requestWhy(about, req, r) {
  const { state, facts } = about;
  const why = [];
  const over = r.status === "finished" && !facts.finished.has(req);
  if (over) why.push({ text: `It ended in step ${r.finished_step} (${r.finish_reason}), and has nothing to run.`, name: r.finish_reason, step: r.finished_step });
  const victim = facts.preempted.get(req);
  if (victim) {
    const last = victim.policy === "fcfs" ? "it came last of" : "it is last by priority of";
    why.push({
      text:
        `${victim.for === req ? "It" : victim.for} needed ${plural(victim.need, "block")}, ` +
        `${victim.have} ${are(victim.have)} free; ${last} ${listed(victim.candidates)}. ` +
        `It loses ${plural(victim.tokens_lost, "computed token")} and keeps its text.`,
      name: "preempted",
    });
  }
  const admitted = facts.admitted.get(req);
  if (admitted) {
    const hit = admitted.hit
      ? `${admitted.hit} of its ${admitted.tokens} tokens were found in the prefix cache`
      : "nothing of it was in the prefix cache";
    why.push({ text: `${admitted.resumed ? "Resumed" : "Admitted"}: ${hit}.`, name: admitted.resumed ? "req.resume" : "req.admit" });
    why.push(...missWhy(about, req));
    if (admitted.resumed) why.push(...lossWhy(about, req, admitted.hit));
  }
  const row = facts.ledger?.rows.find((item) => item.req === req);
  if (row?.granted && row.limited_by) {
    why.push({
      text: `It asked for ${plural(row.asked, "token")} and got ${row.granted}: ${explain(row.limited_by)}.`,
      name: row.limited_by,
    });
  } else if (row?.granted && r.status === "running") {
    why.push({ text: `It asked for ${plural(row.asked, "token")} and got ${row.asked === 1 ? "it" : "them all"}.`, name: "sched.grant" });
  }
  const grant = facts.grants.find((item) => item.req === req);
  const drafts = grant?.why === "decode" ? grant.n - 1 : 0;
  if (drafts) {
    const right = facts.accepted.get(req)?.n ?? 0;
    const were = facts.tokens.has(req) ? `: ${right} ${right === 1 ? "was" : "were"} right` : "";
    why.push({ text: `${plural(drafts, "draft")} ran with the token it said last${were}.`, name: "spec.propose" });
  }
  if (r.wait) why.push(...waitWhy(about, req, r));
  const end = facts.finished.get(req);
  if (end) {
    const ends = { length: "it has said as many tokens as were asked for", stop: "the model said it is done", abort: "it was cancelled", error: "it failed" };
    why.push({ text: `Ended: ${end.why ? explain(end.why) : ends[end.reason]}.`, name: end.reason });
  }
  if (state.running.includes(req) && state.config.policy === "fcfs" && state.running.length > 1) {
    const last = state.running[state.running.length - 1] === req;
    if (last) why.push({ text: "It came last, so it is the next to give way if blocks run out.", name: "fcfs" });
  }
  return why;
}

function waitWhy(about, req, r) {
  const { state, facts, words } = about;
  const { wait } = r;
  if (facts.preempted.has(req)) {
    const then = wait.reason === "preempted_this_step" ? "So this step admits nobody" : sentence(explain(wait.reason));
    return wait.reason === "preempted" ? [] : [{ text: `${then}.`, name: wait.reason }];
  }
  if (wait.behind) {
    const head = state.requests[wait.behind];
    const its = head?.wait ? ` ${headWords(wait.behind, waitText(wait.behind, head.wait, state.config, facts))}.` : "";
    return [{ text: `Stands behind ${wait.behind}: under ${state.config.policy} nobody overtakes the head of the line.${its}`, name: wait.reason }];
  }
  if (wait.reason === "no_free_blocks") {
    const own = r.tokens.length;
    let text = `Its ${plural(own, "token")} need ${plural(wait.need, "block")}; ${wait.have} ${are(wait.have)} free.`;
    const held = heldOf(state, req);
    if (wait.hit && held.length) {
      const which = held.length === state.free.length && held.length > 1
        ? held.length === 2 ? "Both hold" : "All of them hold"
        : `${held.length === 1 ? "Block" : "Blocks"} ${listed(held)} ${held.length === 1 ? "holds" : "hold"}`;
      text += ` ${which} its own tokens 1–${wait.hit}: a hit saves the work, but a cached block that lies free counts as needed, too.`;
    } else if (wait.hit) {
      text += ` ${wait.hit} of its tokens are cached: that saves work, but a cached block that lies free counts as needed, too.`;
    }
    return [{ text: words(text), name: wait.reason }, ...missWhy(about, req, "not_cached")];
  }
  return [{ text: `${sentence(waitText(req, wait, state.config, facts))}.`, name: wait.reason }];
}

const headWords = (head, text) => (text.startsWith("needs ") ? `${head} ${text}` : `${head}: ${text}`);

// Free, cached blocks with the request's own tokens.
function heldOf(state, req) {
  return state.free.filter((id) => state.blocks[id].hash !== null && state.blocks[id].held?.req === req);
}

function sinceStep(store, req, step) {
  let status = null;
  for (const k of (store.index.get(req) ?? []).filter((n) => n <= step)) {
    for (const event of store.eventsOf(k)) {
      if (event.req !== req) continue;
      if (event.kind === "req.admit") status = { step: k, text: "admitted" };
      if (event.kind === "req.resume") status = { step: k, text: "resumed" };
      if (event.kind === "req.enqueue") status = { step: k, text: "arrived" };
      if (event.kind === "req.preempt") status = { step: k, text: "preempted" };
      if (event.kind === "req.finish") status = { step: k, text: "finished" };
    }
  }
  return status;
}

function nextText(store, req, step) {
  const kinds = new Set(store.eventsOf(step).filter((event) => event.req === req).map((event) => event.kind));
  if (kinds.has("req.preempt")) return "is preempted";
  if (kinds.has("req.resume")) return "resumes";
  if (kinds.has("req.admit")) return "is admitted";
  if (kinds.has("req.finish")) return "finishes";
  if (kinds.has("sched.grant")) return "runs";
  return kinds.has("sched.skip") ? "still waits" : "";
}

// --- a block -----------------------------------------------------------------------------------

function aboutBlock({ store, step, state, events }, id) {
  const block = state.blocks[id];
  if (!block) return null;
  const owners = Object.entries(state.requests).filter(([, r]) => r.table.includes(id)).map(([name]) => name);
  const mine = events.filter((event) => touches(event, id));
  const life = blockLife(store, id);
  const now = owners.length
    ? `In use by ${listed(owners)}${block.ref > 1 ? `, shared (×${block.ref})` : ""}. `
    : block.hash
      ? `Free, number ${state.free.indexOf(id) + 1} in the queue; its content can still be hit. `
      : `Free and blank, number ${state.free.indexOf(id) + 1} in the queue. `;
  const coming = life.find((entry) => entry.step > step);
  return {
    title: `Block ${id}`,
    subtitle: block.hash ? `hash ${block.hash}` : "no hash",
    now: now + blockWords(state, id),
    why: blockWhy(store, step, id, life),
    life,
    begins: store.firstStep, // what came before is not known
    since: null,
    next: coming
      ? { step: coming.step, text: coming.text }
      : { step: null, text: store.ended ? "nothing more in this run" : "not known yet" },
    source: sourceOf(store, mine.find((event) => event.kind === "kv.evict") ?? mine[mine.length - 1]),
    events: mine,
  };
}

function touches(event, id) {
  const { data, kind } = event;
  if (!kind.startsWith("kv.")) return false;
  return data.block === id || (kind !== "kv.hit" && (data.blocks?.includes(id) ?? false));
}

// What a block holds: the computed tokens of its owner, or what was left in it.
export function blockWords(state, id) {
  const size = state.config.block_size;
  const owner = Object.entries(state.requests).find(([, r]) => r.table.includes(id));
  if (owner) {
    const [name, r] = owner;
    const from = r.table.indexOf(id) * size;
    const to = Math.min(from + size, r.num_computed_tokens);
    if (to <= from) return "Nothing in it is computed yet.";
    const which = to - from === 1 ? `token ${to}` : `tokens ${from + 1}–${to}`;
    return `It holds ${which} of ${name}: “${r.texts.slice(from, to).join("")}”.`;
  }
  const { held } = state.blocks[id];
  if (!held?.filled) return "";
  const from = held.logical * size;
  const text = state.requests[held.req]?.texts.slice(from, from + held.filled).join("") ?? "";
  return `It still holds “${text}”, left by ${held.req}.`;
}

// --- the unused budget -------------------------------------------------------------------------

function aboutBudget({ store, step, state, events, facts }) {
  const { ledger } = facts;
  if (!ledger) return null;
  const unused = ledger.budget - ledger.used;
  const shares = ledger.rows.filter((row) => row.granted).map((row) => `${row.req} ${row.granted}`);
  const text = unused ? unusedText(facts, state.config) : "every token of it was granted";
  return {
    title: "Token budget",
    subtitle: `step ${step}`,
    now: `${ledger.used} of ${ledger.budget} tokens run: ${listed(shares, 9) || "none"}. ${unused} are left over.`,
    why: [{ text: `${sentence(text)}.`, name: unused ? ledger.unused_reason : "no_budget" }],
    since: null,
    next: null,
    source: sourceOf(store, events.find((event) => event.kind === "sched.ledger")),
    events: events.filter((event) => event.kind === "sched.ledger" || event.kind === "sched.stop"),
  };
}

// --- source ------------------------------------------------------------------------------------

// With the line that emitted the event which tells it.
const sourced = (store, { event, ...card }) => ({ ...card, source: sourceOf(store, event) });

const WEIGHT = ["trace.violation", "sched.victim", "req.error", "req.abort", "sched.skip", "sched.stop", "req.resume", "req.admit", "req.finish", "sched.chunk", "sched.grant"];

export function decisive(events) {
  for (const kind of WEIGHT) {
    const event = events.find((item) => item.kind === kind);
    if (event) return event;
  }
  return events[events.length - 1];
}

function sourceOf(store, event) {
  const source = event ? store.sources.get(event.src) : null;
  if (!source) return null;
  return { file: source.file, line: source.line, function: source.function, kind: event.kind, src: event.src };
}
