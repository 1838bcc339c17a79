// <vz-token>: one token cell, for the legend.

import { CanvasElement } from "#view/canvas.js";
import { drawToken } from "#view/paint.js";
import { theme } from "#view/theme.js";

class Token extends CanvasElement {
  paint(context, width, height) {
    const side = Math.min(width, height) - 2;
    drawToken(context, this.data, 1, 1, side, side, theme.colours.dim);
  }
}

customElements.define("vz-token", Token);
