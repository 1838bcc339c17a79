// <vz-queue>: the free queue from the block that goes next to the one that goes last. Both ends are
// always in sight. A hit pulls its block out of the middle; what is given back slides in.

import { queueMotion } from "#core/poolview.js";
import { SANS, write } from "#view/paint.js";
import { ScrollCanvas } from "#view/scrollcanvas.js";
import { drawMarks, drawTag } from "#view/tag.js";
import { theme } from "#view/theme.js";
import { cut } from "#view/words.js";

const PLACE = 36; // the number in line
const SHIFT = 28;
const WORDS = `12px ${SANS}`;

class Queue extends ScrollCanvas {
  // data: {free, before: ids | null, faces, words: (face) → text, row: height of one, lit, faded}
  paint(context, width, height) {
    const { free, before, row } = this.data;
    this.stretch(free.length * row, height);
    if (this.leftOut) return void this.#shorten(context, width);
    const first = Math.floor(this.top / row);
    const last = Math.ceil((this.top + height) / row) + 1;
    for (const { id, at, alpha, shift } of queueMotion(free, before, this.progress, first, last)) {
      this.#drawRow(context, id, at * row - this.top, Math.round(at), width, alpha, shift);
    }
    if (free.length * row <= height) return;
    if (this.top > 0) this.#pin(context, free[0], 0, 0, width);
    if (this.top + height < free.length * row - 1) this.#pin(context, free.at(-1), height - row, free.length - 1, width);
  }

  get count() {
    return this.data?.free.length;
  }

  // In a picture: who goes next, how many more, who goes last.
  #shorten(context, width) {
    const { free, row } = this.data;
    const { from, to } = this.leftOut;
    for (let at = 0; at < from; at += 1) this.#drawRow(context, free[at], at * row, at, width, 1, 0);
    write(context, `… ${to - from} more`, PLACE, from * row + row / 2 + 4.5, theme.colours.dim, WORDS);
    this.#drawRow(context, free[to], (from + 1) * row, to, width, 1, 0);
  }

  // An end that is scrolled out of sight stands over the others.
  #pin(context, id, y, at, width) {
    const { row } = this.data;
    context.fillStyle = theme.colours.background;
    context.fillRect(0, y, width, row);
    context.fillStyle = theme.colours.rule;
    context.fillRect(0, at ? y : y + row - 1, width, 1);
    this.#drawRow(context, id, y, at, width, 1, 0);
  }

  #drawRow(context, id, y, at, width, alpha, shift) {
    const { faces, row, lit, faded, free, digits, words } = this.data;
    const face = faces[id - 1];
    const middle = y + row / 2;
    const looked = lit?.block === id;
    context.globalAlpha = alpha * (lit && !lit.blocks.has(id) ? faded : 1);
    const x = PLACE - shift * SHIFT;
    const place = at === 0 ? "next" : at === free.length - 1 ? "last" : `${at + 1}`;
    write(context, place, PLACE - 8, middle + 4, at === 0 ? theme.colours.text : theme.colours.dim, `11px ${SANS}`, "right");
    const tag = digits * 8 + 14;
    drawTag(context, face, x, middle - 10, tag, 20, { ring: looked });
    const end = drawMarks(context, face, x + tag + 6, middle + 4.5);
    const left = Math.max(end + 4, x + tag + 22);
    const text = cut(context, words(face), width - left, WORDS);
    write(context, text, left, middle + 4.5, theme.colours.dim, WORDS);
    context.globalAlpha = 1;
  }

  hit({ y }) {
    if (!this.data) return null;
    const { free, row } = this.data;
    const inside = y - this.top;
    const height = this.clientHeight / theme.scale;
    const overflows = free.length * row > height;
    const at = overflows && inside < row ? 0 : overflows && inside >= height - row ? free.length - 1 : Math.floor(y / row);
    return at in free ? { block: free[at] } : null;
  }

  // --- the cursor on cells -----------------------------------------------------------------------

  cellOf(block) {
    return Math.max(this.data.free.indexOf(block), 0);
  }

  move(at, key) {
    const { free, row } = this.data;
    const by = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 10, ArrowLeft: -10 }[key];
    const next = Math.min(Math.max(at + by, 0), free.length - 1);
    const height = this.clientHeight / theme.scale;
    this.reveal((next - 1) * row, 3 * row, height);
    return next;
  }

  cell(at) {
    const { free } = this.data;
    return at in free ? { block: free[at], words: `number ${at + 1} of ${free.length} to go` } : null;
  }
}

customElements.define("vz-queue", Queue);
