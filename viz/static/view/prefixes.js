// <vz-prefixes>: the cached blocks as a tree, each under the block that its content follows. What
// was evicted in this step stands once more where it stood, struck out.

import { MONO, SANS, write } from "#view/paint.js";
import { ScrollCanvas } from "#view/scrollcanvas.js";
import { drawMarks, drawTag } from "#view/tag.js";
import { theme, tint } from "#view/theme.js";
import { cut } from "#view/words.js";

const LEFT = 4; // room for a ring
const INDENT = 11;
const DEEPEST = 9; // a deeper node is indented no further: a line goes down from one to the next
const MOST_TWINS = 3;
const WORDS = `12px ${SANS}`;

class Prefixes extends ScrollCanvas {
  // data: {rows, faces, text: (hash) → words, digits, row: height of one, lit, faded}
  paint(context, width, height) {
    const { row } = this.data;
    const { rows } = this;
    this.stretch(rows.length * row, height);
    const first = Math.floor(this.top / row);
    for (let at = first; at < Math.min(rows.length, first + Math.ceil(height / row) + 1); at += 1) {
      this.#drawRow(context, rows[at], at * row - this.top, width);
    }
    this.#drawRails(context, first, height);
    if (this.leftOut) write(context, `… ${this.count - rows.length} more`, LEFT, rows.length * row + row / 2 + 4.5, theme.colours.dim, WORDS);
  }

  get count() {
    return this.data?.rows.length;
  }

  // Of a picture the first ones.
  get rows() {
    return this.leftOut ? this.data.rows.slice(0, this.leftOut.from + 1) : this.data.rows;
  }

  // From a node down to its children.
  #drawRails(context, first, height) {
    const { row } = this.data;
    const { rows } = this;
    context.strokeStyle = theme.colours.faint;
    context.lineWidth = 1;
    const until = Math.min(rows.length, first + Math.ceil(height / row) + 1);
    for (let at = first; at < until; at += 1) {
      const { depth, lost } = rows[at];
      if (!depth) continue;
      let parent = at - 1;
      while (parent >= 0 && rows[parent].depth >= depth && parent >= first - 1) parent -= 1;
      const x = indent(Math.min(depth, DEEPEST) - 1) + 6.5;
      const y = Math.round(at * row - this.top + row / 2) + 0.5;
      const top = parent < 0 ? 0 : parent * row - this.top + row / 2 + (depth > DEEPEST ? 0 : 10);
      context.setLineDash(lost ? [2, 3] : []);
      context.beginPath();
      context.moveTo(x, Math.max(top, -1));
      context.lineTo(x, y);
      context.lineTo(indent(depth) - 1, y);
      context.stroke();
    }
    context.setLineDash([]);
  }

  #drawRow(context, node, y, width) {
    const { faces, row, lit, faded, digits, text } = this.data;
    const { blocks, depth, gone, lost, hash } = node;
    const { colours } = theme;
    const middle = y + row / 2;
    context.globalAlpha = lit && !blocks.some((id) => lit.blocks.has(id)) ? faded : gone ? 0.75 : 1;
    let x = indent(depth);
    const tag = digits * 8 + 12;
    for (const id of blocks.slice(0, MOST_TWINS)) {
      if (gone) write(context, id, x + tag / 2, middle + 4.5, colours.dim, `600 12px ${MONO}`, "center");
      else drawTag(context, faces[id - 1], x, middle - 10, tag, 20, { ring: lit?.block === id });
      x += tag + 4;
    }
    if (blocks.length > MOST_TWINS) {
      write(context, `+${blocks.length - MOST_TWINS}`, x, middle + 4.5, colours.dim, `11px ${MONO}`);
      x += 24;
    }
    const face = faces[blocks[0] - 1];
    const end = gone ? mark(context, "✕", x + 2, middle) : drawMarks(context, { ...face, hashed: face.hashedNow }, x + 2, middle + 4.5);
    const refs = gone ? 0 : blocks.reduce((sum, id) => sum + faces[id - 1].ref, 0);
    const right = gone ? node.missed : refs ? `×${refs}` : "";
    if (right) write(context, right, width - 2, middle + 4.5, colours.text, `600 11px ${MONO}`, "right");
    const room = width - end - 8 - (right ? context.measureText(right).width + 8 : 0);
    const words = cut(context, text(hash), room, WORDS);
    const quiet = gone || lost || !refs;
    write(context, words, end + 4, middle + 4.5, quiet ? colours.dim : colours.text, WORDS);
    if (gone || lost) this.#strike(context, end + 4, middle, context.measureText(words).width, gone);
    context.globalAlpha = 1;
  }

  // Forgotten: struck out. Lost, as what comes before it is forgotten: underlined with dots.
  #strike(context, x, y, width, gone) {
    context.strokeStyle = theme.colours.dim;
    context.lineWidth = 1;
    context.setLineDash(gone ? [] : [1, 3]);
    context.beginPath();
    context.moveTo(x, y + (gone ? 0.5 : 8.5));
    context.lineTo(x + width, y + (gone ? 0.5 : 8.5));
    context.stroke();
    context.setLineDash([]);
  }

  hit({ x, y }) {
    if (!this.data) return null;
    const { rows, row, digits } = this.data;
    const node = rows[Math.floor(y / row)];
    if (!node) return null;
    const twin = Math.floor((x - indent(node.depth)) / (digits * 8 + 16));
    return { block: node.blocks[Math.min(Math.max(twin, 0), Math.min(node.blocks.length, MOST_TWINS) - 1)], hash: node.hash };
  }

  // --- the cursor on cells -----------------------------------------------------------------------

  cellOf(block) {
    return Math.max(this.data.rows.findIndex(({ blocks }) => blocks.includes(block)), 0);
  }

  // ← to the parent, → to the first child.
  move(at, key) {
    const { rows, row } = this.data;
    let next = at;
    if (key === "ArrowLeft") {
      while (next > 0 && rows[next].depth >= rows[at].depth) next -= 1;
    } else {
      next = Math.min(Math.max(at + (key === "ArrowUp" ? -1 : 1), 0), rows.length - 1);
    }
    this.reveal(next * row, row, this.clientHeight / theme.scale);
    return next;
  }

  cell(at) {
    const node = this.data.rows[at];
    if (!node) return null;
    const { text } = this.data;
    const twins = node.blocks.length > 1 ? `, twins ${node.blocks.join(", ")}` : "";
    return { block: node.blocks[0], words: `“${text(node.hash)}”, level ${node.depth + 1}${twins}${node.gone ? ", forgotten in this step" : node.lost ? ", cannot be hit: what comes before it is forgotten" : ""}` };
  }
}

const indent = (depth) => LEFT + Math.min(depth, DEEPEST) * INDENT;

function mark(context, sign, x, middle) {
  write(context, sign, x, middle + 4.5, theme.colours.rim, `700 13px ${SANS}`);
  return x + 14;
}

customElements.define("vz-prefixes", Prefixes);
