// The Why card of what is no request and no block: a token, an event, a source line, an empty lane.
// Part of why.js, which gives `about` (store, step, state, events, facts) and the words for a request.

import { blockHistory } from "#core/biography.js";
import { KINDS } from "#core/kinds.js";
import { explain, listed, plural, sentence } from "#core/reasons.js";
import { blockOf, findEvent, srcsOf } from "#core/selection.js";
import { stepsOfLine } from "#core/sources.js";
import { passesOf, tokenOf } from "#core/tokens.js";
import { evictionWhy, missWhy } from "#core/whykv.js";

const PASSING = ["req.admit", "req.resume", "sched.grant", "fcfs", "not_cached", "partial_block", "last_token", "prompt_logprobs"];
const PASS = { computed: "computed", again: "computed again", reused: "reused", drawn: "drawn" };

// --- a token -----------------------------------------------------------------------------------------

export function aboutToken(about, { req, position }, requestWhy) {
  const { store, step, state, events, facts } = about;
  const r = state.requests[req];
  if (!r) return null;
  // Of one that ended before the steps that are here, the text alone is known.
  const token = tokenOf(store, { req, position }) ?? (position < r.tokens.length ? { text: r.texts[position], ran: [], hits: [], sampled: null } : null);
  if (!token) return null;
  const passes = passesOf(store, { req, position });
  const grant = facts.grants.find((each) => each.req === req && position >= each.start && position < each.start + each.n);
  const size = state.config.block_size;
  const block = r.table[Math.floor(position / size)];
  const offset = position % size;
  const said = position < r.tokens.length;
  const computed = position < r.num_computed_tokens;
  const reused = computed && position < r.num_cached_tokens;
  const how = !said ? "It is not said yet." : grant ? "It ran in this step." : reused ? "It is computed: reused, not run." : computed ? "It is computed." : "It is known and not computed yet.";
  const where = block && computed ? ` Its K and V lie in slot ${block * size + offset}: block ${block}, offset ${offset}.` : "";
  return {
    title: req,
    subtitle: `token ${position + 1}${position < r.num_prompt_tokens ? " of its prompt" : `, output ${position - r.num_prompt_tokens + 1}`}`,
    now: `${said ? `“${token.text}”. ` : ""}${how}${where}`,
    why: tokenWhy(about, { req, r, position, token, grant, reused, computed, said }, requestWhy),
    life: passes.map(({ step: k, what }) => ({ step: k, text: PASS[what] })),
    begins: store.firstStep,
    since: null,
    next: computed && passes.every((pass) => pass.step <= step) ? null : nextPass(store, passes, step, r),
    event: events.find((event) => event.req === req && (event.kind === "req.token" ? token.sampled === step : event.kind === "sched.grant" && grant)) ?? null,
  };
}

function tokenWhy(about, { req, r, position, token, grant, reused, computed, said }, requestWhy) {
  const { store, step, facts } = about;
  const why = [];
  if (grant) {
    const of = grant.n === 1 ? "this token" : `tokens ${grant.start + 1}–${grant.start + grant.n}`;
    why.push({ text: `${req} was granted ${plural(grant.n, "token")} in this step: ${of} (${grant.why.replace("_", " ")}).`, name: "sched.grant" });
  }
  if (token.sampled === step && token.row) {
    const { logprob, rank } = token.row;
    const odds = logprob === null || logprob === undefined ? "" : `, logprob ${logprob.toFixed(3)}${rank ? `, rank ${rank}` : ""}`;
    why.push({ text: `It was drawn at the end of this step${odds}.`, name: "sample" });
  }
  if (reused) {
    const block = about.state.requests[req].table[Math.floor(position / about.state.config.block_size)];
    const taken = blockHistory(store, block).filter(({ kind, step: k }) => kind === "kv.alloc" && k <= step).at(-1);
    const whose = !taken ? "somebody before" : taken.req === req ? `${req} itself, in step ${taken.step}, before it was preempted` : `${taken.req}, in step ${taken.step}`;
    why.push({ text: `Its block was found in the prefix cache; who computed it: ${whose}.`, name: "kv.hit", step: taken?.step ?? null });
  }
  if (!said) why.push({ text: token.sampled === null ? "It was never drawn in what is here." : `It is drawn in step ${token.sampled}.`, name: "sample", step: token.sampled });
  else if (!computed && !grant) {
    const newest = position === r.tokens.length - 1 && r.status === "running" && facts.tokens.has(req);
    if (newest) why.push({ text: "It was drawn in this step: its K and V are computed in the next one, where it is the input.", name: "sample" });
    else {
      const all = requestWhy(about, req, r);
      const held = all.filter(({ name }) => !PASSING.includes(name)); // what kept it, not what the others got
      why.push(...(held.length ? held : all));
    }
  } else if (computed && !grant && !reused) {
    const before = token.ran.filter((k) => k < step).at(-1);
    why.push({ text: before === undefined ? "It was computed before the steps that are here." : `It was computed in step ${before}, and stays in the cache.`, name: "sched.grant", step: before ?? null });
  }
  return why;
}

function nextPass(store, passes, step, r) {
  const coming = passes.find((pass) => pass.step > step);
  if (coming) return { step: coming.step, text: PASS[coming.what] };
  return r.status === "finished" ? null : { step: null, text: store.ended ? "nothing more in this run" : "not known yet" };
}

// --- an event ----------------------------------------------------------------------------------------

const SHOWN = 12;
const BULKY = new Set(["texts", "text", "prompt_token_ids", "rows", "arrays", "state", "sources"]);

export function aboutEvent(about, place, frontEvents, requestWhy) {
  const { store } = about;
  const found = findEvent(store, place, frontEvents);
  if (!found) return null;
  const { event, step, place: at, count } = found;
  const { kind, req, data } = event;
  return {
    title: kind,
    subtitle: `${place.stream} ${place.seq}${step === null ? "" : ` · event ${at} of ${count} in step ${step}`}`,
    hueOf: req,
    now: `${KINDS[kind] ?? "A kind of event that a later version added."}`,
    fields: fieldsOf(event),
    why: eventWhy(about, found, requestWhy),
    at: step === null ? null : { step, place: at },
    since: step === null ? null : { step, text: `event ${at}` },
    next: nextLike(store, event, step),
    event,
  };
}

// [name, value in words]: what it carries.
function fieldsOf({ req, data }) {
  const fields = Object.entries(data).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const shown = fields.slice(0, SHOWN).map(([name, value]) => [name, fieldWords(name, value)]);
  if (fields.length > SHOWN) shown.push(["…", `${fields.length - SHOWN} more`]);
  return req ? [["req", req], ...shown] : shown;
}

function fieldWords(name, value) {
  if (Array.isArray(value)) {
    if (BULKY.has(name) || typeof value[0] === "object") return `${value.length}`;
    return value.length > SHOWN ? `${value.slice(0, SHOWN).join(" ")} … ${value.length} in all` : value.join(" ");
  }
  if (typeof value === "object") return Object.entries(value).slice(0, 6).map(([key, each]) => `${key} ${each}`).join(", ");
  return name.endsWith("ns") ? `${(value / 1e6).toFixed(3)} ms` : String(value).slice(0, 200);
}

// The reason that it carries; else what the step's decision about its request or its block was.
function eventWhy(about, { event, step }, requestWhy) {
  const { kind, req, data } = event;
  if (kind === "kv.miss" && step !== null) return missWhy(at(about, step), req, null, event);
  const why = [];
  for (const name of ["reason", "why", "limited_by", "unused_reason"]) {
    const reason = data[name];
    if (typeof reason === "string" && reason) why.push({ text: `${sentence(explain(reason))}${numbers(data)}.`, name: reason });
  }
  if (why.length || step === null) return why;
  const block = blockOf(event);
  const told = block === null ? null : blockHistory(about.store, block).find(({ seq }) => seq === event.seq);
  if (told) {
    const queue = kind === "kv.evict" ? evictionWhy(about.store, told) : [];
    return [{ text: `Block ${block}: ${told.words}.`, name: kind }, ...queue];
  }
  const there = req ? requestWhy(step, req) : [];
  return there.slice(0, 2);
}

const at = (about, step) => ({ ...about, step, state: about.store.stateAfter(step), events: about.store.eventsOf(step) });

function numbers({ need, have, hit }) {
  const parts = [need ? `need ${need}` : "", need ? `have ${have ?? 0}` : "", hit ? `hit ${hit}` : ""].filter(Boolean);
  return parts.length ? ` (${parts.join(", ")})` : "";
}

function nextLike(store, { kind, req, seq }, step) {
  if (step === null) return null;
  const steps = req ? (store.index.get(req) ?? []) : [...store.steps.keys()];
  for (const k of steps) {
    if (k < step) continue;
    if (store.eventsOf(k).some((event) => event.kind === kind && event.req === req && event.seq > seq)) {
      return { step: k, text: `${kind}${req ? ` of ${req}` : ""} again` };
    }
  }
  return { step: null, text: `no later ${kind}${req ? ` of ${req}` : ""}` };
}

// --- a source line -----------------------------------------------------------------------------------

export function aboutLine({ store, step }, place) {
  const srcs = srcsOf(store, place);
  const source = store.sources.get(srcs[0]);
  if (!source) return null;
  const steps = stepsOfLine(store, srcs);
  const count = (keep) => steps.reduce((sum, each) => sum + (keep(each.step) ? each.n : 0), 0);
  const [upto, now] = [count((k) => k <= step), count((k) => k === step)];
  const text = statementAt(source, place.line);
  const coming = steps.find((each) => each.step > step);
  const kinds = new Set(store.eventsOf(step).filter(({ src, kind }) => srcs.includes(src) && kind !== "run.source").map(({ kind }) => kind));
  return {
    title: `${place.file.split("/").at(-1)}:${place.line}`,
    subtitle: source.function,
    now: text,
    why: [{
      text: now ? `In this step this branch was taken ${now === 1 ? "once" : `${now} times`}: it told ${listed([...kinds])}.` : upto ? "In this step this branch was not taken." : "Up to this step this branch was never taken.",
      name: `${upto} so far`,
    }],
    life: steps.map(({ step: k, n }) => ({ step: k, text: plural(n, "event") })),
    begins: store.firstStep,
    since: null,
    next: coming ? { step: coming.step, text: plural(coming.n, "event") } : { step: null, text: store.ended ? "nothing more in this run" : "not known yet" },
    source: { file: place.file, line: place.line, function: source.function, kind: "line", src: srcs[0] },
  };
}

// The statement that begins there, on one line: as far as its brackets reach.
function statementAt({ text, first_line }, line) {
  let [whole, open] = ["", 0];
  for (const part of text.split("\n").slice(line - first_line)) {
    whole += `${whole && !/[(\[{]$/.test(whole) ? " " : ""}${part.trim()}`;
    open += (part.match(/[([{]/g)?.length ?? 0) - (part.match(/[)\]}]/g)?.length ?? 0);
    if (open <= 0) break;
  }
  return whole.replace(/,? ?([)\]}])/g, "$1");
}

// --- an empty lane -----------------------------------------------------------------------------------

export function aboutGap(about, gap, requestWhy) {
  const { store, step, state } = about;
  const counts = { waiting: state.waiting.length, running: state.running.length, done: state.finished.length };
  const there = counts[gap];
  const card = { title: gap[0].toUpperCase() + gap.slice(1), subtitle: `step ${step}`, since: null, next: comes(store, step, COMES[gap]) };
  if (there) return { ...card, now: `${plural(there, "request")}.`, why: [], event: null };
  const [head] = state.waiting;
  if (gap === "waiting") {
    const text = counts.running ? `Everyone who has come was admitted: ${plural(counts.running, "request")} run.` : "Nobody has come who is not done.";
    return { ...card, now: "Nobody waits.", why: [{ text, name: "nothing_waits" }], event: lastOf(about, "req.admit", "req.resume") };
  }
  if (gap === "running") {
    const why = head ? requestWhy(step, head).map(({ text, ...rest }) => ({ ...rest, text: `${head}: ${text}` })) : [{ text: counts.done ? `All ${plural(counts.done, "request")} that came are done.` : "No request has come yet.", name: "nothing_waits" }];
    return { ...card, now: "Nobody runs.", why, event: lastOf(about, "req.finish", "sched.stop") };
  }
  const text = counts.running ? `${plural(counts.running, "request")} run, and none has all it asked for.` : counts.waiting ? "Those who came still wait." : "No request has come yet.";
  return { ...card, now: "Nobody is done.", why: [{ text, name: "req.finish" }], event: null };
}

const COMES = { waiting: ["req.enqueue", "comes"], running: ["req.admit", "is admitted"], done: ["req.finish", "finishes"] };

function comes(store, step, [kind, words]) {
  for (let k = step + 1; k <= store.lastStep; k += 1) {
    const event = store.eventsOf(k).find((each) => each.kind === kind);
    if (event) return { step: k, text: `${event.req} ${words}` };
  }
  return { step: null, text: store.ended ? "nobody any more in this run" : "not known yet" };
}

// The last event of these kinds in this step, or before it: whose source tells why.
function lastOf({ store, step }, ...kinds) {
  for (let k = step; k > store.firstStep; k -= 1) {
    const event = store.eventsOf(k).filter((each) => kinds.includes(each.kind)).at(-1);
    if (event) return event;
  }
  return null;
}
