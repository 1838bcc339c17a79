// <vz-heads>: one query in every layer and head, as small multiples. A cell shows where it looks (its
// keys from left to right), or a number: at how many keys, how far back.

import { CanvasElement } from "#view/canvas.js";
import { lightness } from "#view/lightness.js";
import { MONO } from "#view/paint.js";
import { theme } from "#view/theme.js";

const GUTTER = 26; // px, the layers' numbers
const HEAD = 34; // px, the K/V heads and the heads' numbers
const GAP = 6; // between heads of two K/V heads

export const heightOf = (layers, row) => HEAD + layers * row + 2;

class Heads extends CanvasElement {
  connectedCallback() {
    super.connectedCallback();
    this.addEventListener("pointermove", (event) => this.tell("head-point", this.#at(event)));
    this.addEventListener("pointerleave", () => this.tell("head-point", null));
    this.addEventListener("click", (event) => this.#at(event) && this.tell("head-pick", this.#at(event)));
  }

  // data: {layers, heads, kvHeads, row: px, layer, head (null: mean), cells(layer, head) → {shares} | {share, text}}
  paint(context, width) {
    const { layers, heads, kvHeads, row, layer, head, cells } = this.data;
    const per = kvHeads ? heads / kvHeads : heads;
    const groups = Math.ceil(heads / per);
    this.cell = (width - GUTTER - (groups - 1) * GAP - 2) / heads;
    this.x = (h) => GUTTER + h * this.cell + Math.floor(h / per) * GAP;
    context.textBaseline = "alphabetic";
    for (let group = 0; group < groups; group += 1) this.#group(context, group, per, Math.min((group + 1) * per, heads) - 1);
    for (let h = 0; h < heads; h += 1) if (this.cell >= 14 || h % 4 === 0) this.#write(context, h, this.x(h) + this.cell / 2, HEAD - 6, h === head);
    for (let l = 0; l < layers; l += 1) {
      const y = HEAD + l * row;
      if (row >= 11 || l % 5 === 0) this.#write(context, l, GUTTER - 12, y + row / 2 + 4, l === layer);
      for (let h = 0; h < heads; h += 1) this.#cell(context, cells(l, h), this.x(h), y, this.cell - 2, row - 2);
    }
    this.#selected(context);
  }

  #group(context, group, per, last) {
    if (!this.data.kvHeads) return;
    const [from, to] = [this.x(group * per), this.x(last) + this.cell - 2];
    context.fillStyle = theme.colours.faint;
    context.fillRect(from, 15, to - from, 1);
    context.font = `11px ${MONO}`;
    context.textAlign = "center";
    context.fillStyle = theme.colours.dim;
    context.fillText(to - from > 60 ? `K/V head ${group}` : group, (from + to) / 2, 11);
  }

  #write(context, text, x, y, strong) {
    context.font = `${strong ? 700 : 400} 11px ${MONO}`;
    context.textAlign = "center";
    context.fillStyle = strong ? theme.colours.text : theme.colours.dim;
    context.fillText(text, x, y);
  }

  #cell(context, { shares, share, text }, x, y, w, h) {
    context.fillStyle = theme.colours.surface;
    context.fillRect(x, y, w, h);
    if (shares) {
      const bin = w / shares.length;
      shares.forEach((each, i) => {
        if (!each) return;
        context.fillStyle = lightness(each);
        context.fillRect(x + i * bin, y, Math.max(bin - (bin > 4 ? 0.5 : 0), 0.75), h);
      });
      return;
    }
    context.fillStyle = lightness(share * 0.45);
    context.fillRect(x, y, w, h);
    if (w < 22 || h < 11) return;
    context.font = `10px ${MONO}`;
    context.textAlign = "center";
    context.fillStyle = theme.colours.text;
    context.fillText(text, x + w / 2, y + h / 2 + 3.5);
  }

  // The cell, the row of a layer, the column of a head; nothing where the mean of all is shown.
  #selected(context) {
    const { layers, heads, row, layer, head } = this.data;
    if (layer === null && head === null) return;
    const [first, last] = head === null ? [0, heads - 1] : [head, head];
    const [top, foot] = layer === null ? [0, layers] : [layer, layer + 1];
    context.strokeStyle = theme.colours.focus;
    context.lineWidth = 2;
    context.strokeRect(this.x(first) - 1, HEAD + top * row - 1, this.x(last) + this.cell - this.x(first), (foot - top) * row);
    context.lineWidth = 1;
  }

  #at(event) {
    if (!this.x) return null;
    const { layers, heads, row } = this.data;
    const { x, y } = this.place(event);
    const layer = Math.floor((y - HEAD) / row);
    const head = Array.from({ length: heads }, (_, h) => h).find((h) => x >= this.x(h) && x < this.x(h) + this.cell);
    return layer >= 0 && layer < layers && head !== undefined ? { layer, head } : null;
  }
}

customElements.define("vz-heads", Heads);
