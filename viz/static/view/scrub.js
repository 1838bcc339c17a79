// <vz-scrub>: the whole run in one strip. A bar per step: the budget it used; above it the marks;
// a pointer drag seeks.

import { strongest } from "#core/facts.js";
import { scrubLayout, scrubStepAt } from "#core/layout.js";
import { CanvasElement } from "#view/canvas.js";
import { SANS } from "#view/paint.js";
import { theme } from "#view/theme.js";

const MARKS = 18;

class Scrub extends CanvasElement {
  connectedCallback() {
    super.connectedCallback();
    this.addEventListener("pointerdown", (event) => {
      this.setPointerCapture(event.pointerId);
      this.#seek(event);
    });
    this.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) this.#seek(event);
    });
  }

  // data: {summaries: step → summary, first: the earliest step, steps, step, stops: steps with a breakpoint | null, hits: steps of
  // the selection | null}
  paint(context, width, height) {
    const { summaries, steps, step, stops } = this.data;
    const layout = (this.layout = scrubLayout(steps, width));
    const base = height - 4;
    const full = base - MARKS - 4;
    let lastMark = -99;
    for (let bin = 0; bin < layout.bins; bin += 1) {
      const group = [];
      for (let k = bin * layout.perBin + 1; k <= Math.min((bin + 1) * layout.perBin, steps); k += 1) {
        const summary = summaries(k);
        if (summary) group.push(summary);
      }
      if (!group.length && (bin + 1) * layout.perBin <= (this.data.first ?? 0)) continue; // cut off
      const x = bin * layout.pitch;
      const w = Math.max(layout.pitch - (layout.pitch > 4 ? 2 : layout.pitch > 2 ? 1 : 0), 1);
      const share = Math.max(0, ...group.map((s) => (s.budget ? s.used / s.budget : 0)));
      const here = step >= bin * layout.perBin + 1 && step <= (bin + 1) * layout.perBin;
      context.fillStyle = here ? theme.colours.text : theme.colours.faint;
      const h = Math.max(full * share, 2);
      context.fillRect(x, base - h, w, h);
      const mark = group.length ? strongest(group) : "";
      if (mark && x - lastMark >= 12) {
        context.font = `${mark === "✓" ? 400 : 600} 12px ${SANS}`;
        context.textAlign = "center";
        context.textBaseline = "alphabetic";
        context.fillStyle = here ? theme.colours.text : theme.colours.dim;
        context.fillText(mark, x + w / 2, 12);
        lastMark = x;
      }
      if (stops && group.some(({ step: k }) => stops.has(k))) {
        context.beginPath(); // a breakpoint: a wedge under the mark
        context.moveTo(x + w / 2 - 4, 14);
        context.lineTo(x + w / 2 + 4, 14);
        context.lineTo(x + w / 2, 19);
        context.fill();
      }
      if (here) context.fillRect(x - 0.5, base + 2, w + 1, 2);
      if (this.#hit(bin, layout)) this.#point(context, x + w / 2, base);
    }
  }

  // A step that the selection is about: ▴ at the foot of its bar.
  #hit(bin, { perBin }) {
    const { hits } = this.data;
    for (let k = bin * perBin + 1; hits && k <= (bin + 1) * perBin; k += 1) if (hits.has(k)) return true;
    return false;
  }

  #point(context, x, base) {
    context.fillStyle = theme.colours.text;
    context.strokeStyle = theme.colours.background;
    context.beginPath();
    context.moveTo(x - 4.5, base + 3);
    context.lineTo(x + 4.5, base + 3);
    context.lineTo(x, base - 5);
    context.closePath();
    context.fill();
    context.stroke();
  }

  #seek(event) {
    if (!this.layout) return;
    this.tell("seek", { step: scrubStepAt(this.place(event).x, this.data.steps, this.layout) });
  }
}

customElements.define("vz-scrub", Scrub);
