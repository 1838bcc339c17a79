// <vz-weights>: queries × keys of one layer and head. Each row is one query, strong where it looks; a
// stair bounds what it may see, a line stands where this step's tokens begin, and what was computed
// elsewhere is hatched above.

import { parseHex } from "#core/palette.js";
import { CanvasElement } from "#view/canvas.js";
import { MONO } from "#view/paint.js";
import { pattern, theme } from "#view/theme.js";

const TOP = 32; // px: the blocks and where they come from
const GUTTER = 36; // px: the queries' positions
const MOST = 18; // px a cell

export function matrixSize({ columns, rows }, width) {
  const w = Math.min(Math.max((width - GUTTER) / columns, 0.5), MOST);
  const h = Math.min(Math.max(Math.min(w, 420 / rows), 1), MOST);
  return { w, h, height: TOP + rows * h + 4, width: GUTTER + columns * w };
}

class Weights extends CanvasElement {
  connectedCallback() {
    super.connectedCallback();
    this.addEventListener("pointermove", (event) => this.tell("weight-point", this.#at(event)));
    this.addEventListener("pointerleave", () => this.tell("weight-point", null));
    this.addEventListener("click", (event) => this.#at(event) && this.tell("weight-pick", this.#at(event)));
  }

  // data: {shares: rows of 0…1 or null, keysBy, queriesBy, places, query, lit: block or null, position or null}
  paint(context, width) {
    const { shares, places, keysBy } = this.data;
    const columns = shares[0]?.length ?? 0;
    this.size = matrixSize({ columns, rows: shares.length }, width);
    const { w, h } = this.size;
    context.save();
    context.imageSmoothingEnabled = false;
    context.drawImage(this.#picture(columns), GUTTER, TOP, columns * w, shares.length * h);
    context.restore();
    this.#blocks(context, w / keysBy);
    this.#stair(context, places);
    this.#rows(context);
  }

  // One pixel a number, enlarged when drawn.
  #picture(columns) {
    const { shares } = this.data;
    if (this.drawn?.shares === shares && this.drawn.theme === theme.name) return this.drawn.canvas;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.max(columns, 1), Math.max(shares.length, 1)];
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const [low, high] = [parseHex(theme.colours.surface), parseHex(theme.colours.text)].map((each) => each.map((part) => part * 255));
    shares.forEach((row, i) => row.forEach((share, k) => {
      const at = 4 * (i * columns + k);
      for (let part = 0; part < 3; part += 1) image.data[at + part] = low[part] + (high[part] - low[part]) * (share ?? 0);
      image.data[at + 3] = share === null ? 0 : 255;
    }));
    context.putImageData(image, 0, 0);
    this.drawn = { shares, theme: theme.name, canvas };
    return canvas;
  }

  // Above: each block with its physical id; hatched: taken over from the cache; line: computed before.
  #blocks(context, w) {
    const { places, lit } = this.data;
    const foot = TOP + this.data.shares.length * this.size.h;
    const { colours } = theme;
    context.textAlign = "center";
    context.font = `11px ${MONO}`;
    for (const { from, to, id, how } of places.blocks) {
      const [x, wide] = [GUTTER + from * w, (to - from) * w];
      const hit = Math.max(Math.min(places.cached, to) - from, 0) * w;
      if (hit) {
        context.fillStyle = pattern(context, "diagonal", colours.dim, devicePixelRatio);
        context.fillRect(x, TOP - 12, hit, 8);
      }
      if (how !== "now") {
        context.fillStyle = colours.dim;
        context.fillRect(x + hit, TOP - 8, Math.max(Math.min(places.start, to) - from, 0) * w - hit, 2);
      }
      if (wide >= 22) {
        context.fillStyle = lit === id ? colours.text : colours.dim;
        context.fillText(how === "hit" ? `${id}↺` : id, x + wide / 2, TOP - 16);
      }
      if (wide >= 8) {
        context.fillStyle = colours.rule;
        context.fillRect(Math.round(x), TOP - 12, 1, foot - TOP + 12);
      }
      if (lit === id) {
        context.strokeStyle = colours.focus;
        context.strokeRect(x + 0.5, TOP + 0.5, wide - 1, foot - TOP - 1);
      }
    }
    const x = GUTTER + places.start * w;
    context.fillStyle = colours.rim;
    if (places.start) context.fillRect(Math.round(x) - 1, TOP - 12, 2, foot - TOP + 12);
  }

  // A query sees itself and what stands before it.
  #stair(context, { start, queries }) {
    const { keysBy, queriesBy } = this.data;
    const { w, h } = this.size;
    context.strokeStyle = theme.colours.faint;
    context.beginPath();
    for (let query = 0; query < queries; query += queriesBy) {
      const last = Math.min(query + queriesBy, queries) - 1;
      const x = GUTTER + ((start + last + 1) / keysBy) * w;
      const y = TOP + (query / queriesBy) * h;
      context[query ? "lineTo" : "moveTo"](x, y);
      context.lineTo(x, y + h);
    }
    context.stroke();
  }

  #rows(context) {
    const { places, queriesBy, query, shares } = this.data;
    const { h } = this.size;
    context.textAlign = "right";
    context.font = `11px ${MONO}`;
    let last = -99;
    shares.forEach((_, row) => {
      const y = TOP + row * h + h / 2 + 4;
      const chosen = row === Math.floor(query / queriesBy);
      if (!chosen && y - last < 13) return;
      if (!chosen && Math.abs((row - Math.floor(query / queriesBy)) * h) < 13) return;
      context.fillStyle = chosen ? theme.colours.text : theme.colours.dim;
      context.fillText(places.start + row * queriesBy + 1, GUTTER - 6, y);
      last = y;
    });
    context.strokeStyle = theme.colours.focus;
    const row = Math.floor(query / queriesBy);
    context.strokeRect(GUTTER - 0.5, TOP + row * h - 0.5, this.size.width - GUTTER + 1, Math.max(h, 2) + 1);
  }

  #at(event) {
    if (!this.size) return null;
    const { x, y } = this.place(event);
    const { w, h } = this.size;
    const { shares, keysBy, queriesBy, places } = this.data;
    const [row, column] = [Math.floor((y - TOP) / h), Math.floor((x - GUTTER) / w)];
    if (row < 0 || row >= shares.length || column < 0 || column >= shares[0].length) return null;
    return { row, column, query: Math.min(row * queriesBy, places.queries - 1), key: Math.min(column * keysBy, places.keys - 1) };
  }
}

customElements.define("vz-weights", Weights);
