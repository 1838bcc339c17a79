// <vz-budget>: the step's token budget as a bar, cut up by request in the order of the grants.

import { FILLED, OUTPUT, budgetLayout } from "#core/layout.js";
import { CanvasElement } from "#view/canvas.js";
import { MONO, drawToken, fillWords } from "#view/paint.js";
import { hueColour, pattern, theme, tint } from "#view/theme.js";

const LABEL = 18;

class Budget extends CanvasElement {
  connectedCallback() {
    super.connectedCallback();
    this.addEventListener("pointermove", (event) => this.tell("budget-point", this.#at(event)));
    this.addEventListener("pointerleave", () => this.tell("budget-point", null));
    this.addEventListener("click", (event) => this.tell("budget-pick", this.#at(event)));
  }

  // data: {total, segments, dim: (req) → bool}
  paint(context, width, height) {
    const { total, segments, dim } = this.data;
    const layout = (this.layout = budgetLayout(total, segments, width));
    const bar = { y: LABEL, h: height - LABEL };
    const drop = (1 - this.progress) * -8; // segments fall into the bar
    for (const segment of layout.segments) {
      context.globalAlpha = (dim?.(segment.req) ? this.data.faded : 1) * this.progress;
      this.#segment(context, segment, layout, bar, drop);
    }
    context.globalAlpha = 1;
    this.#unused(context, layout, bar);
  }

  #segment(context, segment, layout, bar, drop) {
    const colour = segment.merged ? theme.colours.grey : hueColour(segment.hue);
    const name = segment.merged ? `decode ×${segment.merged}` : segment.req;
    const text = segment.n > 1 && !segment.merged ? `${name} ${segment.n}` : name;
    context.font = `600 11px ${MONO}`;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.fillStyle = theme.colours.text;
    const fits = [text, name].find((label) => context.measureText(label).width <= segment.width - 2);
    // One that stands alone may write on over the unused rest.
    const alone = layout.segments.length === 1;
    if (fits || alone) fillWords(context, fits ?? text, segment.x + 1, 11);
    if (layout.mode === "cells") {
      for (let i = 0; i < segment.n; i += 1) {
        const flags = FILLED | (segment.start + i >= segment.prompt ? OUTPUT : 0);
        const width = layout.cell - (layout.cell > 8 ? 3 : 1);
        const x = segment.x + i * layout.cell + 1;
        drawToken(context, flags, x, bar.y + 2 + drop, width, bar.h - 4, colour);
      }
    } else {
      const w = Math.max(segment.width - 1, 1);
      context.fillStyle = colour;
      context.fillRect(segment.x, bar.y + 3 + drop, w, bar.h - 6);
      const hatch = segment.hue >= 0 ? theme.hatches[segment.hue] : "plain";
      if (!segment.merged && hatch !== "plain" && w > 8) {
        context.fillStyle = pattern(context, hatch, tint(theme.colours.background, 1), devicePixelRatio);
        context.globalAlpha *= 0.35;
        context.fillRect(segment.x, bar.y + 3 + drop, w, bar.h - 6);
        context.globalAlpha /= 0.35;
      }
    }
  }

  #unused(context, layout, bar) {
    context.strokeStyle = theme.colours.faint;
    context.lineWidth = 1;
    context.setLineDash([3, 3]);
    if (layout.mode === "cells") {
      const width = layout.cell - (layout.cell > 8 ? 3 : 1);
      if (layout.cell < 16) context.setLineDash([2, 2]);
      for (let x = layout.used; x < layout.width - 0.5; x += layout.cell) {
        context.beginPath();
        context.roundRect(x + 1.5, bar.y + 2.5, width - 1, bar.h - 5, 2);
        context.stroke();
      }
    } else if (layout.used < layout.width - 1) {
      const w = layout.width - layout.used - 1;
      context.strokeRect(layout.used + 0.5, bar.y + 3.5, w - 1, bar.h - 7);
    }
    context.setLineDash([]);
  }

  #at(event) {
    if (!this.layout) return null;
    const { x } = this.place(event);
    const segment = this.layout.segments.find((s) => x >= s.x && x < s.x + s.width);
    if (segment) return { req: segment.req, merged: segment.merged };
    return x < this.layout.width ? { unused: true } : null;
  }
}

customElements.define("vz-budget", Budget);
