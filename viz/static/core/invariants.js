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

function counter(items) {
  const counts = new Map();
  for (const item of items) counts.set(item, (counts.get(item) ?? 0) + 1);
  return counts;
}

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

// Who lives stands in one place, once, and its status says which.
function* queues({ config, waiting, running, finished, requests, running_when_lowered }) {
  const standing = new Map();
  for (const [place, queue] of Object.entries({ waiting, running, finished })) {
    for (const name of queue) standing.set(name, place);
  }
  for (const [name, n] of counter([...waiting, ...running, ...finished])) {
    if (n > 1) yield `${name} stands in the queues ${n} times`;
    if (!(name in requests)) yield `${name} stands in ${standing.get(name)}, but never arrived`;
  }
  for (const [name, { status }] of Object.entries(requests)) {
    if (standing.get(name) !== QUEUE_OF[status]) {
      yield `${name} is ${status}, but stands in ${standing.get(name) ?? "no queue"}`;
    }
  }
  const most = Math.max(config.max_num_seqs, running_when_lowered);
  if (running.length > most) yield `${counted(running.length, "request")} run, max_num_seqs allows ${most}`;
}

// A request has as much computed as can be, and blocks for it; who does not run has none.
function* requests({ config, requests }) {
  for (const [name, r] of Object.entries(requests)) {
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
  const holders = counter(Object.values(requests).flatMap((r) => r.table));
  const frees = counter(free);
  const told = new Set([...holders.keys(), ...frees.keys()]);
  for (const id of [...told].sort((a, b) => a - b)) {
    if (id < 0 || id >= blocks.length) yield `block ${id} is told of, the pool has ${blocks.length}`;
  }
  const [zero] = blocks;
  if (zero.ref !== 1 || zero.hash !== null || holders.has(0) || frees.has(0)) {
    yield "block 0, the null block, is given out";
  }
  let used = 0;
  for (let id = 1; id < blocks.length; id += 1) {
    const { ref } = blocks[id];
    const tables = holders.get(id) ?? 0;
    if (ref > 0) used += 1;
    if (ref !== tables) yield `block ${id}: ref ${ref}, but it is in ${counted(tables, "table")}`;
    if (ref > 0 === frees.has(id)) {
      yield `block ${id}: ref ${ref}, but it is ${frees.has(id) ? "" : "not "}free`;
    }
  }
  if (used + free.length !== blocks.length - 1 || frees.size !== free.length) {
    yield `${used} blocks used + ${free.length} free != ${blocks.length - 1}`;
  }
}

// The table finds each block that has a hash, once, and no other.
function* hashTable({ config, blocks, cached }) {
  const found = new Set();
  let empty = false;
  for (const [hash, twins] of Object.entries(cached)) {
    empty ||= twins.length === 0;
    for (const [id, n] of counter(twins)) {
      if (blocks[id]?.hash === hash) found.add(id);
      else yield `hash ${hash} leads to block ${id}, which does not have it`;
      if (n > 1) yield `hash ${hash} leads to block ${id} ${n} times`;
    }
  }
  for (const [id, { hash }] of blocks.entries()) {
    if (hash !== null && !found.has(id)) yield `block ${id} cannot be found by its hash ${hash}`;
  }
  if (empty) yield "a hash leads to no block";
  if (Object.keys(cached).length && config.enable_prefix_caching === false) {
    yield "blocks are hashed with prefix caching off";
  }
}
