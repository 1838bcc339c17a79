// What two runs were told, and where: a part of compare.js, which says what came of it. An input is
// what came to the engine from outside; also here: where a trace tells no more though its run went
// on. Twin of minivllm/trace/inputs.py, which says why a stop string is an input by half.

import { count, join } from "#core/phrases.js";

export function arrivals(trace) {
  return new Map(trace.events.filter((event) => event.kind === "req.arrive").map((event) => [event.req, event]));
}

// What was not told to both at the same step, in order of steps: {step, words}.
export function inputPairs(a, b) {
  const pairs = [];
  const [ours, theirs] = [said(a), said(b)];
  for (const words of new Set([...ours.keys(), ...theirs.keys()])) {
    const [first, second] = [ours.get(words), theirs.get(words)];
    if (first === second) continue;
    if (first === undefined || second === undefined) {
      const step = first ?? second;
      pairs.push({ step, words: `${words} in step ${step}, in ${second === undefined ? "A" : "B"} only` });
    } else {
      pairs.push({ step: Math.min(first, second), words: `${words} in step ${first} in A, in step ${second} in B` });
    }
  }
  const others = arrivals(b);
  for (const [req, { step, data }] of arrivals(a)) {
    const other = others.get(req)?.data;
    for (const name of other ? ["params", "priority", "cache_salt"] : []) {
      const [one, two] = [data, other].map((side) => JSON.stringify(side[name] ?? null));
      if (one !== two) pairs.push({ step, words: `${req} has ${name} ${one} in A, ${two} in B` });
    }
  }
  pairs.push(...stopPairs(a, b));
  const ends = [breaksOff(a), breaksOff(b)].filter(Boolean).map((end) => end.step);
  const told = ends.length ? Math.min(...ends) : Math.max(a.lastStep, b.lastStep);
  return pairs.filter((pair) => pair.step <= told).sort((x, y) => x.step - y.step);
}

// Input in words → its step.
function said(trace) {
  const found = new Map();
  let resets = 0;
  for (const { kind, req, step, data } of trace.events) {
    if (kind !== "core.input" || data.op === "set_knobs") continue;
    if (data.op === "add") found.set(`${req} arrives`, step);
    else if (data.op === "abort") {
      if (data.why !== "stop_string") found.set(`${req} is called back (${data.why ?? ""})`, step);
    } else {
      resets += 1;
      found.set(`${data.op} number ${resets}`, step);
    }
  }
  return found;
}

// --- called back for its text ------------------------------------------------------------------

function stopPairs(a, b) {
  const outputs = [outputsOf(a), outputsOf(b)];
  const [ours, theirs] = [stops(a, outputs[0]), stops(b, outputs[1])];
  const pairs = [];
  for (const req of [...new Set([...ours.keys(), ...theirs.keys()])].sort()) {
    const [one, other] = [ours.get(req), theirs.get(req)];
    const until = Math.min(...[one, other].filter(Boolean).map((stop) => stop.tokens));
    const [mine, yours] = outputs.map((side) => String((side.get(req) ?? []).slice(0, until).map((e) => e.data.token_id)));
    if (mine !== yours) continue; // another text, or the other run did not come so far
    const words = `${req} is called back for its text`;
    if (!one || !other) {
      const { step } = one ?? other;
      pairs.push({ step, words: `${words} in step ${step}, in ${one ? "A" : "B"} only` });
    } else if (one.tokens !== other.tokens || one.lag !== other.lag) {
      const each = [["A", one], ["B", other]].map(
        ([name, stop]) => `after ${count(stop.tokens, "token")} in ${name}, in step ${stop.step}`,
      );
      pairs.push({ step: Math.min(one.step, other.step), words: `${words} ${each.join("; ")}` });
    }
  }
  return pairs;
}

function outputsOf(trace) {
  const outputs = new Map();
  for (const event of trace.events) {
    if (event.kind !== "req.token") continue;
    const list = outputs.get(event.req);
    if (list) list.push(event);
    else outputs.set(event.req, [event]);
  }
  return outputs;
}

// Request → {step, tokens it had said, lag: steps since the last of them}.
function stops(trace, outputs) {
  const found = new Map();
  for (const { kind, req, step, data } of trace.events) {
    if (kind !== "req.finish" || data.why !== "stop_string") continue;
    const mine = outputs.get(req) ?? [];
    found.set(req, { step, tokens: mine.length, lag: mine.length ? step - mine.at(-1).step : 0 });
  }
  return found;
}

// --- where a trace tells no more ---------------------------------------------------------------

// The last whole step of a trace whose run had not ended there, and that in words; else null.
export function breaksOff(trace) {
  const events = trace.eventsOf(trace.lastStep);
  const kinds = new Set(events.map((event) => event.kind));
  const torn = kinds.has("step.begin") && !kinds.has("step.end");
  const ended = new Set(trace.events.filter((event) => event.kind === "req.finish").map((event) => event.req));
  const still = [...arrivals(trace).keys()].filter((req) => !ended.has(req));
  if (!torn && !still.length) return null;
  const step = torn ? trace.lastStep - 1 : trace.lastStep;
  const died = events.find((event) => event.kind === "run.error" && event.phase !== "execute");
  if (died) return { step, words: `tells of no step after ${step}: its engine failed (${died.data.error})` };
  const whose = still.length ? `, with ${join(still)} not at an end` : "";
  return { step, words: `tells of no step after ${step}${whose}: it was cut, or its engine was stopped` };
}
