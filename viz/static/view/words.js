// A block with its words: id and marks above, what it holds in the middle, its slots in a row below.

import { NO_TOKEN } from "#core/layout.js";
import { slots } from "#core/scene.js";
import { MONO, SANS, bandColours, border, drawShared, drawToken, fillBands, write } from "#view/paint.js";
import { pattern, theme, tint } from "#view/theme.js";

const PAD = 7;
const LINE = 15;
const LINES = 3;

export function drawWithWords(context, face, pieces, x, y, { size: w, sizeY: h }, progress) {
  const { colours } = theme;
  const bands = bandColours(face);
  context.save();
  context.beginPath();
  context.roundRect(x, y, w, h, 4);
  context.clip();
  if (bands.length) fillBands(context, bands, x, y, w, h, 0.16);
  if (face.state === "cached") {
    context.fillStyle = pattern(context, "diagonal", tint(colours.grey, 0.3), devicePixelRatio);
    context.fillRect(x, y, w, 22);
    context.fillRect(x, y + h - 22, w, 22);
  }
  context.restore();
  border(context, face, x, y, w, bands, h);

  const quiet = !bands.length;
  write(context, face.id, x + PAD, y + 16, quiet ? colours.dim : colours.text, `600 12px ${MONO}`);
  let right = x + w - PAD;
  if (face.hashed) {
    write(context, "◆", right, y + 16, face.hashedNow ? colours.rim : colours.dim, `11px ${MONO}`, "right");
    right -= 13;
  }
  if (face.marks) write(context, face.marks, right, y + 16, colours.rim, `700 13px ${SANS}`, "right");
  const lines = wrap(context, pieces, w - 2 * PAD, `12px ${SANS}`);
  lines.forEach((line, i) => write(context, line, x + PAD, y + 34 + i * LINE, quiet ? colours.dim : colours.text, `12px ${SANS}`));
  drawFoot(context, face, bands, x + PAD, y + h - PAD, w - 2 * PAD, progress);
}

// The cells of the slots, in a row at the right of the foot.
function slotRow(size, x, width) {
  const gap = size > 8 ? 1 : 2;
  const cell = Math.min(11, Math.floor((width - 46) / size) - gap);
  return { gap, cell, left: x + width - size * (cell + gap) + gap, height: Math.max(cell, 9) };
}

// Where a slot stands in such a block at (x, y); null where they are too many to be drawn.
export function slotBoxInWords(size, index, x, y, { size: w, sizeY: h }) {
  const { gap, cell, left, height } = slotRow(size, x + PAD, w - 2 * PAD);
  return cell < 2 ? null : { x: left + index * (cell + gap), y: y + h - PAD - height, w: cell, h: height };
}

// Who holds it, or left it, at the left; the slots at the right.
function drawFoot(context, face, bands, x, foot, width, progress) {
  const { colours } = theme;
  const names = face.owners.length
    ? face.owners.length > 2 ? `${face.owners[0].row.req} ×${face.ref}` : face.owners.map(({ row }) => row.req).join(" ")
    : face.held?.req ?? "";
  write(context, names, x, foot - 1, bands.length ? colours.text : colours.dim, `600 11px ${MONO}`);
  const flags = slots(face);
  const room = width - 46;
  const { gap, cell, left, height } = slotRow(face.size, x, width);
  if (cell < 2) return drawShare(context, face, flags, bands, x + 46, foot - 10, room);
  flags.forEach((flag, i) => {
    const cx = left + i * (cell + gap);
    if (flag === NO_TOKEN) {
      context.fillStyle = tint(colours.grey, 0.25);
      context.fillRect(cx + cell / 2 - 1, foot - height / 2 - 1, 2, 2);
    } else if (bands.length > 1) drawShared(context, flag, cx, foot - height, cell, bands);
    else drawToken(context, flag, cx, foot - height, cell, height, bands[0] ?? tint(colours.grey, 0.55), progress);
  });
}

// Too many slots for cells: how much of it is filled.
function drawShare(context, face, flags, bands, x, y, width) {
  const filled = flags.filter((flag) => flag > 0).length / face.size;
  context.fillStyle = tint(theme.colours.grey, 0.3);
  context.fillRect(x, y, width, 8);
  context.fillStyle = bands[0] ?? theme.colours.grey;
  context.fillRect(x, y, width * filled, 8);
}

// Lines of whole pieces (tokens) where they fit, at most three; what is left over ends in "…".
export function wrap(context, pieces, width, font) {
  context.font = font;
  const fits = (text) => context.measureText(text).width <= width;
  const lines = [""];
  for (const [i, piece] of pieces.entries()) {
    const last = lines.length - 1;
    const longer = lines[last] + (lines[last] ? piece : piece.trimStart());
    if (fits(longer)) {
      lines[last] = longer;
    } else if (lines.length < LINES && lines[last]) {
      lines.push(fits(piece.trimStart()) ? piece.trimStart() : shorten(piece.trimStart(), fits));
    } else {
      lines[last] = shorten(longer, fits);
      if (lines.length === LINES || i === pieces.length - 1) break;
      lines.push("");
    }
  }
  return lines;
}

// The same, kept: the same rows are drawn again and again.
const cuts = new Map();

export function cut(context, text, room, font) {
  const key = `${font} ${Math.floor(room)} ${text}`;
  let found = cuts.get(key);
  if (found === undefined) {
    if (cuts.size > 4000) cuts.clear();
    context.font = font;
    found = shorten(text, (part) => context.measureText(part).width <= room);
    cuts.set(key, found);
  }
  return found;
}

// Cut at whole characters, as the eye counts them.
function shorten(text, fits) {
  if (fits(text)) return text;
  const characters = [...text];
  let [low, high] = [0, characters.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (fits(`${characters.slice(0, middle).join("")}…`)) low = middle;
    else high = middle - 1;
  }
  return `${characters.slice(0, low).join("")}…`;
}
