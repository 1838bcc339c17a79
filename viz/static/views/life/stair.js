// <vz-stair>: how much of a request was computed after each step. Across, the steps; up, its
// sequence in rows of one block. Beneath, what ran, and why not more.

import { whyNot } from "#core/life.js";
import { mix } from "#core/palette.js";
import { CanvasElement } from "#view/canvas.js";
import { MONO, SANS } from "#view/paint.js";
import { hueColour, pattern, theme, tint } from "#view/theme.js";

export const HEAD = 22;
export const RAN = 22;
export const WHY = 20;
const [PITCH_LEAST, PITCH_MOST] = [28, 64];
const FOLDED = ({ count }) => Math.min(Math.max(count / 24, 2.5), 7); // as wide as so many columns
const [ROW_MOST, ROWS_HEIGHT, ROWS_MOST] = [24, 184, 40];
const WIDEST = 14_000; // of a canvas, in pixels

// Where everything stands, in layout numbers. `shown`: columns of foldColumns; `rows`: blocks.
export function stairLayout(shown, rows, tokens, size, room) {
  const weights = shown.map((item) => (item.column ? 1 : FOLDED(item)));
  const total = weights.reduce((sum, weight) => sum + weight, 0) || 1;
  const pitch = Math.min(Math.max(Math.min(Math.floor(room / total), PITCH_MOST), PITCH_LEAST), WIDEST / total);
  let x = 0;
  const columns = shown.map((item, i) => {
    const width = weights[i] * pitch;
    x += width;
    return { x: x - width, width, item };
  });
  const lines = rows <= ROWS_MOST; // else one plot with ticks
  const rowHeight = lines ? Math.min(Math.max(Math.floor(ROWS_HEIGHT / Math.max(rows, 1)), 5), ROW_MOST) : ROWS_HEIGHT / rows;
  const plot = Math.max(rowHeight * rows, ROW_MOST);
  return { columns, pitch, width: x, rows, rowHeight, plot, perToken: rowHeight / size, size, tokens, height: HEAD + plot + RAN + WHY };
}

class Stair extends CanvasElement {
  connectedCallback() {
    super.connectedCallback();
    this.addEventListener("pointermove", (event) => this.tell("stair-point", this.#hit(event)));
    this.addEventListener("pointerleave", () => this.tell("stair-point", null));
    this.addEventListener("click", (event) => this.tell("stair-pick", this.#hit(event)));
  }

  #hit(event) {
    if (!this.data) return null;
    const { x, y } = this.place(event);
    const { columns, rowHeight, plot, rows } = this.data.layout;
    const at = columns.find((column) => x >= column.x && x < column.x + column.width);
    if (!at) return null;
    const row = Math.floor((HEAD + plot - y) / rowHeight);
    const share = (x - at.x) / at.width;
    const { item } = at;
    const step = item.column ? item.column.step : item.from + Math.floor(share * item.count);
    return { step, row: row >= 0 && row < rows && y >= HEAD ? row : null, below: y >= HEAD + plot };
  }

  // data: {layout, hue, step, point: step | null, periods, preempted: tokens lost by step}
  paint(context, width, height) {
    const { layout, step, point } = this.data;
    for (const column of layout.columns) {
      if (this.#holds(column, step)) this.#highlight(context, column, step, height);
      else if (point !== null && this.#holds(column, point)) {
        context.fillStyle = theme.colours.surface;
        context.fillRect(column.x, 0, column.width, height);
      }
    }
    this.#paintRows(context, width);
    for (const column of layout.columns) {
      context.globalAlpha = (column.item.column?.step ?? column.item.from) > step ? 0.6 : 1;
      if (column.item.column) this.#paintColumn(context, column);
      else this.#paintFolded(context, column);
    }
    context.globalAlpha = 1;
    this.#paintBlockLines(context, width);
    this.#paintNames(context);
    this.#paintToken(context, width);
    this.#paintWhys(context, step);
  }

  #holds({ item }, step) {
    return item.column ? item.column.step === step : step >= item.from && step <= item.to;
  }

  #highlight(context, { x, width, item }, step, height) {
    const at = item.column ? x : x + (width * (step - item.from)) / item.count;
    const wide = item.column ? width : Math.max(width / item.count, 3);
    context.fillStyle = mix(theme.colours.dim, theme.colours.background, 0.2);
    context.fillRect(at, 0, wide, height);
    context.fillStyle = theme.colours.text;
    context.fillRect(at, 0, wide, 2);
  }

  #paintRows(context, width) {
    const { plot, rows, rowHeight } = this.data.layout;
    context.fillStyle = theme.colours.rule;
    const every = Math.max(Math.ceil(8 / rowHeight), 1);
    for (let row = 0; row <= rows; row += every) context.fillRect(0, HEAD + plot - row * rowHeight - 0.5, width, 1);
  }

  #y(tokens) {
    const { plot, perToken } = this.data.layout;
    return HEAD + plot - tokens * perToken;
  }

  #paintColumn(context, { x, width, item }) {
    const { column } = item;
    const colour = hueColour(this.data.hue);
    const [left, wide] = [x + 1, width - 2];
    this.#known(context, column, x, width);
    const bar = (from, to, fill) => {
      if (to <= from) return;
      context.fillStyle = fill;
      context.fillRect(left, this.#y(to), wide, this.#y(from) - this.#y(to));
    };
    const reused = Math.min(column.reused, column.computed);
    if (reused) {
      bar(0, reused, tint(colour, 0.25));
      bar(0, reused, pattern(context, "diagonal", colour, devicePixelRatio));
    }
    const before = column.computed - column.ran;
    bar(reused, before, tint(colour, 0.5));
    bar(Math.max(before, reused), column.computed, colour);
    if (column.ran) {
      context.fillStyle = theme.colours.rim;
      context.fillRect(left, this.#y(column.computed) - 1, wide, 2);
    }
    if (column.victim?.tokens_lost) this.#cliff(context, column, left, wide, colour);
    this.#words(context, x + width / 2, column);
  }

  // What there is to compute: a thin line that the bars run after.
  #known(context, { known }, x, width) {
    context.fillStyle = theme.colours.faint;
    const y = Math.round(this.#y(known));
    for (let dash = x; dash < x + width - 1; dash += 5) context.fillRect(dash, y - 0.5, 3, 1);
  }

  // What a preemption took: hollow, from where it stood to the ground.
  #cliff(context, { victim }, left, wide, colour) {
    const top = this.#y(victim.tokens_lost);
    context.strokeStyle = colour;
    context.lineWidth = 1.25;
    context.setLineDash([3, 3]);
    context.strokeRect(left + 1, top, wide - 2, this.#y(0) - top);
    context.setLineDash([]);
    context.fillStyle = theme.colours.text;
    context.font = `600 15px ${SANS}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText("!", left + wide / 2, (top + this.#y(0)) / 2);
  }

  #paintFolded(context, { x, width, item }) {
    const colour = hueColour(this.data.hue);
    const { first, last, count, band } = item;
    this.#known(context, first, x, width);
    if (last.computed) {
      const from = first.computed - first.ran;
      const reused = Math.min(first.reused, from);
      context.fillStyle = tint(colour, 0.5);
      context.beginPath();
      context.moveTo(x, this.#y(reused));
      context.lineTo(x, this.#y(from));
      context.lineTo(x + width, this.#y(last.computed));
      context.lineTo(x + width, this.#y(reused));
      context.fill();
      if (reused) {
        context.fillStyle = pattern(context, "diagonal", colour, devicePixelRatio);
        context.fillRect(x, this.#y(reused), width, this.#y(0) - this.#y(reused));
      }
      context.strokeStyle = theme.colours.rim;
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(x, this.#y(from));
      context.lineTo(x + width, this.#y(last.computed));
      context.stroke();
    }
    const { plot } = this.data.layout;
    this.#text(context, "…", x + width / 2, HEAD / 2 + 1, theme.colours.dim);
    this.#text(context, `×${count}`, x + width / 2, HEAD + plot + RAN / 2, theme.colours.text);
    this.#text(context, band === "decode" ? "decodes" : "", x + width / 2, HEAD + plot + RAN + WHY / 2, theme.colours.dim, 10);
  }

  #words(context, x, column) {
    const { plot, pitch } = this.data.layout;
    const here = column.step === this.data.step;
    if (pitch >= 20 || column.step % 5 === 0) {
      this.#text(context, String(column.step), x, HEAD / 2 + 1, here ? theme.colours.text : theme.colours.dim, 12, here ? 600 : 400);
    }
    if (pitch < 14) return;
    const ran = column.ran ? String(column.ran) : column.victim ? "!" : "–";
    const words = column.mark === "✓" || column.mark === "⊘" ? `${column.ran || ""}${column.mark}` : ran;
    this.#text(context, words, x, HEAD + plot + RAN / 2, column.ran ? theme.colours.text : theme.colours.dim, 12, column.ran ? 600 : 400);
  }

  #text(context, words, x, y, colour, size = 12, weight = 400) {
    context.font = `${weight} ${size}px ${MONO}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = colour;
    context.fillText(words, x, y);
  }

  #paintBlockLines(context, width) {
    const { plot, rows, rowHeight } = this.data.layout;
    if (rowHeight < 4) return;
    context.fillStyle = theme.colours.background;
    for (let row = 1; row < rows; row += 1) context.fillRect(0, HEAD + plot - row * rowHeight - 0.75, width, 1.5);
  }

  // The token that is looked at: its line through all steps, and its cell in the cursor's.
  #paintToken(context, width) {
    const { token, step, layout } = this.data;
    if (token === null || token === undefined) return;
    const y = this.#y(token + 1);
    const h = Math.max(layout.perToken, 2);
    context.fillStyle = theme.colours.dim;
    for (let x = 0; x < width; x += 6) context.fillRect(x, y + h / 2 - 0.5, 2, 1);
    const at = layout.columns.find((column) => this.#holds(column, step));
    if (!at) return;
    context.strokeStyle = theme.colours.focus;
    context.lineWidth = 2;
    context.strokeRect(at.x + 1, y - 1, at.width - 2, h + 2);
    context.lineWidth = 1;
  }

  // The physical block where a row got it, and where it became another.
  #paintNames(context) {
    const { columns, rowHeight, plot, size, pitch } = this.data.layout;
    if (rowHeight < 14 || pitch < 22) return;
    this.data.periods.forEach((periods, logical) => {
      for (const { block, from } of periods) {
        const at = columns.find((column) => this.#holds(column, from));
        if (!at?.item.column) continue;
        const { computed, step, reused, ran } = at.item.column;
        const filled = Math.min(Math.max(computed - logical * size, 0), size) / size;
        const solid = filled > 0.6 && logical * size >= reused && computed - ran <= logical * size;
        const y = HEAD + plot - (logical + 0.5) * rowHeight + 0.5;
        const x = at.x + at.width / 2;
        const future = step > this.data.step;
        if (!solid) { // nothing of a hatch or a line shall cross it
          context.fillStyle = filled && logical * size < reused ? tint(hueColour(this.data.hue), 0.25) : theme.colours.background;
          const wide = 7 * String(block).length + 6;
          context.fillRect(x - wide / 2, y - 7, wide, 13);
        }
        const ink = solid && !future ? theme.colours.ink : future ? theme.colours.dim : theme.colours.text;
        this.#text(context, String(block), x, y, ink, Math.min(rowHeight - 6, 11), 600);
      }
    });
  }

  // One word under each stretch of columns that wait for the same.
  #paintWhys(context, step) {
    const { columns, plot } = this.data.layout;
    const y = HEAD + plot + RAN + WHY / 2;
    for (let i = 0; i < columns.length; ) {
      const own = ({ item }) => (item.column ? whyNot(item.column) : item.why);
      const words = own(columns[i]);
      let end = i + 1;
      while (words && end < columns.length && own(columns[end]) === words) end += 1;
      if (words) {
        const [from, to] = [columns[i].x, columns[end - 1].x + columns[end - 1].width];
        let room = to - from;
        for (let k = end; k < columns.length && !own(columns[k]); k += 1) room += columns[k].width;
        const past = (columns[i].item.column?.step ?? columns[i].item.from) <= step;
        context.globalAlpha = past ? 1 : 0.6;
        context.font = `400 11px ${SANS}`;
        context.textBaseline = "middle";
        context.fillStyle = theme.colours.dim;
        const centred = context.measureText(words).width <= to - from;
        context.textAlign = centred ? "center" : "left";
        context.fillText(words, centred ? (from + to) / 2 : from + 1, y, Math.max(room, to - from) - 2);
        if (end - i > 1) {
          context.fillStyle = theme.colours.faint;
          context.fillRect(from + 3, y - 9, to - from - 6, 1);
        }
        context.globalAlpha = 1;
      }
      i = Math.max(end, i + 1);
    }
  }
}

customElements.define("vz-stair", Stair);

// <vz-ministair>: a whole life in a hundred pixels, for the list of requests.
class MiniStair extends CanvasElement {
  // data: {columns, hue, from, to, most}: the run's first and last step, the longest sequence
  paint(context, width, height) {
    const { columns, hue, from, to, most } = this.data;
    const colour = hueColour(hue);
    const pitch = width / Math.max(to - from + 1, 1);
    context.fillStyle = theme.colours.rule;
    context.fillRect(0, height - 1, width, 1);
    for (const { step, computed, ran, victim } of columns) {
      const x = (step - from) * pitch;
      const wide = Math.max(pitch - (pitch > 4 ? 1 : 0), 0.75);
      const h = (computed / most) * (height - 3);
      context.fillStyle = ran ? colour : tint(colour, 0.5);
      if (computed) context.fillRect(x, height - 1 - h, wide, h);
      else {
        context.fillStyle = theme.colours.faint;
        context.fillRect(x, height - 4, wide, 3);
      }
      if (victim) {
        context.fillStyle = theme.colours.text;
        context.fillRect(x, 2, Math.min(Math.max(wide, 1.5), 2.5), height - 4);
      }
    }
  }
}

customElements.define("vz-ministair", MiniStair);
