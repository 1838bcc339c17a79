// <vz-cells>: requests × steps as cells; above them the steps' numbers, their marks, and what the
// budget and the pool were used for. The whole arithmetic is in core/timeline.js.

import { axisOf, pieces, ticks } from "#core/timeline.js";
import { CanvasElement } from "#view/canvas.js";
import { MONO, SANS, fillWords } from "#view/paint.js";
import { hueColour, pattern, theme, tint as mixed } from "#view/theme.js";

const NUMBERS = 18; // px, the line with the steps' numbers
const MARKS = 16;
const CHART = 40;
const DRAG = 5; // px: less is a click

// Thousands of cells have a dozen colours.
const shades = new Map();

function tint(colour, share) {
  const key = `${theme.name}${colour}${share}`;
  let shade = shades.get(key);
  if (!shade) shades.set(key, (shade = mixed(colour, share)));
  return shade;
}

// Where the lanes begin, below the head.
export const headOf = ({ marks, charts }) => NUMBERS + (marks ? MARKS : 0) + (charts.length ? CHART + 14 : 4);

class Cells extends CanvasElement {
  connectedCallback() {
    super.connectedCallback();
    this.addEventListener("pointerdown", (event) => this.#press(event));
    this.addEventListener("pointermove", (event) => this.#move(event));
    this.addEventListener("pointerup", (event) => this.#release(event));
    this.addEventListener("pointercancel", () => (this.drag = null));
    this.addEventListener("pointerleave", () => this.tell("cell-point", null));
    this.addEventListener("dblclick", () => this.tell("cell-whole", null));
    this.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  // data: {timeline, rows: [{row, hue, at}], lanes, lane: px, gutter: px, byName, view, byTime, step, first, hits,
  // marks, charts: [budget | kv], dim(req), faded, chosen, brush}. byName: a row has its request's name before it.
  paint(context, width, height) {
    const { timeline, view, gutter, byTime, lanes, lane } = this.data;
    const axis = (this.axis = axisOf(timeline, view, width - gutter, byTime));
    const top = headOf(this.data);
    context.save();
    context.beginPath();
    context.rect(gutter, 0, width - gutter, height);
    context.clip();
    context.translate(gutter, 0);
    this.#cursor(context, axis, top + lanes * lane);
    this.#numbers(context, axis);
    if (this.data.marks) this.#marks(context, axis);
    if (this.data.charts.length) this.#charts(context, axis, top - CHART - 10);
    for (const item of this.data.rows) this.#row(context, axis, item, top + item.at * lane);
    this.#divergence(context, axis, top + lanes * lane);
    if (this.drag?.moved) this.#brush(context, height);
    context.restore();
    if (gutter && this.data.byName) this.#labels(context, top);
    else if (gutter) for (const item of this.data.rows) this.#name(context, axis, item.row, top + item.at * lane);
  }

  // --- head --------------------------------------------------------------------------------------

  #cursor(context, axis, height) {
    const { step } = this.data;
    if (step < axis.from || step > axis.to) return;
    const x = axis.x(step);
    context.fillStyle = tint(theme.colours.text, 0.14);
    context.fillRect(x, 0, Math.max(axis.x(step + 1) - x, 2), height);
  }

  #numbers(context, axis) {
    const { step } = this.data;
    const write = (at, colour, weight) => {
      context.font = `${weight} 11px ${MONO}`;
      context.textAlign = "center";
      context.fillStyle = colour;
      context.fillText(at, Math.min(Math.max((axis.x(at) + axis.x(at + 1)) / 2, 6), axis.width - 6), 12);
    };
    context.textBaseline = "alphabetic";
    const apart = axis.width < 400 ? 28 : 40;
    let last = -99; // by time, steps may lie close together
    for (const at of ticks(axis, apart)) {
      const x = axis.x(at);
      if (Math.abs(x - axis.x(step)) < apart * 0.7 || x - last < apart * 0.6) continue;
      write(at, theme.colours.dim, 400);
      last = x;
    }
    if (step >= axis.from && step <= axis.to) write(step, theme.colours.text, 700);
  }

  #marks(context, axis) {
    const { timeline, hits } = this.data;
    let last = -99;
    context.textAlign = "center";
    for (let step = axis.from; step <= axis.to; step += 1) {
      const x = (axis.x(step) + axis.x(step + 1)) / 2;
      if (hits?.has(step)) {
        context.fillStyle = theme.colours.text;
        context.beginPath();
        context.moveTo(x - 4, NUMBERS + 1);
        context.lineTo(x + 4, NUMBERS + 1);
        context.lineTo(x, NUMBERS - 4);
        context.fill();
      }
      const mark = timeline.at(step)?.mark;
      if (!mark || x - last < 11) continue;
      context.font = `600 12px ${SANS}`;
      context.fillStyle = step === this.data.step ? theme.colours.text : theme.colours.dim;
      context.fillText(mark, x, NUMBERS + 11);
      last = x;
    }
  }

  // Shares of the budget (bars) and of the pool (a line), 0…1 over the same height.
  #charts(context, axis, top) {
    const { timeline, charts } = this.data;
    const foot = top + CHART;
    context.strokeStyle = theme.colours.rule;
    context.strokeRect(-1, top + 0.5, axis.width + 2, CHART - 1);
    let line = null;
    let peak = [-1, 0]; // [pixel, most in it]: neighbours share one
    for (let step = axis.from; step <= axis.to; step += 1) {
      const about = timeline.at(step);
      if (!about) continue;
      const [x, to] = [axis.x(step), axis.x(step + 1)];
      if (charts.includes("budget") && about.budget) {
        const share = about.used / about.budget;
        const same = Math.floor(x) === peak[0];
        if (!same || share > peak[1]) {
          context.fillStyle = step === this.data.step ? theme.colours.dim : theme.colours.faint;
          context.fillRect(x, foot - CHART * share, Math.max(to - x - (to - x > 4 ? 1 : 0), 1), CHART * share);
          peak = [Math.floor(x), share];
        }
      }
      if (charts.includes("kv") && timeline.pool) {
        const y = foot - 1 - (CHART - 2) * (1 - about.free / timeline.pool);
        line ??= context.newPath?.() ?? new Path2D();
        if (step === axis.from) line.moveTo(x, y);
        line.lineTo(x, y);
        line.lineTo(to, y);
      }
    }
    if (!line) return;
    context.strokeStyle = theme.colours.text;
    context.lineWidth = 1.75;
    context.stroke(line);
    context.lineWidth = 1;
  }

  // --- lanes -------------------------------------------------------------------------------------

  #row(context, axis, { row, hue }, y) {
    const { lane, dim, chosen } = this.data;
    if (row.from > axis.to || (row.ended ?? Infinity) < axis.from) return;
    const colour = hueColour(hue);
    const h = lane >= 8 ? lane - 3 : lane >= 3 ? lane - 1 : lane;
    context.globalAlpha = dim(row.req) ? this.data.faded : 1;
    for (const { code, x, w, from, to } of pieces(row, axis)) {
      const cells = to - from + 1;
      if (lane >= 8 && w / cells >= 7) {
        for (let step = Math.max(from, axis.from); step <= Math.min(to, axis.to); step += 1) {
          const at = axis.x(step);
          this.#cell(context, code, at, axis.x(step + 1) - at, y, h, colour, code === "c");
        }
      } else this.#cell(context, code, x, w, y, h, colour, true);
    }
    context.globalAlpha = 1;
    if (row.req === chosen) {
      const from = Math.max(axis.x(row.from), 0);
      context.strokeStyle = theme.colours.focus;
      context.lineWidth = 1.5;
      context.strokeRect(from - 1, y - 1, Math.min(axis.x((row.ended ?? axis.to) + 1), axis.width) - from + 1, h + 2);
      context.lineWidth = 1;
    }
  }

  // Prefill a full bar, decode a low one, a wait a line, a hit hatched; rare ones bear their sign.
  #cell(context, code, x, w, y, h, colour, joined) {
    const wide = joined ? w : Math.max(w - 2, 1);
    const left = joined ? x : x + 1;
    const sign = { "!": "!", "✓": "✓", "⊘": "⊘", R: "R" }[code];
    const low = h >= 8 ? Math.round(h * 0.46) : Math.min(h, Math.max(h * 0.5, 1));
    context.fillStyle = colour;
    if (code === "w" || code === "–") {
      context.fillStyle = code === "w" ? tint(colour, h >= 8 ? 0.75 : 0.4) : theme.colours.faint;
      const line = h >= 8 ? 2 : Math.min(h / 2, 1);
      context.fillRect(left, y + (h - line) / 2, wide, line);
      return;
    }
    if (code === "!" || code === "⊘") {
      context.fillStyle = h >= 8 ? tint(colour, 0.22) : theme.colours.rim;
      context.fillRect(left, y, wide, h);
      context.fillStyle = theme.colours.rim;
      context.fillRect(left, y, Math.min(2, wide), h);
    } else if (code === "✓" && w >= 10 && h >= 10) {
      // its sign is enough
    } else if (code === "d" || code === "✓") {
      context.fillRect(left, y + (h - low) / 2, wide, low);
      if (code === "✓") {
        context.fillStyle = theme.colours.text;
        context.fillRect(x + w - Math.min(2, w), y, Math.min(2, w), h);
      }
    } else if (code === "h" && w >= 4) {
      context.fillStyle = tint(colour, 0.3);
      context.fillRect(left, y, wide, h);
      context.fillStyle = pattern(context, "diagonal", colour, devicePixelRatio);
      context.fillRect(left, y, wide, h);
      context.strokeStyle = colour;
      context.strokeRect(left + 0.5, y + 0.5, wide - 1, h - 1);
    } else context.fillRect(left, y, wide, h);
    if (!sign || w < 10 || h < 10) return;
    const size = Math.min(h - 1, 14);
    context.font = `700 ${size}px ${SANS}`;
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    context.fillStyle = code === "R" ? theme.colours.ink : theme.colours.text;
    context.fillText(sign, x + w / 2, y + h / 2 + size * 0.36);
  }

  // Before its first cell, where nobody else's stand; else over a long first run, or not at all.
  #name(context, axis, row, y) {
    const { lane, timeline, gutter, dim } = this.data;
    const before = timeline.lanes[row.lane].filter((other) => other !== row && other.from < row.from).at(-1);
    const from = axis.x(row.from);
    const end = Math.min(axis.x((row.ended ?? axis.to) + 1), axis.width);
    if (from > axis.width || end < 0) return;
    const h = lane - 3;
    context.font = `600 ${Math.min(h - 3, 12)}px ${MONO}`;
    const room = context.measureText(row.req).width + 6;
    const free = before ? axis.x(before.ended + 1) : -gutter;
    let x = from - room;
    if (x < Math.max(free, -gutter)) {
      x = Math.max(from, -gutter);
      const run = timeline.cell(row.req, Math.max(row.from, axis.from));
      const long = run && axis.x(run.to + 1) - Math.max(x, 0) > 2 * room;
      if (from >= 0 ? !long : free > -room || end < 20) return;
      context.fillStyle = theme.colours.background;
      context.fillRect(gutter + x, y, room, h);
    }
    context.globalAlpha = dim(row.req) ? this.data.faded : 1;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.fillStyle = theme.colours.text;
    fillWords(context, row.req, gutter + x + 2, y + h / 2 + 4);
    context.globalAlpha = 1;
  }

  #labels(context, top) {
    const { lane, rows, dim, chosen } = this.data;
    if (lane < 12) return;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    for (const { row, hue, at } of rows) {
      const y = top + at * lane;
      context.globalAlpha = dim(row.req) ? this.data.faded : 1;
      context.fillStyle = hueColour(hue);
      context.fillRect(0, y, 4, lane - 3);
      context.font = `${row.req === chosen ? 700 : 600} 12px ${MONO}`;
      context.fillStyle = theme.colours.text;
      fillWords(context, row.req, 9, y + (lane - 3) / 2 + 4);
    }
    context.globalAlpha = 1;
  }

  #divergence(context, axis, height) {
    const { first } = this.data;
    if (first === null || first < axis.from || first > axis.to) return;
    const x = Math.round(axis.x(first)) - 0.5;
    context.strokeStyle = theme.colours.rim;
    context.setLineDash([4, 3]);
    context.beginPath();
    context.moveTo(x, NUMBERS - 4);
    context.lineTo(x, height);
    context.stroke();
    context.setLineDash([]);
  }

  #brush(context, height) {
    const [from, to] = [this.drag.x, this.drag.to].sort((x, y) => x - y);
    context.fillStyle = tint(theme.colours.focus, 0.9);
    context.globalAlpha = 0.25;
    context.fillRect(from, 0, to - from, height);
    context.globalAlpha = 1;
  }

  // --- pointer -----------------------------------------------------------------------------------

  #at(event) {
    if (!this.axis) return null;
    const { x, y } = this.place(event);
    const { gutter, lane, lanes, rows } = this.data;
    const step = this.axis.stepAt(x - gutter);
    const at = Math.floor((y - headOf(this.data)) / lane);
    if (at < 0 || at >= lanes) return { step, req: null };
    const inLane = rows.filter((item) => item.at === at);
    const name = this.data.byName && x < gutter;
    const hit = name ? inLane[0] : inLane.find(({ row }) => row.from <= step && step <= (row.ended ?? Infinity));
    return { step, req: hit?.row.req ?? null, name };
  }

  #press(event) {
    if (event.button) return;
    const x = this.place(event).x - this.data.gutter;
    this.drag = { x, to: x, moved: false };
    this.setPointerCapture(event.pointerId);
  }

  #move(event) {
    if (this.drag && event.buttons & 1) {
      this.drag.to = this.place(event).x - this.data.gutter;
      this.drag.moved ||= Math.abs(this.drag.to - this.drag.x) > DRAG && this.data.brush;
      if (this.drag.moved) return this.redraw();
    }
    return this.tell("cell-point", this.#at(event));
  }

  #release(event) {
    const { drag } = this;
    this.drag = null;
    if (!drag) return;
    if (!drag.moved) return void this.tell("cell-pick", this.#at(event));
    const [from, to] = [drag.x, drag.to].sort((x, y) => x - y).map((x) => this.axis.stepAt(x));
    this.tell("cell-brush", { from, to: to + 1 });
  }

  #wheel(event) {
    if (!this.data?.brush || (!event.deltaX && !event.ctrlKey && !event.shiftKey)) return; // else the page scrolls
    event.preventDefault();
    const { x } = this.place(event);
    if (event.ctrlKey) this.tell("cell-zoom", { factor: event.deltaY > 0 ? 1.25 : 0.8, at: this.axis.stepAt(x - this.data.gutter) });
    else this.tell("cell-pan", { by: Math.sign(event.deltaX || event.deltaY) * 0.1 });
  }
}

customElements.define("vz-cells", Cells);
