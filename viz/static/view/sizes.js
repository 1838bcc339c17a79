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
const LOW = 640; // below this height the pool's blocks are as small as on a phone
const LOWEST = 480; // and below this one smaller: a projector's theme on a small screen

export const FONT_SCALES = [0.8, 0.9, 1, 1.15, 1.3, 1.5, 1.75, 2];
const PROJECTOR = 1.4; // for the back row

// A phone is no projector. `fontScale`: what the reader has set beside the theme.
export function applyTheme(palette, { name, projector }, fontScale = 1) {
  setTheme(palette, name, fontScale * (projector && innerWidth >= NARROW ? PROJECTOR : 1));
}

// Wide, middle, narrow: by the width there is for content at the theme's scale.
export function measure(board, root, draw) {
  const { scale } = theme;
  const { shown } = board.lessons;
  board.narrow = innerWidth / scale < NARROW;
  const width = innerWidth / scale - (shown && !board.narrow ? RAIL : 0);
  document.documentElement.dataset.rail = shown ? "on" : "off";
  document.documentElement.dataset.width = board.narrow ? "narrow" : width < WIDE ? "middle" : "wide";
  draw();
  board.frame.view.resized?.(board);
  const rows = root.querySelector(".rows");
  const pool = root.querySelector(".pool");
  if (!rows) return draw(); // another view than the Board
  const middle = document.documentElement.dataset.width === "middle";
  const height = pool.parentElement.clientHeight / scale;
  board.low = !middle || height >= LOW ? "" : height < LOWEST ? "lowest" : "low";
  const own = pool.clientHeight / scale - 168;
  const below = height / 2 - 96; // half the Board, with its queue
  const tall = board.narrow ? 320 : middle ? below : own;
  board.sizes = {
    rows: (rows.clientWidth - 12) / scale,
    rowsHeight: (rows.clientHeight - 12) / scale,
    poolWidth: (pool.clientWidth - parseFloat(getComputedStyle(pool).paddingLeft) * 2) / scale,
    pool: Math.max(Math.min(tall, 720), 160),
  };
  draw();
}
