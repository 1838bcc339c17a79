// What must hold of the fold's state at a step's boundary; a breach is one sentence. Twin of
// minivllm/trace/invariants.py; tests/data/broken-states.json holds both to the same words.

const QUEUE_OF = {
  running: "running",
  waiting: "waiting",
  preempted: "waiting",
  waiting_for_grammar: "waiting",
  finished: "finished",
};

const counted = (n, noun) => (n === 1 ? `${n} ${noun}` : `${n} ${noun}s`);

// Each invariant that does not hold of the state at a step's boundary.
export function violations(state) {
  if (state.config === null) return [];
  return [...queues(state), ...requests(state), ...blocks(state), ...hashTable(state)];
}

// What does not hold of one step: `begin` and `ledger` are its events' data, or null.
export function stepViolations(config, begin, ledger) {
  if (!config || !begin || !ledger) return [];
  const found = ledger.rows
    .filter((row) => row.granted < 0)
    .map((row) => `${row.req} is granted ${counted(row.granted, "token")}`);
  const granted = ledger.rows.reduce((sum, row) => sum + row.granted, 0);
  const budget = Math.min(begin.budget, config.max_num_batched_tokens);
  if (granted > budget) {
    found.push(`the grants add up to ${counted(granted, "token")}, the budget is ${budget}`);
  }
  return found;
}

// Checked after each of thousands of steps: loops over plain arrays, no lists made on the way.

// Who lives stands in one place, once, and its status says which.
function* queues({ config, waiting, running, finished, requests, running_when_lowered }) {
  const standing = new Map();
  const again = new Map();
  for (const [place, queue] of [["waiting", waiting], ["running", running], ["finished", finished]]) {
    for (const name of queue) {
      if (standing.has(name)) again.set(name, (again.get(name) ?? 1) + 1);
      standing.set(name, place);
    }
  }
  for (const [name, place] of standing) {
    if (again.has(name)) yield `${name} stands in the queues ${again.get(name)} times`;
    if (!(name in requests)) yield `${name} stands in ${place}, but never arrived`;
  }
  for (const name in requests) {
    const { status } = requests[name];
    if (standing.get(name) !== QUEUE_OF[status]) {
      yield `${name} is ${status}, but stands in ${standing.get(name) ?? "no queue"}`;
    }
  }
  const most = Math.max(config.max_num_seqs, running_when_lowered);
  if (running.length > most) yield `${counted(running.length, "request")} run, max_num_seqs allows ${most}`;
}

// A request has as much computed as can be, and blocks for it; who does not run has none.
function* requests({ config, requests }) {
  for (const name in requests) {
    const r = requests[name];
    const n = r.num_computed_tokens;
    if (r.status === "running") {
      const need = Math.ceil(n / config.block_size);
      if (r.table.length < need) {
        yield `${name} has ${counted(r.table.length, "block")}, its computed tokens need ${need}`;
      }
    } else if (r.table.length) {
      yield `${name} holds ${counted(r.table.length, "block")}, but does not run`;
    }
    if (n < 0) yield `${name} has ${n} tokens computed`;
    if (r.status === "finished") continue; // who fails may end with drafts in the count
    if (n > r.tokens.length) yield `${name} has more tokens computed than it has`;
    if (r.status !== "running" && (n || r.drafts.length)) {
      yield `${name} waits, but has tokens computed or drafted`;
    }
  }
}

// A block is free or in use; its reference count is the number of tables that hold it.
function* blocks({ blocks, free, requests }) {
  const held = new Int32Array(blocks.length); // block → tables that hold it
  const isFree = new Uint8Array(blocks.length);
  const outside = new Set();
  const inside = (id) => (id >= 0 && id < blocks.length) || (outside.add(id), false);
  for (const name in requests) {
    for (const id of requests[name].table) if (inside(id)) held[id] += 1;
  }
  let twice = 0;
  for (const id of free) {
    if (!inside(id)) continue;
    twice += isFree[id];
    isFree[id] = 1;
  }
  for (const id of [...outside].sort((a, b) => a - b)) yield `block ${id} is told of, the pool has ${blocks.length}`;
  const [zero] = blocks;
  if (zero.ref !== 1 || zero.hash !== null || held[0] || isFree[0]) yield "block 0, the null block, is given out";
  let used = 0;
  for (let id = 1; id < blocks.length; id += 1) {
    const { ref } = blocks[id];
    if (ref > 0) used += 1;
    if (ref !== held[id]) yield `block ${id}: ref ${ref}, but it is in ${counted(held[id], "table")}`;
    if (ref > 0 === Boolean(isFree[id])) yield `block ${id}: ref ${ref}, but it is ${isFree[id] ? "" : "not "}free`;
  }
  if (used + free.length !== blocks.length - 1 || twice) {
    yield `${used} blocks used + ${free.length} free != ${blocks.length - 1}`;
  }
}

// The table finds each block that has a hash, once, and no other.
function* hashTable({ config, blocks, cached }) {
  const found = new Uint8Array(blocks.length);
  let [some, empty] = [false, false];
  for (const hash in cached) {
    const twins = cached[hash];
    some = true;
    empty ||= twins.length === 0;
    for (let i = 0; i < twins.length; i += 1) {
      const id = twins[i];
      if (twins.indexOf(id) < i) continue;
      if (blocks[id]?.hash === hash) found[id] = 1;
      else yield `hash ${hash} leads to block ${id}, which does not have it`;
      const n = twins.length === 1 ? 1 : twins.filter((other) => other === id).length;
      if (n > 1) yield `hash ${hash} leads to block ${id} ${n} times`;
    }
  }
  for (let id = 0; id < blocks.length; id += 1) {
    const { hash } = blocks[id];
    if (hash !== null && !found[id]) yield `block ${id} cannot be found by its hash ${hash}`;
  }
  if (empty) yield "a hash leads to no block";
  if (some && config.enable_prefix_caching === false) yield "blocks are hashed with prefix caching off";
}
