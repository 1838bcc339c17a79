// <vz-strip>: the tokens of one request in a row, grouped as its blocks are.

import { tokenAt, tokenX } from "#core/layout.js";
import { tokenFlags } from "#core/scene.js";
import { CanvasElement } from "#view/canvas.js";
import { drawSliver, drawToken } from "#view/paint.js";
import { hueColour, theme } from "#view/theme.js";

class Strip extends CanvasElement {
  connectedCallback() {
    super.connectedCallback();
    this.addEventListener("pointermove", (event) => this.#point(event));
    this.addEventListener("pointerleave", () => this.tell("token-leave", null));
    this.addEventListener("click", (event) => {
      const position = this.#positionAt(event);
      if (position !== null) this.tell("token-pick", { req: this.data.row.req, position });
    });
  }

  // data: {row, cells, blockSize, height, mark: position of the token that is looked at, or null}
  paint(context, _width, height) {
    const { row, cells, blockSize } = this.data;
    const colour = hueColour(row.hue);
    if (cells.scaled || cells.cell < 4) this.#paintRuns(context, height, colour);
    else this.#paintTokens(context, height, colour);
    const { mark } = this.data;
    if (mark === null || mark === undefined || mark >= row.known) return;
    const x = tokenX(mark, blockSize, cells);
    context.strokeStyle = theme.colours.focus;
    context.lineWidth = 2;
    context.strokeRect(x - 0.5, 1, Math.max(cells.cell, 3) + 1, height - 2);
  }

  #paintTokens(context, height, colour) {
    const { row, cells, blockSize } = this.data;
    const gap = cells.cell >= 8 ? 2 : 1;
    const width = cells.cell - gap;
    const side = width < 6 ? height - 3 : Math.min(width, height - 2);
    const top = (height - side) / 2;
    for (let i = 0; i < row.known; i += 1) {
      const x = tokenX(i, blockSize, cells) + 1;
      drawToken(context, tokenFlags(row, i), x, top, width, side, colour, this.progress);
    }
  }

  // Thousands of tokens: neighbours that look alike become one bar.
  #paintRuns(context, height, colour) {
    const { row, cells, blockSize } = this.data;
    const groups = cells.gap > 0;
    for (let i = 0; i < row.known; ) {
      const flags = tokenFlags(row, i);
      let end = i + 1;
      while (end < row.known && tokenFlags(row, end) === flags && !(groups && end % blockSize === 0)) {
        end += 1;
      }
      const x = tokenX(i, blockSize, cells);
      const width = Math.max((end - i) * cells.cell - (cells.cell >= 3 ? 0.5 : 0), 0.75);
      drawSliver(context, flags, x, 3, width, height - 4, colour, this.progress);
      i = end;
    }
  }

  #point(event) {
    if (!this.data) return;
    const position = this.#positionAt(event);
    this.tell("token-point", position === null ? null : { req: this.data.row.req, position });
  }

  #positionAt(event) {
    if (!this.data) return null;
    const { row, cells, blockSize } = this.data;
    return tokenAt(this.place(event).x - 1, row.known, blockSize, cells);
  }

  // Middle of the bottom edge of a block's group of tokens, in page pixels.
  groupAnchor(logical, scale) {
    const { row, cells, blockSize } = this.data;
    const from = tokenX(logical * blockSize, blockSize, cells);
    const last = Math.min((logical + 1) * blockSize, row.known) - 1;
    const to = tokenX(last, blockSize, cells) + cells.cell;
    const box = this.getBoundingClientRect();
    return { x: box.left + ((from + to) / 2) * scale, y: box.top + box.height / 2 };
  }
}

customElements.define("vz-strip", Strip);
