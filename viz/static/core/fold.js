// The fold: the engine's state, made from its events alone. Twin of minivllm/trace/fold.py; the
// vectors in tests/vectors hold both to the same results. The state has the form of to_json there.
//
// Blocks, waits and the lists in `cached` are replaced, never changed in place, so that `clone`
// can share them between snapshots: 10,000 blocks cost one array, not 10,000 objects.

export function newState() {
  return {
    config: null,
    step: 0,
    seq: 0,
    requests: {},
    waiting: [],
    running: [],
    finished: [],
    blocks: [],
    free: [],
    running_when_lowered: 0,
    cached: {},
  };
}

// A copy that `apply` may change while the original stays as it is.
export function clone(state) {
  const requests = {};
  for (const name in state.requests) {
    const r = state.requests[name];
    // Nothing happens to a finished request any more: its record is shared.
    requests[name] =
      r.status === "finished"
        ? r
        : { ...r, tokens: r.tokens.slice(), texts: r.texts.slice(), table: r.table.slice() };
  }
  return {
    ...state,
    requests,
    waiting: state.waiting.slice(),
    running: state.running.slice(),
    finished: state.finished.slice(),
    blocks: state.blocks.slice(),
    free: state.free.slice(),
    cached: { ...state.cached },
  };
}

export function fold(events, state = newState()) {
  for (const event of events) apply(state, event);
  return state;
}

// Change `state` by one event. A kind that is not known here changes nothing.
export function apply(state, event) {
  if (event.stream === "api") return;
  state.seq = event.seq;
  const handler = HANDLERS[event.kind];
  if (handler) handler(state, event.data, event);
}

function remove(list, item) {
  const at = list.indexOf(item);
  if (at < 0) throw new Error(`${item} is not in the list it should leave`);
  list.splice(at, 1);
}

function change(state, id, fields) {
  state.blocks[id] = { ...state.blocks[id], ...fields };
}

function forget(state, id) {
  const hash = state.blocks[id].hash;
  if (hash === null) return;
  const twins = state.cached[hash].filter((other) => other !== id);
  if (twins.length) state.cached[hash] = twins;
  else delete state.cached[hash];
  change(state, id, { hash: null });
}

function wait(reason, need, have, hit, behind) {
  return { reason, need, have, hit, behind };
}

function admit(state, data, { req }) {
  const r = state.requests[req];
  remove(state.waiting, req);
  state.running.push(req);
  r.status = "running";
  r.num_computed_tokens = r.num_cached_tokens = data.hit;
  r.wait = null;
}

function evict(state, data) {
  forget(state, data.block);
}

function become(state, other, { seq }) {
  Object.assign(state, newState(), other, { seq });
}

const HANDLERS = {
  "run.start"(state, _data, event) {
    become(state, {}, event);
  },

  // A copy of its own: the event stays as it was told.
  "run.snapshot"(state, data, event) {
    become(state, data.state ? clone(data.state) : {}, event);
  },

  "run.config"(state, data) {
    state.config = data;
    state.blocks = Array.from({ length: data.num_kv_blocks }, () => ({
      ref: 0,
      hash: null,
      held: null,
    }));
    change(state, 0, { ref: 1 }); // the null block
    state.free = Array.from({ length: data.num_kv_blocks - 1 }, (_, i) => i + 1);
  },

  "run.knob"(state, data) {
    state.config = { ...state.config, [data.name]: data.value };
    // Nobody is sent back when fewer may run.
    if (data.name === "max_num_seqs") state.running_when_lowered = state.running.length;
    if (data.waiting) state.waiting = data.waiting.slice();
  },

  "step.begin"(state, _data, event) {
    state.step = event.step;
  },

  "req.arrive"(state, data, { req, step }) {
    state.requests[req] = {
      request_id: data.request_id,
      parent: data.parent ?? null,
      priority: data.priority ?? 0,
      status: "arrived",
      num_prompt_tokens: data.prompt_token_ids.length,
      max_tokens: data.max_tokens,
      tokens: data.prompt_token_ids.slice(),
      texts: data.texts.slice(),
      arrived_step: step,
      num_computed_tokens: 0,
      table: [],
      drafts: [],
      num_cached_tokens: 0,
      num_preemptions: 0,
      wait: null,
      first_token_step: null,
      finished_step: null,
      finish_reason: null,
    };
  },

  "req.enqueue"(state, data, { req }) {
    state.waiting.splice(data.position, 0, req);
    state.requests[req].status = "waiting";
  },

  "req.grammar_wait"(state, _data, { req }) {
    state.requests[req].status = "waiting_for_grammar";
  },

  "req.grammar_ready"(state, _data, { req }) {
    const r = state.requests[req];
    r.status = "waiting";
    r.wait = null;
  },

  "req.admit": admit,
  "req.resume": admit,

  "req.preempt"(state, data, { req }) {
    const r = state.requests[req];
    remove(state.running, req);
    state.waiting.splice(data.position, 0, req);
    r.status = "preempted";
    r.num_computed_tokens = 0;
    r.drafts = [];
    r.num_preemptions += 1;
  },

  "req.token"(state, data, { req, step }) {
    const r = state.requests[req];
    r.tokens.push(data.token_id);
    r.texts.push(data.text);
    if (r.first_token_step === null) r.first_token_step = step;
  },

  "req.finish"(state, data, { req, step }) {
    const r = state.requests[req];
    remove(r.status === "running" ? state.running : state.waiting, req);
    state.finished.push(req);
    r.status = "finished";
    r.finished_step = step;
    r.finish_reason = data.reason;
    r.wait = null;
  },

  "sched.skip"(state, data, { req }) {
    state.requests[req].wait = wait(data.reason, data.need, data.have, data.hit, null);
  },

  "sched.stop"(state, data) {
    const head = state.requests[data.head];
    if (head.wait === null || head.wait.reason !== data.reason) {
      head.wait = wait(data.reason, 0, 0, 0, null);
    }
    for (const req of data.behind) {
      state.requests[req].wait = wait(data.reason, 0, 0, 0, data.head);
    }
  },

  "sched.ledger"(state, data) {
    for (const row of data.rows) {
      if (!row.granted) continue;
      const r = state.requests[row.req];
      r.num_computed_tokens += row.granted;
      r.drafts = [];
    }
  },

  "kv.touch"(state, data, { req }) {
    const block = state.blocks[data.block];
    if (block.ref === 0) {
      remove(state.free, data.block);
      change(state, data.block, { ref: 1, held: null });
    } else {
      change(state, data.block, { ref: block.ref + 1 });
    }
    state.requests[req].table.push(data.block);
  },

  "kv.evict": evict,
  "kv.uncache": evict,

  "kv.alloc"(state, data, { req }) {
    state.free.splice(0, data.blocks.length);
    for (const id of data.blocks) change(state, id, { ref: 1, held: null });
    state.requests[req].table.push(...data.blocks);
  },

  "kv.reserve"(state, data, { req }) {
    for (const id of data.blocks) {
      remove(state.free, id);
      change(state, id, { ref: 1, held: null });
    }
    state.requests[req].table = data.blocks.slice();
  },

  "kv.cache"(state, data) {
    change(state, data.block, { hash: data.hash });
    state.cached[data.hash] = [...(state.cached[data.hash] ?? []), data.block];
  },

  "kv.free"(state, data, { req }) {
    const r = state.requests[req];
    const size = state.config.block_size;
    r.table.forEach((id, logical) => {
      const ref = state.blocks[id].ref - 1;
      const filled = Math.min(Math.max(r.num_computed_tokens - logical * size, 0), size);
      change(state, id, ref === 0 ? { ref, held: { req, logical, filled } } : { ref });
    });
    r.table = [];
    state.free = [...data.front, ...state.free, ...data.back];
  },

  "kv.reset"(state) {
    state.blocks = state.blocks.map((block) => ({ ...block, hash: null }));
    state.cached = {};
  },

  "spec.propose"(state, data, { req }) {
    state.requests[req].drafts = data.token_ids.slice();
  },

  "spec.reject"(state, data, { req }) {
    state.requests[req].num_computed_tokens -= data.n;
  },
};
