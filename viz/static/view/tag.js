// A block as a tag: its id in a small box that tells its state, as a square of the pool does. For
// the columns that list blocks: tables, free queue, prefixes.

import { MONO, SANS, bandColours, border, fillBands, write } from "#view/paint.js";
import { pattern, theme, tint } from "#view/theme.js";

// `id`: what stands in it; `ring`: it is what is looked at.
export function drawTag(context, face, x, y, w, h, { id = face.id, ring = false } = {}) {
  const { colours } = theme;
  const bands = bandColours(face);
  if (bands.length) fillBands(context, bands, x, y, w, h, 0.3);
  else if (face.state === "cached") {
    context.fillStyle = pattern(context, "diagonal", tint(colours.grey, 0.28), devicePixelRatio);
    context.fillRect(x, y, w, h);
  }
  border(context, face, x, y, w, bands, h);
  write(context, id, x + w / 2, y + h / 2 + 4.5, bands.length ? colours.text : colours.dim, `600 12px ${MONO}`, "center");
  if (ring) drawRing(context, x, y, w, h);
}

export function drawRing(context, x, y, w, h) {
  context.strokeStyle = theme.colours.focus;
  context.lineWidth = 2;
  context.beginPath();
  context.roundRect(x - 2.5, y - 2.5, w + 5, h + 5, 4);
  context.stroke();
}

// What happened to it in this step, and ◆; answers where they end. Beside a tag, not in it.
export function drawMarks(context, face, x, y) {
  let at = x;
  if (face.marks) {
    write(context, face.marks, at, y, theme.colours.rim, `700 13px ${SANS}`);
    at += context.measureText(face.marks).width + 2;
  }
  if (face.hashed) {
    write(context, "◆", at, y, face.hashedNow ? theme.colours.rim : theme.colours.dim, `11px ${MONO}`);
    at += 12;
  }
  return at;
}
