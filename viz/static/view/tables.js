// <vz-tables>: the block tables, logical → physical. Under each index the block that holds it; a
// line of words tells what of the request ran in this step. Many requests: a line each, then bars.

import { tableAt, tableCellXY, tablesLayout } from "#core/poolview.js";
import { MONO, SANS, write } from "#view/paint.js";
import { ScrollCanvas } from "#view/scrollcanvas.js";
import { drawRing, drawTag } from "#view/tag.js";
import { hueColour, pattern, theme, tint } from "#view/theme.js";
import { cut } from "#view/words.js";

const WORDS = `12px ${SANS}`;
const CHIP = { full: 22, compact: 18, dense: 8 };

class Tables extends ScrollCanvas {
  // data: {rows: [{req, hue, table}], faces, digits, whole, words: (row) → text, lit, faded}
  paint(context, width, height) {
    const { rows, digits, whole } = this.data;
    if (this.laid !== this.data || this.room !== `${width} ${height}`) {
      [this.laid, this.room] = [this.data, `${width} ${height}`];
      this.layout = tablesLayout(rows, width, height, digits, whole);
    }
    const { layout } = this;
    this.stretch(layout.height, height);
    layout.entries.forEach((entry, i) => {
      const y = entry.y - this.top;
      if (y + entry.height >= 0 && y < height) this.#drawEntry(context, rows[i], entry, layout, width);
    });
  }

  #drawEntry(context, row, entry, layout, width) {
    const { faces, words, lit, faded } = this.data;
    const { mode, cell, box, line, index } = layout;
    const y = entry.y - this.top;
    const strong = !lit || lit.requests.has(row.req);
    context.globalAlpha = strong ? 1 : faded;
    this.#drawName(context, row, y + index, mode, box);
    if (mode === "dense") {
      this.#drawBars(context, row, entry, layout, y, strong);
      context.globalAlpha = 1;
      return;
    }
    entry.shown.forEach((logical, k) => {
      const at = tableCellXY(layout, entry, k);
      const top = at.y - this.top;
      if (logical === null) {
        write(context, "…", at.x + cell / 2, top + box / 2 + 4, theme.colours.dim, `12px ${SANS}`, "center");
        return;
      }
      const id = row.table[logical];
      const face = faces[id - 1];
      context.globalAlpha = strong || lit.blocks.has(id) ? 1 : faded;
      if (index) write(context, logical, at.x + 1, top - 3, theme.colours.dim, `10px ${MONO}`);
      drawTag(context, face, at.x, top, cell - 4, box, { ring: lit?.block === id });
      const came = face.marks.replace(/[^+↺]/g, "");
      if (came) this.#drawMark(context, came, at.x + cell - 4, top);
    });
    context.globalAlpha = strong ? 1 : faded;
    if (layout.caption) {
      const text = cut(context, words(row), width - layout.name, WORDS);
      write(context, text, layout.name, y + entry.lines * line + 9, theme.colours.dim, WORDS);
    }
    context.globalAlpha = 1;
  }

  #drawName(context, { req, hue }, y, mode, box) {
    if (mode === "dense") {
      context.fillStyle = hueColour(hue);
      context.fillRect(0, y, 4, box);
      write(context, req, 7, y + 8, theme.colours.dim, `9px ${MONO}`);
      return;
    }
    const h = CHIP[mode];
    const top = y + (box - h) / 2;
    context.fillStyle = hueColour(hue);
    context.beginPath();
    context.roundRect(0, top, 44, h, 4);
    context.fill();
    const hatch = hue >= 0 ? theme.hatches[hue] : "plain";
    if (hatch !== "plain") {
      context.fillStyle = pattern(context, hatch, theme.colours.ink, devicePixelRatio);
      context.fillRect(3, top, 8, h);
    }
    write(context, req, 14, top + h / 2 + 4.5, theme.colours.ink, `600 12px ${MONO}`);
  }

  // At the upper right corner of its tag, on the page's own colour, so that it is read.
  #drawMark(context, marks, right, top) {
    context.font = `700 12px ${SANS}`;
    const width = context.measureText(marks).width;
    context.fillStyle = theme.colours.background;
    context.fillRect(right - width, top - 8, width + 2, 8);
    write(context, marks, right + 1, top - 1, theme.colours.rim, `700 12px ${SANS}`, "right");
  }

  // One path a colour: own blocks, shared ones paler, and a stroke over those that came now.
  #drawBars(context, { hue, table }, entry, { name, cell, box }, y, strong) {
    const { faces, lit, faded } = this.data;
    const wide = Math.max(cell - (cell > 4 ? 1 : 0), 1);
    const fill = (colour, keep, top, height) => {
      context.fillStyle = colour;
      context.beginPath();
      // Neighbours that touch are one rectangle.
      for (let from = 0; from < table.length; from += 1) {
        if (!keep(faces[table[from] - 1])) continue;
        let to = from;
        while (wide === cell && to + 1 < table.length && keep(faces[table[to + 1] - 1])) to += 1;
        context.rect(name + from * cell, top, (to - from) * cell + wide, height);
        from = to;
      }
      context.fill();
    };
    const colour = hueColour(hue);
    fill(colour, ({ ref }) => ref === 1, y, box);
    fill(tint(colour, 0.55), ({ ref }) => ref > 1, y, box);
    fill(theme.colours.rim, ({ marks }) => marks !== "", y - 2, 2);
    if (!lit) return;
    context.globalAlpha = 1;
    if (!strong) fill(colour, ({ id }) => lit.blocks.has(id), y, box);
    const at = lit.block ? table.indexOf(lit.block) : -1;
    if (at >= 0) drawRing(context, name + at * cell, y, cell, box);
    context.globalAlpha = faded;
  }

  hit({ x, y }) {
    if (!this.layout) return null;
    const found = tableAt(this.layout, x, y);
    if (!found) return null;
    const { req } = found.entry;
    const row = this.data.rows.find((each) => each.req === req);
    const logical = found.k === null ? null : found.entry.shown[found.k];
    return { req, block: logical === null ? undefined : row.table[logical] };
  }

  // Where each block of a request stands in its row, in page pixels: [{block, x, y}].
  anchors(req) {
    const entry = this.layout?.entries.find((each) => each.req === req);
    if (!entry) return [];
    const { table } = this.data.rows.find((each) => each.req === req);
    const box = this.getBoundingClientRect();
    const { cell, box: size } = this.layout;
    return entry.shown.flatMap((logical, k) => {
      if (logical === null) return [];
      const at = tableCellXY(this.layout, entry, k);
      const y = at.y - this.top + size;
      if (y < 0 || y * theme.scale > box.height) return [];
      return [{ block: table[logical], x: box.left + (at.x + (cell - 4) / 2) * theme.scale, y: box.top + y * theme.scale }];
    });
  }

  // --- the cursor on cells -----------------------------------------------------------------------

  // Cells are counted through all tables, one after the other.
  get cells() {
    return this.data.rows.flatMap(({ req, table }) => table.map((block, logical) => ({ req, block, logical })));
  }

  cellOf(block) {
    return Math.max(this.cells.findIndex((each) => each.block === block), 0);
  }

  move(at, key) {
    const { cells } = this;
    let next = at;
    if (key === "ArrowRight" || key === "ArrowLeft") next += key === "ArrowRight" ? 1 : -1;
    else {
      const reqs = this.data.rows.map(({ req }) => req);
      const to = reqs[reqs.indexOf(cells[at]?.req) + (key === "ArrowDown" ? 1 : -1)];
      const found = cells.findIndex((each) => each.req === to && each.logical === Math.min(cells[at]?.logical ?? 0, this.#lengthOf(to) - 1));
      if (found >= 0) next = found;
    }
    next = Math.min(Math.max(next, 0), cells.length - 1);
    const entry = this.layout.entries.find((each) => each.req === cells[next]?.req);
    if (entry) this.reveal(entry.y, entry.height, this.clientHeight / theme.scale);
    return next;
  }

  #lengthOf(req) {
    return this.data.rows.find((row) => row.req === req)?.table.length ?? 0;
  }

  cell(at) {
    const found = this.cells[at];
    return found ? { req: found.req, block: found.block, words: `${found.req}, logical block ${found.logical}` } : null;
  }
}

customElements.define("vz-tables", Tables);
