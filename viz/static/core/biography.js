// A block's biography: who took, filled, shared, gave back and evicted it, each with its step; and
// who missed later what was forgotten in it. `words` are those of minivllm/trace/lives.py
// (tests/data/views.json holds both to the same); `text` is the same in three words.

import { indexOver } from "#core/indexed.js";
import { listed } from "#core/reasons.js";

const HASHED = { "kv.cache": true, "kv.evict": false, "kv.uncache": false };

function makeIndex(store) {
  const blocks = store.base?.state.blocks ?? store.snapshots.get(store.firstStep)?.blocks ?? [];
  return {
    size: store.config?.block_size ?? 1,
    lives: new Map(), // block → entries
    hashed: new Set(blocks.flatMap(({ hash }, id) => (hash === null ? [] : [id]))),
    misses: new Map(), // hash → [{step, req}]
    evicted: new Map(), // hash → [{step, seq, block, req}]
  };
}

// What the run did to each block, and which hashes were looked for in vain.
const indexOf = indexOver(makeIndex, (index, event, step) => {
  const { kind, data, req } = event;
  if (!kind.startsWith("kv.")) return;
  if (kind === "kv.miss") {
    if (!data.hash) return;
    const list = index.misses.get(data.hash) ?? [];
    list.push({ step, req });
    index.misses.set(data.hash, list);
    return;
  }
  const touched = kind === "kv.reset" ? [...index.hashed] : kind === "kv.hit" ? [] : (data.blocks ?? [data.block]);
  for (const id of touched) {
    const told = TELL[kind]?.(id, data, req, index.size);
    if (!told) continue;
    const life = index.lives.get(id) ?? [];
    life.push({ step, seq: event.seq, kind, req, src: event.src, ...told });
    index.lives.set(id, life);
    if (kind === "kv.evict") index.evicted.set(data.hash, [...(index.evicted.get(data.hash) ?? []), { step, seq: event.seq, block: id, req }]);
  }
  if (kind === "kv.reset") index.hashed.clear();
  else if (kind in HASHED) index.hashed[HASHED[kind] ? "add" : "delete"](data.block);
});

const span = (first, last) => (first === last ? `token ${first}` : `tokens ${first}–${last}`);

function taken(id, data, req, size) {
  const logical = (data.logical ?? 0) + data.blocks.indexOf(id);
  const place = span(logical * size + 1, (logical + 1) * size);
  return { text: `taken by ${req}`, words: `taken by ${req} as its block ${logical + 1} (${place})` };
}

const TELL = {
  "kv.alloc": taken,
  "kv.reserve": (...about) => ({ ...taken(...about), text: `reserved by ${about[2]}` }),
  "kv.touch": (_id, data, req) => ({
    text: `hit by ${req} (×${data.ref})`,
    words: `hit by ${req}, ${data.ref === 1 ? "alone" : `now in ${data.ref} tables`}`,
  }),
  "kv.cache": (_id, data) => ({
    text: "full and hashed",
    quiet: true,
    words: `full: hashed as ${data.hash.slice(0, 8)}… for others to hit`,
  }),
  "kv.evict": (_id, data, req) => ({
    text: `evicted for ${req}`,
    hash: data.hash,
    words: `evicted for ${req}: ${data.left_by ? `what ${data.left_by} left there` : "its content"} is forgotten`,
  }),
  "kv.uncache": (_id, data) => ({ text: "hash withdrawn", words: `its hash is withdrawn (${data.reason})` }),
  "kv.free": (id, data, req) => {
    if (data.front.includes(id)) {
      return { text: `given back by ${req}`, words: `given back by ${req}, blank: to the front of the free queue` };
    }
    if (data.back.includes(id)) {
      return { text: `given back by ${req}`, words: `given back by ${req}, still cached: to the back of the free queue` };
    }
    return { text: `left by ${req}, still shared`, words: `given back by ${req}, still held by another` };
  },
  "kv.reset": () => ({ text: "cache reset", words: "its hash is forgotten: the prefix cache was reset" }),
};

// Everything that happened to a block, in order: [{step, seq, kind, req, src, words, …}].
export function blockHistory(store, id) {
  return indexOf(store).lives.get(id) ?? [];
}

// The same as it stands in a sentence, `text` in a few words; that it was full is told by its ◆.
export function blockLife(store, id) {
  return blockHistory(store, id).filter((entry) => !entry.quiet);
}

// Who looked for this content after it was forgotten: [{step, req}], each request once.
export function whoMissed(store, hash, since) {
  const seen = new Set();
  return (indexOf(store).misses.get(hash) ?? []).filter(({ step, req }) => {
    if (step < since || seen.has(req)) return false;
    seen.add(req);
    return true;
  });
}

// Where this content was forgotten last, before an event: {step, block, req: for whom}, or null.
export function lastEvicted(store, hash, seq) {
  return indexOf(store).evicted.get(hash)?.filter((entry) => entry.seq < seq).at(-1) ?? null;
}

// What was lost in this step's eviction of a block, in words; "" where it was not evicted.
export function lostWords(store, step, id) {
  const evicted = blockLife(store, id).find((entry) => entry.step === step && entry.kind === "kv.evict");
  if (!evicted) return "";
  const missed = whoMissed(store, evicted.hash, step);
  if (!missed.length) return "nobody has looked for it since";
  return `missed since by ${listed(missed.map((each) => `${each.req} in step ${each.step}`))}`;
}
