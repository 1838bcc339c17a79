// The ledger's account of a difference: which steps, which limits, which requests. Every account is
// parts that add up to B − A; what cannot be split so is left out.
//
// A part: {label, a, b, steps: [of A, of B]}; and of a request, its own parts.

import { measure } from "#core/metrics.js";
import { timelineOf } from "#core/timeline.js";

const DID = { p: "runs its prompt", c: "runs its prompt", h: "runs its prompt", R: "runs again what it lost", d: "decodes", "!": "is preempted" };

// What a request did in a step, so that steps can be counted by it.
function condition({ did, reason, again }) {
  if (did === "w") return reason ? `waits: ${reason}` : "waits";
  if (did === "–") return reason ? `runs nothing: ${reason}` : "runs nothing";
  return again && "pch".includes(did) ? DID.R : DID[did];
}

// Row label of sidebyside.js → account, for two traces.
export function accounts(a, b) {
  const sides = [a, b].map((trace) => ({ trace, metrics: measure(trace), timeline: timelineOf(trace.store) }));
  const [first, second] = sides.map((side) => side.metrics);
  const found = new Map();
  const put = (label, account) => {
    if (account?.parts.length) found.set(label, account);
  };
  put("steps", { unit: "steps", parts: limits(sides) });
  put("output tokens", { unit: "tokens", parts: counts(sides, ({ kind, req }) => (kind === "req.token" ? [[req, 1]] : [])) });
  put("tokens run", { unit: "tokens", parts: counts(sides, granted) });
  put("tokens reused", { unit: "tokens", parts: counts(sides, ({ kind, req, data }) => (kind === "req.admit" || kind === "req.resume" ? [[req, data.hit]] : [])) });
  put("tokens run again after preemption", { unit: "tokens", parts: ofRequests(sides, (r) => r.again) });
  put("prefix hits", { unit: "hits", parts: counts(sides, ({ kind, req, data }) => ((kind === "req.admit" || kind === "req.resume") && data.hit > 0 ? [[req, 1]] : [])) });
  put("preemptions", { unit: "times", parts: counts(sides, ({ kind, req }) => (kind === "sched.victim" ? [[req, 1]] : [])) });
  put("TTFT mean, steps", spans(sides, (r) => (r.firstToken === null ? null : [r.arrived, r.firstToken])));
  for (const [name, field, unit] of [["TTFT", "ttft", "steps"], ["TPOT", "tpot", "steps"], ["longest gap", "gap", "steps"], ["queue", "queue", "steps"]]) {
    for (const rank of ["p50", "p95"]) put(`${name} ${rank}, ${unit}`, ranked(sides, field, rank));
  }
  for (const reason of new Set([...first.unusedBecause.keys(), ...second.unusedBecause.keys()])) {
    put(`unused: ${reason}`, { unit: "tokens", parts: unused(sides, reason) });
  }
  return found;
}

const differs = (part) => part.a !== part.b;

// --- by step -----------------------------------------------------------------------------------

// Steps by what limited their batch.
function limits(sides) {
  const parts = new Map();
  sides.forEach(({ timeline, trace }, at) => {
    for (const { step, limit } of timeline.steps) add(parts, limit, at, 1, step);
    for (const { kind, step } of trace.events) {
      if (kind === "step.begin" && step > timeline.lastStep) add(parts, "not whole", at, 1, step);
    }
  });
  return [...parts.values()].filter(differs);
}

// The budget that a reason left over: which steps.
function unused(sides, reason) {
  const parts = new Map();
  sides.forEach(({ trace }, at) => {
    for (const { kind, step, data } of trace.events) {
      if (kind === "sched.ledger" && data.unused_reason === reason) add(parts, reason, at, data.budget - data.used, step);
    }
  });
  return [...parts.values()].filter(differs);
}

// --- by request --------------------------------------------------------------------------------

// Sums over events: `pick(event)` → [[request, amount], …].
function counts(sides, pick) {
  const parts = new Map();
  sides.forEach(({ trace }, at) => {
    for (const event of trace.events) {
      for (const [req, n] of pick(event)) if (n) add(parts, req, at, n, event.step);
    }
  });
  return [...parts.values()].map((part) => ({ ...part, req: part.label })).filter(differs);
}

const granted = ({ kind, data }) => (kind === "sched.ledger" ? data.rows.map((row) => [row.req, row.granted]) : []);

function ofRequests(sides, get) {
  const parts = new Map();
  sides.forEach(({ metrics }, at) => {
    for (const [req, r] of metrics.byRequest) if (get(r)) add(parts, req, at, get(r), null);
  });
  return [...parts.values()].map((part) => ({ ...part, req: part.label })).filter(differs);
}

function add(parts, label, at, n, step) {
  const part = parts.get(label) ?? { label, a: 0, b: 0, steps: [[], []] };
  part[at ? "b" : "a"] += n;
  if (step !== null) part.steps[at].push(step);
  parts.set(label, part);
}

// A time in steps, of each request both runs have: split by what it did in each of them.
function spans(sides, ends) {
  const [ours, theirs] = sides.map(({ metrics }) => metrics.byRequest);
  if (ours.size !== theirs.size || [...ours.keys()].some((req) => !theirs.has(req))) return null;
  const parts = [];
  const same = [];
  for (const req of ours.keys()) {
    const [first, second] = [ours, theirs].map((side) => ends(side.get(req)));
    if (!first || !second) return null;
    const part = { label: req, req, ...split(sides, [req, req], [first, second]) };
    if (differs(part)) parts.push(part);
    else same.push(req);
  }
  return { unit: "steps", parts: parts.sort((x, y) => Math.abs(y.b - y.a) - Math.abs(x.b - x.a)), same, over: ours.size };
}

// Steps from…to of a request on each side, counted by what it did in them.
function split(sides, reqs, ends) {
  const parts = new Map();
  sides.forEach(({ timeline }, at) => {
    if (!ends[at]) return;
    for (let step = ends[at][0]; step <= ends[at][1]; step += 1) {
      const cell = timeline.cell(reqs[at], step);
      add(parts, cell ? condition(cell) : "not in this trace", at, 1, step);
    }
  });
  const length = (at) => (ends[at] ? ends[at][1] - ends[at][0] + 1 : 0);
  return { a: length(0), b: length(1), parts: [...parts.values()].filter(differs) };
}

// A percentile is the value of some request: whose, and what it did in that time.
const ENDS = {
  ttft: (r) => [r.arrived, r.firstToken],
  tpot: (r) => [r.firstToken + 1, r.lastToken],
  gap: (r) => [r.gapFrom + 1, r.gapFrom + r.gap],
  queue: (r) => (r.queue ? [r.arrived, r.admitted - 1] : null),
};

function ranked(sides, field, rank) {
  const values = sides.map(({ metrics }) => metrics[field]?.[rank] ?? null);
  if (values.includes(null) || values[0] === values[1]) return null;
  const whose = sides.map(({ metrics }, at) =>
    [...metrics.byRequest.values()].filter((r) => r[field] === values[at]).map((r) => r.req),
  );
  // The same request on both sides where one has both values.
  const shared = whose[0].find((req) => whose[1].includes(req));
  const reqs = [shared ?? whose[0][0], shared ?? whose[1][0]];
  const ends = sides.map(({ metrics }, at) => ENDS[field](metrics.byRequest.get(reqs[at])));
  const outputs = sides.map(({ metrics }, at) => metrics.byRequest.get(reqs[at]).outputTokens);
  return { unit: "steps", whose, reqs, per: field === "tpot" ? outputs.map((n) => n - 1) : null, ...split(sides, reqs, ends) };
}
