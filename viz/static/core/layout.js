// Where everything goes, as numbers: no drawing, no DOM. All lengths in CSS pixels.

// --- tokens ------------------------------------------------------------------------------------

// A token's drawing: shape (prompt or output), what its slot holds, and whether it ran now.
export const OUTPUT = 1;
export const FILLED = 2;
export const REUSED = 4;
export const RAN = 8;
export const NO_TOKEN = -1;

export const MAX_CELL = 14;
export const MIN_CELL = 2;

// One cell width for all rows, so that lengths compare: the widest that lets the longest fit.
export function tokenCells(longest, blockSize, width) {
  const groups = Math.max(Math.ceil(longest / blockSize) - 1, 0);
  for (let cell = MAX_CELL; cell >= MIN_CELL; cell -= 1) {
    const gap = cell >= 8 ? 6 : cell >= 4 ? 3 : 1;
    if (longest * cell + groups * gap <= width) return { cell, gap, scaled: false };
  }
  return { cell: width / Math.max(longest, 1), gap: 0, scaled: true };
}

// Left edge of a token.
export function tokenX(position, blockSize, { cell, gap }) {
  return position * cell + Math.floor(position / blockSize) * gap;
}

// Which token lies at x; null beside all of them.
export function tokenAt(x, count, blockSize, { cell, gap }) {
  const group = Math.floor(x / (blockSize * cell + gap));
  const within = x - group * (blockSize * cell + gap);
  const position = group * blockSize + Math.min(Math.floor(within / cell), blockSize - 1);
  return x >= 0 && position < count ? position : null;
}

// --- running rows ------------------------------------------------------------------------------

export const FULL_ROWS = 8;
export const COMPACT_ROWS = 20;

export const FULL_ROW = 48; // px, with its text
const SEEN = 3; // rows that are in sight: where their texts take that from them, there are none

export function rowMode(count, height = Infinity) {
  const room = Math.min(count, SEEN) * FULL_ROW <= height;
  return count <= FULL_ROWS && room ? "full" : count <= COMPACT_ROWS ? "compact" : "bars";
}

// Bars are many: those with an event in this step first, as many as fit, and a count of the rest.
export function shownBars(rows, busy, capacity) {
  if (rows.length <= capacity) return { shown: rows, rest: [] };
  const ordered = [...rows.filter(busy), ...rows.filter((row) => !busy(row))];
  return { shown: ordered.slice(0, capacity), rest: ordered.slice(capacity) };
}

// --- budget ------------------------------------------------------------------------------------

export const CELLS_UP_TO = 64;
const MERGE_DECODES_OVER = 12;
const LEAST_SEGMENT = 3;

// Segments in the order of their grants; more than twelve decodes become one.
export function budgetSegments(grants) {
  const decodes = grants.filter((grant) => grant.why === "decode");
  if (decodes.length <= MERGE_DECODES_OVER) return grants.map((g) => ({ ...g, merged: 0 }));
  const first = grants.indexOf(decodes[0]);
  const merged = { req: null, n: decodes.length, start: 0, why: "decode", merged: decodes.length };
  const others = (list) => list.filter((g) => g.why !== "decode").map((g) => ({ ...g, merged: 0 }));
  return [...others(grants.slice(0, first)), merged, ...others(grants.slice(first))];
}

// {mode: cells | scale, cell, segments: [{…, x, width}], used, width}
export function budgetLayout(budget, grants, width) {
  const segments = budgetSegments(grants);
  const cells = budget <= CELLS_UP_TO;
  const cell = cells ? Math.min(Math.floor(width / Math.max(budget, 1)), 32) : width / budget;
  let x = 0;
  const placed = segments.map((segment) => {
    const size = cells ? segment.n * cell : Math.max(segment.n * cell, LEAST_SEGMENT);
    const at = { ...segment, x, width: size };
    x += size;
    return at;
  });
  const whole = cells ? budget * cell : width;
  if (x > whole) {
    // The least widths added up to too much: shrink all alike.
    for (const s of placed) [s.x, s.width] = [(s.x * whole) / x, (s.width * whole) / x];
    x = whole;
  }
  return { mode: cells ? "cells" : "scale", cell, segments: placed, used: x, width: whole };
}

// --- lists -------------------------------------------------------------------------------------

// The first five, how many more, the last.
export function shownQueue(list, most = 7) {
  if (list.length <= most) return { first: list, more: 0, last: [] };
  return { first: list.slice(0, most - 2), more: list.length - most + 1, last: list.slice(-1) };
}

export const FREE_SHOWN = 12;

// --- block pool --------------------------------------------------------------------------------

const BLOCK_SIZES = [
  { size: 72, gap: 8, detail: "slots" },
  { size: 44, gap: 5, detail: "name" },
  { size: 28, gap: 4, detail: "mark" },
  { size: 20, gap: 3, detail: "hue" },
  { size: 12, gap: 2, detail: "hue" },
];

// Blocks as large as they all fit: {detail, size, pitch, columns, rows, width, height}.
// `large`: what to try first (60 on a phone) instead of 72.
export function poolLayout(count, width, height, large = 72) {
  const first = { size: large, gap: large < 60 ? 4 : large < 72 ? 6 : 8, detail: "slots" };
  for (const { size, gap, detail } of [first, ...BLOCK_SIZES.filter((spec) => spec.size < large)]) {
    const columns = Math.max(Math.floor((width + gap) / (size + gap)), 1);
    const rows = Math.ceil(count / columns);
    if (rows * (size + gap) - gap <= height) return grid(detail, size, gap, columns, rows);
  }
  // Scaled pixels: square cells, the largest that fit.
  let size = Math.max(Math.floor(Math.sqrt((width * height) / Math.max(count, 1))), 1);
  while (size > 1 && Math.ceil(count / Math.floor(width / size)) * size > height) size -= 1;
  const columns = Math.max(Math.floor(width / size), 1);
  return grid("pixel", size, 0, columns, Math.ceil(count / columns));
}

function grid(detail, size, gap, columns, rows) {
  const pitch = size + gap;
  return { detail, size, pitch, columns, rows, width: columns * pitch - gap, height: rows * pitch - gap };
}

// Top left corner of the block that stands at `index` (0 = the first usable one). Blocks are square
// unless a layout says how tall they are.
export function blockXY(index, { columns, pitch, pitchY = pitch }) {
  return { x: (index % columns) * pitch, y: Math.floor(index / columns) * pitchY };
}

export function blockAt(x, y, count, { columns, pitch, size, pitchY = pitch, sizeY = size }) {
  const [column, row] = [Math.floor(x / pitch), Math.floor(y / pitchY)];
  const index = row * columns + column;
  const inside = x >= 0 && y >= 0 && column < columns && x - column * pitch < size && y - row * pitchY < sizeY;
  return inside && index < count ? index : null;
}

// Slots of a block as a grid of cells; more than 64 become one bar.
export function slotGrid(blockSize, room) {
  if (blockSize > 64) return null;
  const columns = Math.ceil(Math.sqrt(blockSize));
  const pitch = Math.floor(room / columns);
  const gap = pitch >= 8 ? 2 : 1;
  return { columns, pitch, cell: pitch - gap, gap };
}

// --- scrubber ----------------------------------------------------------------------------------

// Steps 1…n over a width: a bar each while there is room, else bins of several steps.
export function scrubLayout(steps, width) {
  const perBin = Math.max(Math.ceil(steps / Math.max(width / 2, 1)), 1);
  const bins = Math.ceil(steps / perBin);
  const pitch = Math.min(width / Math.max(bins, 1), 28);
  return { perBin, bins, pitch };
}

export function scrubStepAt(x, steps, { perBin, pitch }) {
  const step = Math.floor(x / pitch) * perBin + 1;
  return Math.min(Math.max(step, 1), steps);
}
