// Metrics of a run: work, speed, waiting, memory, budget. Twin of minivllm/trace/metrics.py, which
// defines each; a time in steps is exact, milliseconds are there only where a model ran.

import { memoryBySteps } from "#core/kvuse.js";

export function measure(trace) {
  const { events } = trace;
  const of = new Map();
  for (const event of events) {
    const list = of.get(event.kind);
    if (list) list.push(event);
    else of.set(event.kind, [event]);
  }
  const all = (kind) => of.get(kind) ?? [];
  const total = (kind, field) => sum(all(kind).map((event) => event.data[field] ?? 0));
  const requests = byRequest(events);
  const each = (field) => [...requests.values()].map((request) => request[field]);
  const admissions = [...all("req.admit"), ...all("req.resume")];
  const rejects = all("spec.reject").map((event) => event.data);
  const accepted = total("spec.accept", "n");
  const [steps, outputs] = [all("step.begin").length, all("req.token").length];
  const tokensRun = total("sched.ledger", "used");
  const budget = total("sched.ledger", "budget");
  return {
    steps,
    requests: requests.size,
    ended: counted(all("req.finish").map((event) => event.data.reason)),
    outputTokens: outputs,
    outputTokensPerStep: steps ? outputs / steps : 0,
    tokensRun,
    tokensReused: sum(admissions.map((event) => event.data.hit)),
    reusedFirst: sum(each("reusedFirst")),
    again: sum(each("again")),
    needed: sum(each("needed")),
    tokensPadded: total("batch.compose", "padding"),
    prefixHits: admissions.filter((event) => event.data.hit > 0).length,
    draftsRun: accepted + sum(rejects.filter((data) => data.why === "draft_mismatch").map((data) => data.n)),
    draftsAccepted: accepted,
    draftsInVain: sum(rejects.map((data) => data.n)),
    ttft: spread(each("ttft")),
    tpot: spread(each("tpot")),
    gap: spread(each("gap")),
    queue: spread(each("queue")),
    preemptions: all("sched.victim").map(({ req, step, data }) => ({ req, step, for: data.for, lost: data.tokens_lost })),
    budget,
    budgetUse: budget ? tokensRun / budget : 0,
    unusedBecause: unused(all("sched.ledger")),
    memory: memoryOf(memoryBySteps(events, trace.opening)),
    milliseconds: (trace.header.fidelity ?? "live") === "live" ? milliseconds(all, requests) : null,
    byRequest: requests,
  };
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

function counted(values) {
  const counts = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

// Reason → tokens of budget that were left for it, the most first.
function unused(ledgers) {
  const counts = new Map();
  for (const { data } of ledgers) {
    if (data.unused_reason === null) continue;
    counts.set(data.unused_reason, (counts.get(data.unused_reason) ?? 0) + data.budget - data.used);
  }
  return new Map([...counts].sort(([, x], [, y]) => y - x));
}

// Every request whose arrival the trace has. Null: it did not come so far.
export function byRequest(events) {
  const found = new Map();
  const computed = new Map(); // as the fold's num_computed_tokens
  const lost = new Map(); // by preemption, until it is back
  const add = (map, req, n) => map.set(req, (map.get(req) ?? 0) + n);
  for (const { kind, req, step, t_ns: t, data } of events) {
    if (kind === "req.arrive") found.set(req, newRequest(req, step, t));
    else if (kind === "sched.ledger") for (const row of data.rows) add(computed, row.req, row.granted);
    const r = found.get(req);
    if (!r) continue;
    if (kind === "req.admit" || kind === "req.resume") {
      if (r.admitted === null) [r.admitted, r.admittedNs] = [step, t];
      const gone = lost.get(req) ?? 0;
      r.again += Math.max(gone - data.hit, 0);
      r.reusedFirst += Math.max(data.hit - gone, 0);
      computed.set(req, data.hit);
      lost.set(req, 0);
    } else if (kind === "req.preempt") {
      lost.set(req, data.tokens_lost);
      computed.set(req, 0);
    } else if (kind === "spec.reject") add(computed, req, -data.n);
    else if (kind === "req.token") said(r, step, t, data);
  }
  for (const [req, r] of found) {
    r.needed = (computed.get(req) ?? 0) + (lost.get(req) ?? 0);
    r.ttft = r.firstToken === null ? null : r.firstToken - r.arrived + 1;
    r.queue = r.admitted === null ? null : r.admitted - r.arrived;
    r.tpot = r.outputTokens < 2 || r.firstToken === null ? null : (r.lastToken - r.firstToken) / (r.outputTokens - 1);
  }
  return found;
}

const newRequest = (req, arrived, arrivedNs) => ({
  req, arrived, arrivedNs, admitted: null, admittedNs: null, firstToken: null, firstTokenNs: null,
  lastToken: null, lastTokenNs: null, gap: null, gapNs: null, gapFrom: null, outputTokens: 0, reusedFirst: 0, again: 0, needed: 0,
});

function said(r, step, t, data) {
  r.outputTokens += 1;
  if (r.lastToken !== null) {
    if (step - r.lastToken > (r.gap ?? -1)) [r.gap, r.gapFrom] = [step - r.lastToken, r.lastToken];
    r.gapNs = Math.max(r.gapNs ?? 0, t - r.lastTokenNs);
  }
  [r.lastToken, r.lastTokenNs] = [step, t];
  if (data.index === 0) [r.firstToken, r.firstTokenNs] = [step, t];
}

// Nearest rank: always the value of some request. Null if none is there.
export function spread(values) {
  const known = values.filter((value) => value !== null && value !== undefined).sort((x, y) => x - y);
  if (!known.length) return null;
  const rank = (share) => known[Math.max(Math.ceil(share * known.length), 1) - 1];
  return { mean: sum(known) / known.length, p50: rank(0.5), p95: rank(0.95), max: known.at(-1), n: known.length };
}

function memoryOf(steps) {
  const used = steps.filter((step) => step.taken); // an idle pool is nobody's merit
  if (!used.length) return null;
  const share = (tokens) => {
    const shares = used.map((step) => tokens(step) / step.pool);
    return { mean: sum(shares) / shares.length, max: Math.max(...shares) };
  };
  return {
    taken: share((step) => step.taken),
    tokenStates: share((step) => step.tokenStates),
    wasted: share((step) => step.reserved + step.neverUsed),
    scattered: share((step) => step.scattered),
  };
}

function milliseconds(all, requests) {
  const [begun, ended] = [all("step.begin"), all("step.end")];
  if (!begun.length || !ended.length) return null;
  const total = (ended.at(-1).t_ns - begun[0].t_ns) / 1e6;
  const known = [...requests.values()];
  const first = known.filter((r) => r.firstTokenNs !== null && r.lastTokenNs !== null);
  const between = (r) => (r.lastTokenNs - r.firstTokenNs) / 1e6 / (r.outputTokens - 1);
  return {
    total,
    outputTokensPerSecond: total ? (all("req.token").length / total) * 1e3 : 0,
    ttft: spread(first.map((r) => (r.firstTokenNs - r.arrivedNs) / 1e6)),
    tpot: spread(first.filter((r) => r.outputTokens > 1).map(between)),
    gap: spread(known.map((r) => (r.gapNs === null ? null : r.gapNs / 1e6))),
    queue: spread(known.filter((r) => r.admittedNs !== null).map((r) => (r.admittedNs - r.arrivedNs) / 1e6)),
  };
}
