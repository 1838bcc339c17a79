// The cached blocks as a tree, each under the block that its content follows. A block's hash has
// its parent's in it, so a sequence is a path from a root, and those that begin alike share its
// beginning. Blocks of one content (twins) are one node. A look-up goes down from the root and ends
// where a node is missing: one whose parent is cached no more is `lost`, nobody can hit it.
// Twin of minivllm/trace/prefixes.py; tests/data/views.json holds both to the same results.

import { indexOver } from "#core/indexed.js";

// Hash → {parent, req, logical}: who filled a block of this content first, in the order of the run.
export const originsOf = indexOver(
  () => new Map(),
  (origins, { kind, data, req }) => {
    if (kind !== "kv.cache" || origins.has(data.hash)) return;
    origins.set(data.hash, { parent: data.parent, req, logical: data.logical });
  },
);

// Rows from the top: [{hash, blocks, depth, lost, last, gone}]. `last`: no sibling comes below it.
// `gone`: hash → block of what was evicted in this step, shown once more where it stood.
export function prefixTree(state, origins, gone = new Map()) {
  const cached = gone.size ? { ...state.cached, ...Object.fromEntries([...gone.keys()].map((hash) => [hash, []])) } : state.cached;
  const children = new Map();
  const roots = [];
  const place = (hash, parent) => {
    if (parent !== null && parent in cached) {
      const list = children.get(parent);
      if (list) list.push(hash);
      else children.set(parent, [hash]);
    } else roots.push({ hash, depth: 0, lost: parent !== null, last: true });
  };
  // In the order in which they first came: a Map keeps it, so none is sorted.
  let placed = 0;
  for (const [hash, { parent }] of origins) {
    if (!(hash in cached)) continue;
    place(hash, parent ?? null);
    placed += 1;
  }
  const all = Object.keys(cached);
  if (placed < all.length) for (const hash of all) if (!origins.has(hash)) place(hash, null);
  const rows = [];
  const stack = roots.reverse();
  while (stack.length) {
    const { hash, depth, lost, last } = stack.pop();
    const block = gone.get(hash) ?? null;
    rows.push({ hash, blocks: block === null ? cached[hash] : [block], depth, lost, last, gone: block !== null });
    const below = children.get(hash) ?? [];
    for (let i = below.length - 1; i >= 0; i -= 1) {
      stack.push({ hash: below[i], depth: depth + 1, lost: lost || block !== null, last: i === below.length - 1 });
    }
  }
  return rows;
}

// What was evicted in a step and is cached nowhere else: hash → block.
export function goneIn(state, marks) {
  const gone = new Map();
  for (const [block, list] of marks) {
    for (const { mark, hash } of list) if (mark === "✕" && !(hash in state.cached)) gone.set(hash, block);
  }
  return gone;
}

// The words of a node.
export function prefixText(state, origins, hash) {
  const origin = origins.get(hash) ?? holder(state, state.cached[hash]?.[0]);
  const size = state.config.block_size;
  const request = origin && state.requests[origin.req];
  if (!request) return "";
  const first = origin.logical * size;
  return request.texts.slice(first, first + size).join("");
}

function holder(state, block) {
  for (const [req, { table }] of Object.entries(state.requests)) {
    if (table.includes(block)) return { req, logical: table.indexOf(block) };
  }
  return state.blocks[block]?.held ?? null;
}

// The first block of each of a node's ancestors, the node's own last: the path of a look-up.
export function pathOf(state, origins, hash) {
  const path = [];
  for (let at = hash; at && at in state.cached; at = origins.get(at)?.parent) path.unshift(state.cached[at][0]);
  return path;
}
