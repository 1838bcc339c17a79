// Where two runs first decide otherwise, and what may have made it. Twin of minivllm/trace/diff.py,
// held to it by tests/data/compare.json. Steps are laid side by side by their numbers; what differs
// by nature (blocks, with another pool) is listed and not counted. A cause is told by an event, or
// it is left out.

import { BATCH, decisions } from "#core/decisions.js";
import { arrivals, breaksOff, inputPairs } from "#core/inputs.js";
import { knobValue, quoted } from "#core/phrases.js";
import { story } from "#core/story.js";

const NOTHING = "nothing";

// {steps, notComparable, first, knobs, inputs, token, byNature, cause, same}
export function compare(a, b) {
  const result = {
    steps: [a.lastStep, b.lastStep],
    notComparable: whyNot(a, b),
    first: null, // {step, others: [{req, a, b}], a: {headline}, b: {headline}}
    knobs: [], // {name, step, a, b, words}
    inputs: [], // {step, words}
    token: null, // {step, req, index, a, b}
    byNature: {}, // kind → [only in A, only in B], up to the divergence
    cause: [],
    same: false,
  };
  if (result.notComparable) return result;
  result.knobs = knobPairs(a, b);
  result.inputs = inputPairs(a, b);
  const step = firstOtherStep(a, b);
  result.token = firstOtherToken(a, b);
  if (step !== null) result.first = divergence(a, b, step);
  result.byNature = byNature(a, b, step);
  result.cause = causes(result, a, b);
  result.same = !(result.first || result.inputs.length || result.token);
  return result;
}

// --- the step at which they part ---------------------------------------------------------------

function firstOtherStep(a, b) {
  for (let step = 1; step <= Math.max(a.lastStep, b.lastStep); step += 1) {
    const [ours, theirs] = [decisions(a.eventsOf(step)), decisions(b.eventsOf(step))];
    if (ours.size !== theirs.size || [...ours].some(([req, words]) => theirs.get(req) !== words)) return step;
  }
  return null;
}

function divergence(a, b, step) {
  const [ours, theirs] = [decisions(a.eventsOf(step)), decisions(b.eventsOf(step))];
  const others = [...new Set([...ours.keys(), ...theirs.keys()])]
    .filter((req) => ours.get(req) !== theirs.get(req))
    .map((req) => ({ req: req === BATCH ? null : req, a: ours.get(req) ?? NOTHING, b: theirs.get(req) ?? NOTHING }));
  const requests = others.filter((other) => other.req !== null);
  const shown = requests.length ? requests : others; // the batch's order only where nothing else tells it
  return { step, others: shown, a: side(a, step), b: side(b, step) };
}

function side(trace, step) {
  const events = trace.eventsOf(step);
  if (!events.length) return { headline: `This run has no step ${step}: it ended after ${trace.lastStep}.` };
  return { headline: story(trace.stateBefore(step), events).headline };
}

// --- what may have made it ---------------------------------------------------------------------

function whyNot(a, b) {
  for (const [trace, name] of [[a, "A"], [b, "B"]]) {
    if (!trace.lastStep) return `${name} has no step`;
    if (!trace.events.some((event) => event.kind === "run.config")) {
      return `the beginning of ${name} was cut off, so its steps cannot be laid beside others`;
    }
  }
  if (Boolean(a.header.redacted) !== Boolean(b.header.redacted)) {
    return (
      `${a.header.redacted ? "A" : "B"} was redacted, so whether its prompts are the other's cannot be seen; ` +
      "record both with redaction, or both without"
    );
  }
  const [ours, theirs] = [arrivals(a), arrivals(b)];
  const common = [...ours.keys()].filter((req) => theirs.has(req));
  if (!common.length) return "the workloads differ: the runs share no request";
  const prompt = (side, req) => String(side.get(req).data.prompt_token_ids);
  const other = common.find((req) => prompt(ours, req) !== prompt(theirs, req));
  return other === undefined ? null : `the workloads differ: ${other} has another prompt in B`;
}

function knobPairs(a, b) {
  const sides = [a, b].map((trace) => {
    const values = [];
    for (const { kind, step, data } of trace.events) {
      if (kind === "run.config") for (const [name, value] of Object.entries(data)) values.push({ name, step: 0, value });
      else if (kind === "run.knob") values.push({ name: data.name, step, value: data.value });
    }
    return values;
  });
  // In force at a step: its latest change up to there; of two in one step the later word.
  const inForce = (values, name, step) =>
    values.filter((item) => item.name === name && item.step <= step)
      .reduce((best, item) => (best && best.step > item.step ? best : item), null)?.value;
  const changes = new Map([...sides[0], ...sides[1]].map(({ name, step }) => [`${step} ${name}`, { name, step }]));
  return [...changes.values()]
    .sort((x, y) => x.step - y.step)
    .map(({ name, step }) => ({ name, step, a: inForce(sides[0], name, step), b: inForce(sides[1], name, step) }))
    .filter((pair) => pair.a !== pair.b)
    .map((pair) => ({ ...pair, words: knobWords(pair) }));
}

const knobWords = ({ name, step, a, b }) =>
  `${name} is ${knobValue(a)} in A and ${knobValue(b)} in B${step ? ` from step ${step} on` : ""}`;

// By request and place; when it was said does not matter, nor how far each came.
function firstOtherToken(a, b) {
  const tokens = (trace) =>
    new Map(trace.events.filter((event) => event.kind === "req.token").map((event) => [`${event.req} ${event.data.index}`, event]));
  const theirs = tokens(b);
  let first = null;
  for (const [key, one] of tokens(a)) {
    const other = theirs.get(key);
    if (!other || other.data.token_id === one.data.token_id) continue;
    const step = Math.min(one.step, other.step);
    if (first && first.step <= step) continue;
    first = { step, req: one.req, index: one.data.index, a: one.data.text, b: other.data.text };
  }
  return first;
}

// Events before the divergence that only one of the two has.
function byNature(a, b, until) {
  const counts = [a, b].map((trace) => {
    const found = new Map(); // an event without times → {kind, n}
    for (const event of trace.events) {
      if (!/^(kv|sched|batch)\./.test(event.kind) || (until !== null && event.step >= until)) continue;
      const key = JSON.stringify([event.step, event.kind, event.req, event.data], (name, value) =>
        name === "ns" || name.endsWith("_ns") ? undefined : value,
      );
      const known = found.get(key);
      if (known) known.n += 1;
      else found.set(key, { kind: event.kind, n: 1 });
    }
    return found;
  });
  const only = {};
  counts.forEach((mine, at) => {
    for (const [key, { kind, n }] of mine) {
      const more = n - (counts[1 - at].get(key)?.n ?? 0);
      if (more > 0) (only[kind] ??= [0, 0])[at] += more;
    }
  });
  return Object.fromEntries(Object.entries(only).sort(([x], [y]) => (x < y ? -1 : 1)));
}

function causes(result, a, b) {
  const { first, token } = result;
  if (!first) return [];
  for (const [name, trace] of [["A", a], ["B", b]]) {
    const end = breaksOff(trace);
    if (end && end.step < first.step) return [`${name} ${end.words}`];
  }
  const cause = [...result.knobs, ...result.inputs].filter((pair) => pair.step <= first.step).map((pair) => pair.words);
  if (token && token.step <= first.step) {
    cause.push(
      `${token.req} says ${quoted(token.a)} in A and ${quoted(token.b)} in B as its output token ` +
        `${token.index + 1}, in step ${token.step}`,
    );
  }
  if (cause.length) return cause;
  return a.header.redacted
    ? ["knobs and inputs are the same up to there; what was said is redacted in both, so another token would not be seen"]
    : ["knobs, inputs and tokens are the same up to there: the code decided otherwise, or the machine failed in one of the runs"];
}
