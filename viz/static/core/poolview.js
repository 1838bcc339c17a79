// The pool view's arithmetic: what is lit, how block tables are laid out, how large blocks are, and
// how the free queue moves. No drawing, no DOM; all lengths in CSS pixels.

import { poolLayout } from "#core/layout.js";
import { plural } from "#core/reasons.js";

// --- what is lit -------------------------------------------------------------------------------

// Blocks and requests that belong to what is looked at, in all four columns alike; null: nothing
// is looked at. A request lights its blocks, those that it left, and those that its look-up found in
// this step.
export function lights(scene, target) {
  if (!target || (!target.req && !target.block)) return null;
  const blocks = new Set();
  const requests = new Set();
  if (target.block) {
    blocks.add(target.block);
    for (const { row } of scene.pool.faces[target.block - 1]?.owners ?? []) requests.add(row.req);
  }
  if (target.req) {
    requests.add(target.req);
    for (const id of scene.facts.hits.get(target.req)?.blocks ?? []) blocks.add(id);
    for (const face of scene.pool.faces) {
      const own = face.owners.length ? face.owners.some(({ row }) => row.req === target.req) : face.held?.req === target.req;
      if (own) blocks.add(face.id);
    }
  }
  return { blocks, requests, block: target.block ?? null };
}

// --- physical blocks ---------------------------------------------------------------------------

const LARGE = { width: 112, height: 96, gap: 8 };

// As large as all of them fit: with their words, else as on the Board (`small`: 72, 60 on a phone).
export function physicalLayout(count, width, height, small = 72) {
  const { width: w, height: h, gap } = LARGE;
  const columns = Math.floor((width + gap) / (w + gap));
  const rows = Math.ceil(count / Math.max(columns, 1));
  const tall = rows * (h + gap) - gap;
  if (small < 72 || columns < 3 || tall > height) return poolLayout(count, width, height, small);
  return {
    detail: "words", columns, rows, size: w, sizeY: h, pitch: w + gap, pitchY: h + gap,
    width: columns * (w + gap) - gap, height: tall,
  };
}

// --- block tables ------------------------------------------------------------------------------

const NAME = 52; // the chip at the left
const MODES = {
  full: { index: 12, box: 24, gap: 8, caption: 20, lines: 3, least: 28 },
  compact: { index: 0, box: 20, gap: 6, caption: 0, lines: 1, least: 26 },
  dense: { index: 0, box: 8, gap: 4, caption: 0, lines: 1, least: 10 },
};
const DIGIT = 8;

// One entry a request: {req, y, height, lines, shown: [logical | null]}; null stands for those that
// are left out. Full while they all fit, then a line each, then bars.
export function tablesLayout(rows, width, height, digits, whole = null) {
  for (const mode of ["full", "compact", "dense"]) {
    const laid = layTables(mode, rows, width, digits, whole);
    if (laid.height <= height || mode === "dense" || (mode === "compact" && laid.height <= 2 * height)) return laid;
  }
  return null;
}

function layTables(mode, rows, width, digits, whole) {
  const { index, box, gap, caption, lines: most, least } = MODES[mode];
  const room = Math.max(width - NAME, least);
  const longest = Math.max(1, ...rows.map((row) => row.table.length));
  const cell = mode === "dense" ? Math.min(least, room / longest) : Math.max(least, digits * DIGIT + 12);
  const across = Math.max(Math.floor(room / cell), 1);
  let y = 0;
  const entries = rows.map(({ req, table }) => {
    const limit = mode === "dense" ? longest : across * (req === whole ? Infinity : most);
    const shown = shownLogical(table.length, limit);
    const lines = mode === "dense" ? 1 : Math.max(Math.ceil(shown.length / across), 1);
    const entry = { req, y, shown, lines, height: lines * (index + box + gap) + caption };
    y += entry.height;
    return entry;
  });
  const columns = mode === "dense" ? longest : across;
  return { mode, entries, height: y, cell, columns, name: NAME, box, index, line: index + box + gap, caption };
}

// The first blocks and the last ones, and a gap where there is no room for all.
// Hundreds of tables have a few lengths: each list is made once, and only read.
const lists = new Map();

function shownLogical(count, most) {
  const key = `${count} ${most}`;
  if (!lists.has(key)) {
    if (lists.size > 1000) lists.clear();
    lists.set(key, headAndTail(count, most));
  }
  return lists.get(key);
}

function headAndTail(count, most) {
  const all = [...Array(count).keys()];
  if (count <= most) return all;
  const head = Math.max(Math.ceil((most - 1) / 2), 1);
  return [...all.slice(0, head), null, ...all.slice(count - Math.max(most - 1 - head, 0))].slice(0, Math.max(most, 1));
}

// Top left corner of the k-th cell that an entry shows.
export function tableCellXY(layout, entry, k) {
  const { name, cell, columns, line, index } = layout;
  return { x: name + (k % columns) * cell, y: entry.y + Math.floor(k / columns) * line + index };
}

// {entry, k} under a point; k is null beside the cells; null beside all entries.
export function tableAt(layout, x, y) {
  const entry = layout.entries.find((each) => y >= each.y && y < each.y + each.height);
  if (!entry) return null;
  const { name, cell, columns, line } = layout;
  const [column, row] = [Math.floor((x - name) / cell), Math.floor((y - entry.y) / line)];
  const k = row * columns + column;
  const inside = x >= name && column < columns && row < entry.lines && k < entry.shown.length;
  return { entry, k: inside ? k : null };
}

// What ran of a request in this step: "1–4 reused, 5–11 run".
export function ranWords(row, facts) {
  const grant = facts.grants.find((each) => each.req === row.req);
  if (!grant) return "did not run";
  const span = (first, last) => (first === last ? `token ${first}` : `${first}–${last}`);
  const hit = facts.admitted.get(row.req)?.hit ?? 0;
  const reused = hit ? `${span(1, hit)} reused, ` : "";
  return `${reused}${span(grant.start + 1, grant.start + grant.n)} ${grant.n === 1 ? "runs" : "run"}`;
}

// --- the free queue ----------------------------------------------------------------------------

// Where each block of the queue is drawn at `progress`: [{id, at, alpha, shift}], `at` in rows. Those
// that left are pulled out sideways, those that came slide in, one after another. Only rows from
// `first` to `last` are told.
export function queueMotion(now, before, progress, first, last) {
  const seen = [];
  if (!before || progress >= 1) {
    for (let at = Math.max(first, 0); at < Math.min(last, now.length); at += 1) seen.push({ id: now[at], at, alpha: 1, shift: 0 });
    return seen;
  }
  const [old, fresh] = [placesOf(before), placesOf(now)];
  const coming = now.length - now.reduce((n, id) => n + (old.has(id) ? 1 : 0), 0);
  let nth = 0;
  now.forEach((id, at) => {
    const from = old.get(id);
    if (from === undefined) {
      const own = Math.min(Math.max(progress * (1 + coming / 4) - nth / 4, 0), 1);
      nth += 1;
      if (at >= first && at < last) seen.push({ id, at, alpha: own, shift: 1 - own });
      return;
    }
    const place = from + (at - from) * progress;
    if (place >= first - 1 && place < last) seen.push({ id, at: place, alpha: 1, shift: 0 });
  });
  before.forEach((id, at) => {
    if (!fresh.has(id) && at >= first && at < last) seen.push({ id, at, alpha: 1 - progress, shift: progress });
  });
  return seen;
}

const places = new WeakMap();

function placesOf(list) {
  if (!places.has(list)) places.set(list, new Map(list.map((id, at) => [id, at])));
  return places.get(list);
}

// Have two queues the same blocks in the same order?
export function sameQueue(a, b) {
  return a === b || (a.length === b.length && a.every((id, i) => id === b[i]));
}

// --- words -------------------------------------------------------------------------------------

// What the column of prefixes says when it has nothing to show.
export function prefixesEmpty(config, pool) {
  if (!config.enable_prefix_caching) return "Prefix caching is off: full blocks get no hash, and nobody can share them.";
  const used = pool.faces.some((face) => face.state !== "blank" || face.held);
  if (!used) return "No block has been used.";
  return "No block is full: only full blocks get a hash.";
}

export function queueEmpty(pool) {
  return `All ${plural(pool.total, "block")} are in use. Who needs one waits, or somebody gives way.`;
}
