// What happened in one step, gathered from its events in one pass: grants, arrivals, victims,
// marks on blocks. The state says how things stand; these say what just changed. Works on the
// first part of a step's events, too, for the walk event by event.

export const MARKS = {
  "+": "taken",
  "↺": "hit",
  "✕": "evicted",
  "−": "given back",
  "!": "preempted",
  "✓": "finished",
  "⊘": "failed",
};

export function stepFacts(events) {
  const facts = {
    begin: null,
    ledger: null,
    grants: [], // {req, n, start, why}, in the order they were granted
    arrived: [],
    admitted: new Map(), // req → {hit, tokens, resumed}
    preempted: new Map(), // req → {for, need, have, candidates, tokens_lost, …}
    finished: new Map(), // req → data of req.finish
    tokens: new Map(), // req → data of its last req.token
    accepted: new Map(), // req → data of spec.accept
    skipped: new Map(), // req → data of sched.skip
    hits: new Map(), // req → data of kv.hit
    stop: null,
    marks: new Map(), // block → [{mark, req, kind, …}]
    hashed: new Set(), // blocks that were registered in this step
    errors: [],
    violations: [],
    input: false, // something came in from outside
    executed: false,
  };
  let victim = null;
  for (const event of events) {
    const see = SEE[event.kind];
    if (see) victim = see(facts, event.data, event.req, victim) ?? victim;
  }
  return facts;
}

function mark(facts, block, sign, req, more = {}) {
  const list = facts.marks.get(block) ?? [];
  list.push({ mark: sign, req, ...more });
  facts.marks.set(block, list);
}

const SEE = {
  "core.input": (facts) => void (facts.input = true),
  "req.arrive": (facts, _data, req) => void facts.arrived.push(req),
  "step.begin": (facts, data) => void (facts.begin = data),
  "sched.grant": (facts, data, req) => void facts.grants.push({ req, ...data }),
  "sched.refund": (facts, _data, req) =>
    void (facts.grants = facts.grants.filter((grant) => grant.req !== req)),
  "req.admit": (facts, data, req) => void facts.admitted.set(req, { ...data, resumed: false }),
  "req.resume": (facts, data, req) => void facts.admitted.set(req, { ...data, resumed: true }),
  "sched.victim": (_facts, data) => data,
  "req.preempt": (facts, data, req, victim) =>
    void facts.preempted.set(req, { ...victim, ...data }),
  "req.finish": (facts, data, req) => void facts.finished.set(req, data),
  "req.token": (facts, data, req) => void facts.tokens.set(req, data),
  "spec.accept": (facts, data, req) => void facts.accepted.set(req, data),
  "sched.skip": (facts, data, req) => void facts.skipped.set(req, data),
  "sched.stop": (facts, data) => void (facts.stop = data),
  "sched.ledger": (facts, data) => void (facts.ledger = data),
  "kv.hit": (facts, data, req) => void facts.hits.set(req, data),
  "kv.touch": (facts, data, req) => mark(facts, data.block, "↺", req),
  "kv.evict": (facts, data, req) =>
    mark(facts, data.block, "✕", req, { hash: data.hash, left_by: data.left_by }),
  "kv.reserve": (facts, data, req) => data.blocks.forEach((id) => mark(facts, id, "+", req)),
  "kv.alloc": (facts, data, req) => data.blocks.forEach((id) => mark(facts, id, "+", req)),
  "kv.free": (facts, data, req) =>
    [...data.front, ...data.back].forEach((id) => mark(facts, id, "−", req)),
  "kv.cache": (facts, data) => void facts.hashed.add(data.block),
  "kv.uncache": (facts, data) => void facts.hashed.delete(data.block),
  "exec.forward": (facts) => void (facts.executed = true),
  "req.error": (facts, data, req) => void facts.errors.push({ req, message: data.message }),
  "run.error": (facts, data) => void facts.errors.push({ req: null, message: data.message }),
  "trace.violation": (facts, data) => void facts.violations.push(data.message),
};

// One line of the scrubber: the budget used, and the marks that stand above it.
export function summarise(facts, step) {
  const count = (sign) => {
    let n = 0;
    for (const list of facts.marks.values()) n += list.filter((m) => m.mark === sign).length;
    return n;
  };
  return {
    step,
    used: facts.ledger?.used ?? 0,
    budget: facts.ledger?.budget ?? 0,
    hits: count("↺"),
    evictions: count("✕"),
    preemptions: facts.preempted.size,
    finishes: facts.finished.size,
    failures: [...facts.finished.values()].filter((end) => end.reason === "error").length,
    idleWhileWaiting: Boolean(facts.stop && facts.ledger && facts.ledger.used < facts.ledger.budget),
    violations: facts.violations.length,
  };
}

// The one mark that stands above the bar of these summaries: the rarest that happened.
export function strongest(group) {
  const any = (field) => group.some((summary) => summary[field]);
  if (any("failures")) return "⊘";
  if (any("preemptions")) return "!";
  if (any("evictions")) return "✕";
  if (any("hits")) return "↺";
  return any("finishes") ? "✓" : "";
}
