// Themes, and the room there is for what: measured once at a change, not while drawing.

import { setTheme, theme } from "#view/theme.js";

export const THEMES = [
  { name: "dark", projector: false },
  { name: "light", projector: false },
  { name: "light", projector: true },
];

const NARROW = 700;
const WIDE = 1280;
const RAIL = 376; // as in style/rail.css
const LOW = 700; // below this height everything but the transport gives up some room
const SHALLOW = 640; // a Board less high than this, its pool below the rows, has smaller blocks
const FLAT = 460; // below this one there is no room for regions side by side that stay in sight

const WAITS = 66; // px: a waiting request with two lines of its reason
const MORE = 24;

export const FONT_SCALES = [0.8, 0.9, 1, 1.15, 1.3, 1.5, 1.75, 2];
const PROJECTOR = 1.4; // for the back row
const LEAST = { width: 704, height: 500 }; // what the regions need beside one another, unscaled
const ON_A_PHONE = { width: 280, scale: 1.4 };

// How large everything may be in this window so that nothing leaves it.
function largest() {
  const most = innerWidth < NARROW
    ? Math.min(innerWidth / ON_A_PHONE.width, ON_A_PHONE.scale)
    : Math.min(innerWidth / LEAST.width, innerHeight / LEAST.height);
  return Math.max(most, 1);
}

// A phone is no projector.
const wanted = ({ projector }, fontScale) => fontScale * (projector && innerWidth >= NARROW ? PROJECTOR : 1);

// The next larger or smaller size, of those that make a difference in this window.
export function nextScale(from, direction, what) {
  const at = Math.min(Math.max(FONT_SCALES.indexOf(from) + direction, 0), FONT_SCALES.length - 1);
  if (direction > 0) return wanted(what, from) < largest() ? FONT_SCALES[at] : from;
  const down = FONT_SCALES.slice(0, at + 1).reverse();
  return down.find((scale) => wanted(what, scale) < largest()) ?? FONT_SCALES[0];
}

// `fontScale`: what the reader has set beside the theme.
export function applyTheme(palette, what, fontScale = 1) {
  setTheme(palette, what.name, Math.min(wanted(what, fontScale), largest()));
}

// The words of the bar go before its keys, keys before the pills: as far as it is too long. To be
// asked after each drawing; it measures only when the bar says something of another length.
let barSaid = "";

export function fitBar(root) {
  const bar = root.querySelector(".bar");
  const said = `${innerWidth} ${theme.scale} ${bar.textContent.replace(/\d/g, "0")}`;
  if (said === barSaid) return;
  barSaid = said;
  for (const gone of ["nothing", "long", "words", "keys", "names"]) {
    bar.dataset.gone = gone;
    if (bar.scrollWidth <= bar.clientWidth) return;
  }
}

// Wide, middle, narrow: by the width there is for content at the theme's scale. Low: by its height.
export function measure(board, root, draw) {
  const { scale } = theme;
  const { shown } = board.lessons;
  const height = innerHeight / scale;
  board.narrow = innerWidth < NARROW || innerWidth / scale < NARROW || height < FLAT;
  board.low = !board.narrow && height < LOW;
  const width = innerWidth / scale - (shown && !board.narrow ? RAIL : 0);
  document.documentElement.dataset.rail = shown ? "on" : "off";
  document.documentElement.dataset.width = board.narrow ? "narrow" : width < WIDE ? "middle" : "wide";
  document.documentElement.dataset.low = board.low ? "yes" : "no";
  barSaid = ""; // letters may have come that are wider
  draw();
  board.frame.view.resized?.(board);
  const rows = root.querySelector(".rows");
  const pool = root.querySelector(".pool");
  if (!rows) return draw(); // another view than the Board
  const middle = document.documentElement.dataset.width === "middle";
  const own = pool.clientHeight / scale - (board.low ? 136 : 168);
  const below = pool.parentElement.clientHeight / scale / 2 - 96; // half the Board, with its queue
  const tall = board.narrow ? 320 : middle && !board.low ? below : own;
  const queue = root.querySelector(".waiting .queue").clientHeight / scale;
  board.sizes = {
    shallow: middle && !board.low && pool.parentElement.clientHeight / scale < SHALLOW,
    waiting: Math.max(Math.min(Math.floor((queue - MORE) / WAITS) + 1, 7), 3), // those that are seen whole, and how many more
    rows: (rows.clientWidth - 12) / scale,
    rowsHeight: (rows.clientHeight - 12) / scale,
    poolWidth: (pool.clientWidth - parseFloat(getComputedStyle(pool).paddingLeft) * 2) / scale,
    pool: Math.max(Math.min(tall, 720), board.low ? 60 : 160),
  };
  draw();
}
