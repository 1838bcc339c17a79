// How a token and a block look: the one place that draws them, for rows, budget bar and pool.
//
// Hue says which request. Fill says the state of a slot. Outline and mark say what happened now.

import { FILLED, NO_TOKEN, OUTPUT, RAN, REUSED, slotGrid } from "#core/layout.js";
import { wordStrength } from "#core/palette.js";
import { slots } from "#core/scene.js";
import { hueColour, pattern, theme, tint } from "#view/theme.js";

export const SANS = 'system-ui, -apple-system, "Segoe UI", "Helvetica Neue", sans-serif';
export const MONO = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';

// --- a token -----------------------------------------------------------------------------------

function shape(context, output, x, y, w, h) {
  context.beginPath();
  if (output) {
    const r = Math.min(w, h) / 2;
    context.roundRect(x, y, w, h, r);
  } else {
    context.roundRect(x, y, w, h, Math.min(w, h) >= 8 ? 2 : 1);
  }
}

// ■ prompt, ● output: the shape. Filled: computed; hatched: reused; hollow: known, not computed.
// A bright rim: it ran in this step; `progress` 0…1 lets it fill.
export function drawToken(context, flags, x, y, w, h, colour, progress = 1) {
  if (w < 6) {
    drawSliver(context, flags, x, y, w, h, colour, progress);
    return;
  }
  const output = flags & OUTPUT;
  if (flags & REUSED) {
    shape(context, output, x, y, w, h);
    context.fillStyle = tint(colour, 0.3);
    context.fill();
    context.fillStyle = pattern(context, "diagonal", colour, devicePixelRatio);
    context.fill();
    outline(context, output, x, y, w, h, colour, 1);
  } else if (flags & FILLED) {
    shape(context, output, x, y, w, h);
    if (flags & RAN && progress < 1) {
      outline(context, output, x, y, w, h, colour, 1.25);
      context.save();
      shape(context, output, x, y, w, h);
      context.clip();
      context.fillStyle = colour;
      context.fillRect(x, y + h * (1 - progress), w, h * progress);
      context.restore();
    } else {
      context.fillStyle = colour;
      context.fill();
    }
  } else {
    outline(context, output, x, y, w, h, colour, 1.25);
  }
  if (flags & RAN) {
    const strength = context.globalAlpha;
    context.globalAlpha = strength * progress;
    outline(context, output, x - 0.5, y - 0.5, w + 1, h + 1, theme.colours.rim, w >= 9 ? 2 : 1.25);
    context.globalAlpha = strength;
  }
}

function outline(context, output, x, y, w, h, colour, width) {
  shape(context, output, x + width / 2, y + width / 2, w - width, h - width);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}

// Too narrow for shapes: prompt is a full bar, output a half one, open a thin line at the foot.
export function drawSliver(context, flags, x, y, w, h, colour, progress) {
  const output = flags & OUTPUT;
  const filled = flags & (FILLED | REUSED);
  const height = !filled ? Math.min(2, h) : output ? h * 0.6 : h;
  context.fillStyle = flags & REUSED ? tint(colour, 0.45) : colour;
  context.fillRect(x, y + h - height, w, height);
  if (flags & RAN && progress > 0.5) {
    context.fillStyle = theme.colours.rim;
    context.fillRect(x, y + h - (output ? h * 0.6 : h) - 2, w, 2);
  }
}

// --- a block -----------------------------------------------------------------------------------

// Colours of those who hold it, one a band.
export function bandColours(face) {
  return face.owners.slice(0, 8).map((owner) => hueColour(owner.row.hue));
}

export function fillBands(context, colours, x, y, w, h, share) {
  const width = w / colours.length;
  colours.forEach((colour, i) => {
    context.fillStyle = share < 1 ? tint(colour, share) : colour;
    context.fillRect(x + i * width, y, width + 0.5, h);
  });
}

// Border: solid in use, double if shared, thin if free and cached, dashed if blank.
export function border(context, face, x, y, s, colours, h = s) {
  const line = (inset, width, colour, dash = []) => {
    context.setLineDash(dash);
    context.strokeStyle = colour;
    context.lineWidth = width;
    const d = inset + width / 2;
    context.beginPath();
    context.roundRect(x + d, y + d, s - 2 * d, h - 2 * d, s >= 60 ? 4 : 2);
    context.stroke();
    context.setLineDash([]);
  };
  if (face.state === "blank") return line(0, 1, theme.colours.faint, [3, 3]);
  if (face.state === "cached") return line(0, 1, theme.colours.grey);
  const width = s >= 60 ? 2 : 1.5;
  if (face.state === "used") return line(0, width, colours[0]);
  const stripe = context.createLinearGradient(x, 0, x + s, 0);
  colours.forEach((colour, i) => {
    stripe.addColorStop(i / colours.length, colour);
    stripe.addColorStop((i + 1) / colours.length, colour);
  });
  line(0, width - 0.5, stripe);
  line(width + 1.5, 1, stripe);
}

export function write(context, text, x, y, colour, font, align = "left") {
  context.font = font;
  context.textAlign = align;
  context.textBaseline = "alphabetic";
  context.fillStyle = colour;
  fillWords(context, text, x, y);
}

// Words of what steps back stay fit to read while its drawing fades.
export function fillWords(context, text, x, y) {
  const strength = context.globalAlpha;
  context.globalAlpha = wordStrength(strength);
  context.fillText(text, x, y);
  context.globalAlpha = strength;
}

// A block of 60 px or more: id, marks, owners, a cell for each slot.
function drawLarge(context, face, x, y, s, progress) {
  const { colours } = theme;
  const bands = bandColours(face);
  const unit = s / 72;
  const inner = Math.round(6 * unit);
  context.save();
  context.beginPath();
  context.roundRect(x, y, s, s, 4);
  context.clip();
  if (bands.length) fillBands(context, bands, x, y, s, s, 0.16);
  if (face.state === "cached") {
    context.fillStyle = pattern(context, "diagonal", tint(colours.grey, 0.36), devicePixelRatio);
    context.fillRect(x, y, s, s);
  }
  context.restore();
  border(context, face, x, y, s, bands);

  const small = `${Math.round(11 * unit)}px ${MONO}`;
  const bold = `700 ${Math.round(13 * unit)}px ${SANS}`;
  const top = y + Math.round(16 * unit);
  const quiet = face.state === "blank" || face.state === "cached";
  write(context, face.id, x + inner, top, quiet ? colours.dim : colours.text, small);
  let right = x + s - inner;
  if (face.hashed) {
    write(context, "◆", right, top, face.hashedNow ? colours.rim : colours.dim, small, "right");
    right -= Math.round(12 * unit);
  }
  if (face.marks) write(context, face.marks, right, top, colours.rim, bold, "right");

  drawSlots(context, face, x, y, s, progress);
  const foot = y + s - Math.round(8 * unit);
  const owners = face.owners.slice(0, face.owners.length > 3 ? 2 : 3);
  const size = Math.round(11 * unit);
  owners.forEach(({ row }, i) => {
    const line = foot - (owners.length - 1 - i + (face.ref > 1 ? 1 : 0)) * Math.round(13 * unit);
    write(context, row.req, x + inner, line, colours.text, `600 ${size}px ${MONO}`);
  });
  if (face.ref > 1) write(context, `×${face.ref}`, x + inner, foot, colours.text, `600 ${size}px ${MONO}`);
  if (!owners.length && face.held) {
    write(context, face.held.req, x + inner, foot, colours.dim, `${size}px ${MONO}`);
  }
}

// The slots, at the lower right.
function drawSlots(context, face, x, y, s, progress) {
  const unit = s / 72;
  const room = Math.round(42 * unit);
  const left = x + s - room - Math.round(5 * unit);
  const top = y + s - room - Math.round(5 * unit);
  const layout = slotGrid(face.size, room);
  const flags = slots(face);
  if (!layout) return drawFillBar(context, face, flags, left, top, room);
  const { columns, pitch, cell } = layout;
  const shared = bandColours(face);
  const colour = shared[0] ?? theme.colours.grey;
  flags.forEach((flag, i) => {
    const [cx, cy] = [left + (i % columns) * pitch, top + Math.floor(i / columns) * pitch];
    if (flag === NO_TOKEN) {
      context.fillStyle = tint(theme.colours.grey, 0.22);
      const dot = cell >= 8 ? 2 : 1;
      context.fillRect(cx + (cell - dot) / 2, cy + (cell - dot) / 2, dot, dot);
    } else if (shared.length > 1) {
      drawShared(context, flag, cx, cy, cell, shared);
    } else {
      const faded = face.owners.length === 0;
      drawToken(context, flag, cx, cy, cell, cell, faded ? tint(colour, 0.55) : colour, progress);
    }
  });
}

// Where a slot is drawn in a block at (x, y): {x, y, w, h}; null where slots are not drawn one by one.
export function slotBox(size, index, x, y, s) {
  const unit = s / 72;
  const room = Math.round(42 * unit);
  const grid = slotGrid(size, room);
  if (!grid) return null;
  const { columns, pitch, cell } = grid;
  const [left, top] = [x + s - room - Math.round(5 * unit), y + s - room - Math.round(5 * unit)];
  return { x: left + (index % columns) * pitch, y: top + Math.floor(index / columns) * pitch, w: cell, h: cell };
}

// A shared slot: a band for each owner.
export function drawShared(context, flag, x, y, cell, colours) {
  context.save();
  shape(context, flag & OUTPUT, x, y, cell, cell);
  context.clip();
  fillBands(context, colours, x, y, cell, cell, 1);
  context.restore();
  if (flag & RAN) outline(context, flag & OUTPUT, x - 0.5, y - 0.5, cell + 1, cell + 1, theme.colours.rim, 1.5);
}

function drawFillBar(context, face, flags, x, y, room) {
  const share = flags.filter((flag) => flag > 0 && flag & (FILLED | REUSED)).length / face.size;
  context.fillStyle = tint(theme.colours.grey, 0.3);
  context.fillRect(x, y, room, room);
  context.fillStyle = bandColours(face)[0] ?? theme.colours.grey;
  context.fillRect(x, y + room * (1 - share), room, room * share);
}

// 44 px: as large, with one bar in place of the slots.
function drawMiddle(context, face, x, y, s) {
  const { colours } = theme;
  const bands = bandColours(face);
  if (bands.length) fillBands(context, bands, x + 1, y + 1, s - 2, s - 2, 0.2);
  if (face.state === "cached") {
    context.fillStyle = pattern(context, "diagonal", tint(colours.grey, 0.36), devicePixelRatio);
    context.fillRect(x, y, s, s);
  }
  border(context, face, x, y, s, bands);
  const quiet = !bands.length;
  write(context, face.id, x + 5, y + 13, quiet ? colours.dim : colours.text, `10px ${MONO}`);
  const sign = face.marks || (face.hashed ? "◆" : "");
  const font = face.marks ? `700 13px ${SANS}` : `9px ${MONO}`;
  write(context, sign, x + s - 5, y + 13, face.marks ? colours.rim : colours.dim, font, "right");
  const holder = face.ref > 1 ? `×${face.ref}` : face.owners[0]?.row.req ?? face.held?.req ?? "";
  write(context, holder, x + 5, y + s - 11, quiet ? colours.dim : colours.text, `600 11px ${MONO}`);
  const filled = slots(face).filter((flag) => flag > 0 && flag & (FILLED | REUSED)).length;
  if (!filled) return;
  const width = ((s - 8) * filled) / face.size;
  if (bands.length) fillBands(context, bands, x + 4, y + s - 8, width, 4, 1);
  else {
    context.fillStyle = tint(colours.grey, 0.5);
    context.fillRect(x + 4, y + s - 8, width, 4);
  }
}

// 28 px: hue and one mark. Smaller: hue.
function drawSmall(context, face, x, y, s) {
  const bands = bandColours(face);
  if (bands.length) {
    // Grey stands for many: held back, so that the eight hues are seen among it.
    fillBands(context, bands, x, y, s, s, bands.every((band) => band === theme.colours.grey) ? 0.5 : 1);
    if (s >= 12) hatchBands(context, face, x, y, s);
  } else if (face.state === "cached") {
    context.fillStyle = pattern(context, "diagonal", tint(theme.colours.grey, 0.6), devicePixelRatio);
    context.fillRect(x, y, s, s);
  }
  if (!bands.length || face.state === "shared") border(context, face, x, y, s, bands);
  if (s >= 24) {
    const text = face.marks ? face.marks.slice(-1) : face.ref > 1 ? `×${face.ref}` : "";
    const ink = bands.length && bands[0] !== theme.colours.grey ? theme.colours.ink : theme.colours.text;
    if (text) {
      const size = face.marks ? 17 : 11;
      write(context, text, x + s / 2, y + s / 2 + size * 0.36, ink, `700 ${size}px ${SANS}`, "center");
    }
  } else if (face.marks) {
    context.strokeStyle = theme.colours.rim;
    context.lineWidth = 2;
    context.strokeRect(x + 1, y + 1, s - 2, s - 2);
  }
}

function hatchBands(context, face, x, y, s) {
  const hue = face.owners[0].row.hue;
  const name = hue >= 0 ? theme.hatches[hue] : "plain";
  if (name === "plain") return;
  context.globalAlpha *= 0.45;
  context.fillStyle = pattern(context, name, theme.colours.ink, devicePixelRatio);
  context.fillRect(x, y, s, s);
  context.globalAlpha /= 0.45;
}

export function drawBlock(context, face, x, y, detail, size, progress = 1) {
  if (detail === "slots") drawLarge(context, face, x, y, size, progress);
  else if (detail === "name") drawMiddle(context, face, x, y, size);
  else drawSmall(context, face, x, y, size);
}
