// <vz-pool>: the grid of KV blocks, from 72 px squares with slots down to one pixel a block.

import { blockAt, blockXY } from "#core/layout.js";
import { parseHex } from "#core/palette.js";
import { CanvasElement } from "#view/canvas.js";
import { drawBlock, slotBox } from "#view/paint.js";
import { drawWithWords, slotBoxInWords } from "#view/words.js";
import { theme } from "#view/theme.js";

const LENS = 9; // blocks a side, under the pointer, when blocks are pixels
const LENS_BLOCK = 28;

// The colours of blocks that are one pixel each, as the bytes of an image without their alpha.
function pixelInks() {
  const { hues, grey, faint, surface } = theme.colours;
  const bytes = (hex) => parseHex(hex).reduce((ink, v, i) => ink | (Math.round(v * 255) << (8 * i)), 0);
  return { hues: hues.map(bytes), grey: bytes(grey), cached: bytes(faint), blank: bytes(surface) };
}

// What makes two faces of a block differ enough to fade from one to the other.
function looks({ state, marks, owners, held }) {
  return `${state} ${marks} ${owners.map(({ row }) => row.req)} ${held?.req}`;
}

class Pool extends CanvasElement {
  connectedCallback() {
    super.connectedCallback();
    this.addEventListener("pointermove", (event) => this.#point(this.#hit(event)));
    this.addEventListener("pointerleave", () => this.#point(null));
    this.addEventListener("click", (event) => {
      const face = this.#hit(event);
      this.tell("block-pick", face ? { block: face.id } : null);
    });
  }

  // data: {faces, layout, before: faces | null, dim: (face) → bool, faded, cursor: id | null,
  // words: (face) → pieces of text, where the layout shows them, slot: {block, offset} or null}
  // `before`: how the blocks looked before this beat; those that changed cross-fade. Without it,
  // progress fills the slots that ran.
  paint(context, width, height) {
    const { faces, before, layout, dim, cursor } = this.data;
    if (layout.detail === "pixel") this.#paintPixels(context, layout);
    else {
      faces.forEach((face, i) => {
        const { x, y } = blockXY(i, layout);
        const strength = dim?.(face) ? this.data.faded : 1;
        const fades = before && this.progress < 1 && looks(face) !== looks(before[i]);
        if (fades) {
          context.globalAlpha = strength * (1 - this.progress);
          this.#draw(context, before[i], x, y, 1);
        }
        context.globalAlpha = strength * (fades ? this.progress : 1);
        this.#draw(context, face, x, y, before ? 1 : this.progress);
      });
      context.globalAlpha = 1;
    }
    if (this.data.slot) this.#slot(context, this.data.slot, layout);
    if (cursor !== null && cursor !== undefined) this.#ring(context, cursor - 1, layout);
    if (layout.detail === "pixel" && this.hover) this.#lens(context, layout, width, height);
  }

  #draw(context, face, x, y, progress) {
    const { layout, words } = this.data;
    if (layout.detail === "words") drawWithWords(context, face, words(face), x, y, layout, progress);
    else drawBlock(context, face, x, y, layout.detail, layout.size, progress);
  }

  #paintPixels(context, layout) {
    const { faces, dim } = this.data;
    const image = new ImageData(layout.columns, layout.rows);
    const pixels = new Uint32Array(image.data.buffer); // little-endian: alpha, blue, green, red
    const inks = pixelInks();
    const marked = [];
    for (let i = 0; i < faces.length; i += 1) {
      const face = faces[i];
      const [owner] = face.owners;
      const ink = owner ? inks.hues[owner.row.hue] ?? inks.grey : face.state === "cached" ? inks.cached : inks.blank;
      pixels[i] = ink | ((dim?.(face) ? 90 : 255) << 24);
      if (face.marks) marked.push(i);
    }
    this.buffer ??= document.createElement("canvas");
    [this.buffer.width, this.buffer.height] = [layout.columns, layout.rows];
    this.buffer.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.buffer, 0, 0, layout.columns * layout.size, layout.rows * layout.size);
    context.strokeStyle = theme.colours.rim;
    context.lineWidth = 1;
    context.beginPath();
    for (const i of marked) {
      const { x, y } = blockXY(i, layout);
      context.rect(x + 0.5, y + 0.5, layout.size - 1, layout.size - 1);
    }
    context.stroke();
  }

  // Nine by nine blocks around the pointer, large enough to read.
  #lens(context, layout, width, height) {
    const index = this.hover.id - 1;
    const [column, row] = [index % layout.columns, Math.floor(index / layout.columns)];
    const half = (LENS - 1) / 2;
    const side = LENS * (LENS_BLOCK + 4) + 12;
    const { x, y } = blockXY(index, layout);
    const left = Math.min(Math.max(x - side / 2, 0), width - side);
    const top = y > side + 16 ? y - side - 12 : Math.min(y + 20, height - side);
    context.fillStyle = theme.colours.raised;
    context.strokeStyle = theme.colours.dim;
    context.lineWidth = 1;
    context.fillRect(left, top, side, side);
    context.strokeRect(left + 0.5, top + 0.5, side - 1, side - 1);
    for (let dy = -half; dy <= half; dy += 1) {
      for (let dx = -half; dx <= half; dx += 1) {
        const [c, r] = [column + dx, row + dy];
        const face = c >= 0 && c < layout.columns && r >= 0 ? this.data.faces[r * layout.columns + c] : null;
        if (!face) continue;
        const bx = left + 8 + (dx + half) * (LENS_BLOCK + 4);
        const by = top + 8 + (dy + half) * (LENS_BLOCK + 4);
        drawBlock(context, face, bx, by, "mark", LENS_BLOCK);
        if (!dx && !dy) context.strokeRect(bx - 1.5, by - 1.5, LENS_BLOCK + 3, LENS_BLOCK + 3);
      }
    }
  }

  #ring(context, index, layout) {
    const { x, y } = blockXY(index, layout);
    context.strokeStyle = theme.colours.focus;
    context.lineWidth = 2;
    context.beginPath();
    // Around the block, but never over the canvas's own edge.
    const [left, top] = [Math.max(x - 2, 1), Math.max(y - 2, 1)];
    const right = Math.min(x + layout.size + 2, layout.width - 1);
    const bottom = Math.min(y + (layout.sizeY ?? layout.size) + 2, layout.height - 1);
    context.roundRect(left, top, right - left, bottom - top, 5);
    context.stroke();
  }

  // The slot of the token that is looked at; where slots are not drawn, the block.
  #slot(context, { block, offset }, layout) {
    const face = this.data.faces[block - 1];
    if (!face) return;
    const { x, y } = blockXY(block - 1, layout);
    const box = layout.detail === "words" ? slotBoxInWords(face.size, offset, x, y, layout) : layout.detail === "slots" ? slotBox(face.size, offset, x, y, layout.size) : null;
    if (!box) return this.#ring(context, block - 1, layout);
    context.strokeStyle = theme.colours.focus;
    context.lineWidth = 2;
    context.strokeRect(box.x - 1.5, box.y - 1.5, box.w + 3, box.h + 3);
    context.lineWidth = 1;
  }

  get layout() {
    return this.data?.layout;
  }

  #hit(event) {
    if (!this.data) return null;
    const { x, y } = this.place(event);
    const index = blockAt(x, y, this.data.faces.length, this.layout);
    return index === null ? null : this.data.faces[index];
  }

  #point(face) {
    if (face?.id === this.hover?.id) return;
    this.hover = face;
    if (this.layout?.detail === "pixel") this.redraw();
    this.tell("block-point", face ? { block: face.id } : null);
  }

  // The middle of a block, in page pixels.
  anchor(id, scale) {
    const { x, y } = blockXY(id - 1, this.layout);
    const { size, sizeY = size } = this.layout;
    const box = this.getBoundingClientRect();
    return { x: box.left + (x + size / 2) * scale, y: box.top + (y + sizeY / 2) * scale };
  }
}

customElements.define("vz-pool", Pool);
