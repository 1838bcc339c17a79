// The life of a request in steps: the stair (how much of it was computed after each step, where, and
// why not more), its tokens, and where its steps went. Pure: a store in, plain objects out.
//
// One column for each step from its arrival to its end:
//
//     {step, ran, start, hit, computed, before, reused, known, table, band, wait, victim, mark, end_ns}
//
// and one band for each stretch of columns that pass in the same way: wait · prefill · decode ·
// preempted · resume · idle (it runs, and was granted nothing). A step belongs to one band, so that
// the bands' sum is its life. TTFT counts both ends, as metrics.py does.

const AGAIN = ["prefill", "chunk", "last_chunk", "resume"]; // what is no decode, of GrantWhy

// One request's life, or null if this store does not know it.
export function lifeOf(store, req) {
  return livesIn(store, req).get(req) ?? null;
}

// Of all requests (or of one), in one pass over the events that are here.
export function livesIn(store, only = null) {
  const lives = new Map();
  if (!store?.config) return lives;
  const open = new Map();
  const add = (req, life) => {
    lives.set(req, life);
    open.set(req, life);
  };
  if (store.firstStep > 0) {
    for (const [req, r] of Object.entries(store.stateAfter(store.firstStep).requests)) {
      if ((only === null || only === req) && r.status !== "finished") add(req, lifeFromState(req, r));
    }
  }
  const take = (event) => {
    if (event.kind === "req.arrive" && (only === null || only === event.req)) add(event.req, newLife(event));
    if (event.req !== null && event.req !== undefined) {
      const life = open.get(event.req);
      if (life) OWN[event.kind]?.(life, event.data, event);
    } else SHARED[event.kind]?.(open, event.data, event);
  };
  for (const [step, { events }] of store.steps) {
    for (const event of events) take(event);
    const end = events.at(-1);
    if (end?.kind !== "step.end") continue;
    for (const [req, life] of open) {
      closeStep(life, step, end);
      if (life.ended !== null) open.delete(req);
    }
  }
  for (const event of store.pending) if (event.kind === "req.arrive" || event.kind === "req.enqueue") take(event);
  for (const life of lives.values()) finish(life, store.config.block_size);
  return lives;
}

const emptyNow = () => ({ ran: 0, start: null, hit: 0, wait: null, victim: null, freed: false });

function newLife({ req, step, t_ns, data }) {
  return {
    req,
    requestId: data.request_id,
    parent: data.parent ?? null,
    arrived: step,
    arrived_ns: t_ns,
    admitted_ns: null,
    cut: false, // its beginning is not here
    numPrompt: data.prompt_token_ids.length,
    maxTokens: data.max_tokens,
    tokens: data.texts.map((text) => ({ text, output: false, sampled: null, ran: [], hits: [] })),
    columns: [],
    table: [],
    blocksTaken: 0,
    blocksHit: 0,
    computed: 0,
    status: "waiting",
    again: false, // it is on its way back to where it had been
    preemptions: 0,
    reused: 0, // of what is computed now, tokens that it took over from the cache
    firstToken: null,
    lastToken: null,
    finish: null, // data of req.finish
    ended: null,
    now: emptyNow(),
  };
}

function lifeFromState(req, r) {
  const data = { request_id: r.request_id, parent: r.parent, prompt_token_ids: r.tokens, texts: r.texts, max_tokens: r.max_tokens };
  const life = newLife({ req, step: r.arrived_step, t_ns: null, data });
  life.tokens.forEach((token, i) => (token.output = i >= r.num_prompt_tokens));
  return Object.assign(life, {
    cut: true,
    numPrompt: r.num_prompt_tokens,
    table: r.table.slice(),
    computed: r.num_computed_tokens,
    reused: Math.min(r.num_cached_tokens, r.num_computed_tokens),
    status: r.status === "running" || r.status === "preempted" ? r.status : "waiting",
    preemptions: r.num_preemptions,
    firstToken: r.first_token_step,
  });
}

function admit(life, { hit }, { step }) {
  Object.assign(life, { status: "running", computed: hit, reused: hit });
  life.now.hit = hit;
  for (const token of life.tokens.slice(0, hit)) token.hits.push(step);
}

const OWN = {
  "req.admit"(life, data, event) {
    admit(life, data, event);
    life.admitted_ns ??= event.t_ns;
  },
  "req.resume"(life, data, event) {
    admit(life, data, event);
    life.again = true;
  },
  "sched.grant"(life, { start, why }) {
    Object.assign(life.now, { start, why });
  },
  "sched.skip": (life, data) => void (life.now.wait = { behind: null, ...data }),
  "sched.victim": (life, data) => void (life.now.victim = data),
  "req.preempt"(life, data) {
    Object.assign(life, { status: "preempted", computed: 0, reused: 0, preemptions: life.preemptions + 1 });
    life.now.victim = { ...life.now.victim, ...data };
  },
  "kv.touch"(life, { block }) {
    life.table.push(block);
    life.blocksHit += 1;
  },
  "kv.alloc"(life, { blocks }) {
    life.table.push(...blocks);
    life.blocksTaken += blocks.length;
  },
  "kv.reserve"(life, { blocks }) {
    life.table = blocks.slice();
    life.blocksTaken += blocks.length;
  },
  "kv.free": (life) => void (life.now.freed = true),
  "spec.reject": (life, { n }) => void (life.computed -= n),
  "req.token"(life, { text, token_id: id }, { step }) {
    life.tokens.push({ text, id, output: true, sampled: step, ran: [], hits: [] });
    life.firstToken ??= step;
    life.lastToken = step;
  },
  "req.finish"(life, data, { step, t_ns }) {
    Object.assign(life, { finish: data, ended: step, ended_ns: t_ns, status: "finished" });
  },
};

// Events of the whole step that concern several: `open` holds those who live.
const SHARED = {
  "sched.ledger"(open, { rows }, { step }) {
    for (const { req, granted } of rows) {
      const life = granted ? open.get(req) : null;
      if (!life) continue;
      life.now.ran = granted;
      const from = life.now.start ?? life.computed;
      for (const token of life.tokens.slice(from, from + granted)) token.ran.push(step);
      life.computed += granted;
    }
  },
  "sched.stop"(open, { reason, head, behind }) {
    for (const req of [head, ...behind]) {
      const life = open.get(req);
      if (life) life.now.wait ??= { reason, need: 0, have: 0, hit: 0, behind: req === head ? null : head };
    }
  },
  sample(open, { rows }) {
    for (const row of rows) {
      const life = open.get(row.req);
      if (life) (life.sampled ??= []).push(row);
    }
  },
};

function closeStep(life, step, { t_ns }) {
  const { now } = life;
  if (now.freed && life.ended === null) life.table = [];
  const before = life.columns.at(-1)?.computed ?? (life.cut ? life.computed - now.ran : 0);
  const band = bandOf(life);
  if (band === "decode") life.again = false;
  life.columns.push({
    step,
    ran: now.ran,
    start: now.start,
    hit: now.hit,
    before: now.hit ? now.hit : Math.min(before, life.computed),
    computed: life.computed,
    reused: life.reused,
    known: life.tokens.length,
    table: life.table.slice(),
    band,
    wait: now.wait,
    victim: now.victim,
    mark: life.ended !== null ? (life.finish.reason === "error" ? "⊘" : "✓") : now.victim ? "!" : "",
    end_ns: t_ns,
  });
  const rows = life.sampled ?? [];
  rows.forEach((row, i) => (life.tokens[life.tokens.length - rows.length + i].row = row));
  life.sampled = null;
  life.now = emptyNow();
}

function bandOf({ now, again, status, preemptions }) {
  if (now.ran) return !AGAIN.includes(now.why) ? "decode" : again ? "resume" : "prefill";
  if (status === "preempted") return "preempted";
  if (status === "running") return "idle";
  return preemptions ? "preempted" : "wait";
}

function finish(life, size) {
  life.blocks = blocksOf(life.columns);
  life.bands = bandsOf(life);
  life.waited = waitedOf(life.columns);
  life.size = size;
  life.steps = life.cut ? (life.columns.at(-1)?.step ?? life.arrived) - life.arrived + 1 : life.columns.length;
  life.outputs = life.tokens.length - life.numPrompt;
  life.ttft = life.firstToken === null ? null : life.firstToken - life.arrived + 1;
  const many = life.outputs > 1 && life.lastToken !== null && life.firstToken !== null;
  life.tpot = many ? (life.lastToken - life.firstToken) / (life.outputs - 1) : null;
}

// Which physical block each logical one was, and from which step to which: [[{block, from, to}], …].
function blocksOf(columns) {
  const rows = [];
  for (const { step, table } of columns) {
    table.forEach((block, logical) => {
      const periods = (rows[logical] ??= []);
      const last = periods.at(-1);
      if (last?.block === block && last.to === step - 1) last.to = step;
      else periods.push({ block, from: step, to: step });
    });
  }
  return rows;
}

function bandsOf({ columns, arrived_ns: arrived }) {
  const bands = [];
  let since = arrived;
  for (const { step, band, end_ns: end } of columns) {
    const last = bands.at(-1);
    const ns = since === null ? 0 : end - since;
    since = end;
    if (last?.band === band) Object.assign(last, { to: step, steps: last.steps + 1, ns: last.ns + ns });
    else bands.push({ band, from: step, to: step, steps: 1, ns });
  }
  return bands;
}

// Reason → whole steps in which it did not run.
function waitedOf(columns) {
  const waited = {};
  for (const { ran, wait, victim } of columns) {
    if (ran) continue;
    const reason = wait?.reason ?? (victim ? "preempted" : "not_told");
    waited[reason] = (waited[reason] ?? 0) + 1;
  }
  return waited;
}

// Why it did not run in this step, in as few characters as fit under a column.
export function whyNot({ ran, wait, victim }) {
  if (ran) return "";
  if (victim) return `for ${victim.for}`;
  if (!wait) return "";
  if (wait.behind) return `after ${wait.behind}`;
  switch (wait.reason) {
    case "no_free_blocks":
    case "fragmented":
    case "chunking_off":
      return `${wait.need}>${wait.have}`;
    case "no_budget":
      return "budget";
    case "max_num_seqs":
      return `${wait.need || ""} run`.trim();
    case "static_batch":
      return "batch";
    case "waiting_for_grammar":
      return "grammar";
    default:
      return wait.reason.replaceAll("_", " ");
  }
}

// Columns that may be folded into one: a long run of steps that pass alike. Answers what is drawn:
// {column} or {from, to, count, first, last, band, why}.
export function foldColumns(columns, least = 8) {
  const shown = [];
  for (let i = 0; i < columns.length; ) {
    let end = i;
    while (end < columns.length && alike(columns[i], columns[end])) end += 1;
    if (end - i < least + 2) {
      shown.push(...columns.slice(i, Math.max(end, i + 1)).map((column) => ({ column })));
      i = Math.max(end, i + 1);
      continue;
    }
    const inner = columns.slice(i + 1, end - 1); // the first and the last stay, to tell where it goes
    const [first, last] = [inner[0], inner.at(-1)];
    shown.push({ column: columns[i] });
    const same = inner.every((column) => whyNot(column) === whyNot(first));
    const why = same ? whyNot(first) : "behind others";
    shown.push({ from: first.step, to: last.step, count: inner.length, first, last, band: first.band, why });
    shown.push({ column: columns[end - 1] });
    i = end;
  }
  return shown;
}

function alike(a, b) {
  if (b.mark || b.hit || a.mark || a.hit) return false;
  if (a.ran || b.ran) return a.band === "decode" && b.band === "decode" && a.ran === b.ran;
  const why = (column) => (column.wait?.behind ? "behind" : whyNot(column));
  return a.band === b.band && why(a) === why(b);
}

// --- what the front end told of its text -----------------------------------------------------------

// Which of its output tokens begin a piece of the answer, and how long the detokeniser kept each
// back: {chunks: [index of the first token of each], held: Map index → index of the token that let it go, or null}.
export function textOf(life, frontEvents) {
  const ids = new Set([life.requestId, life.parent ? life.requestId : `0_${life.requestId}`]);
  const words = life.tokens.slice(life.numPrompt).map(({ text }) => text);
  const [chunks, held] = [[], new Map()];
  let [sent, made, heldNow, pending] = [0, 0, "", []];
  const settle = () => {
    const size = () => pending.reduce((sum, i) => sum + words[i].length, 0);
    while (pending.length && size() - words[pending[0]].length >= heldNow.length) {
      const index = pending.shift();
      if (index < made - 1) held.set(index, made - 1);
    }
  };
  for (const { kind, data } of frontEvents) {
    if (!data || !(ids.has(data.request_id) || (life.parent && data.request_id === life.parent && kind === "http.chunk"))) continue;
    if (kind === "http.chunk" && data.tokens) {
      chunks.push(sent);
      sent += data.tokens;
    } else if (kind === "req.detokenize") {
      settle();
      for (let i = 0; i < data.tokens && made < words.length; i += 1) pending.push(made++);
    } else if (kind === "req.held_back") heldNow = data.text;
    else if (kind === "req.released") heldNow = "";
  }
  settle();
  for (const index of heldNow ? pending : []) held.set(index, null);
  return { chunks: chunks.filter((index) => index < words.length), held };
}
