// A canvas over a list that may be longer than it: the element scrolls, the canvas stays in its
// window, and only the rows in sight are drawn. Subclasses implement `measure(width, height)` → the
// whole height, and `paint(context, width, height)` with `this.top`, how far it is scrolled.

import { CanvasElement } from "#view/canvas.js";
import { theme } from "#view/theme.js";

const PICTURED = 24; // rows that a picture shows of a list; of a longer one its beginning, and how many more

export class ScrollCanvas extends CanvasElement {
  connectedCallback() {
    super.connectedCallback();
    if (this.spacer) return;
    this.spacer = document.createElement("div");
    this.spacer.setAttribute("aria-hidden", "true");
    this.append(this.spacer);
    this.addEventListener("scroll", () => {
      this.scrolled = this.scrollTop;
      this.redraw();
    }, { passive: true });
    this.addEventListener("pointermove", (event) => this.point(this.hit(this.place(event))));
    this.addEventListener("pointerleave", () => this.point(null));
    this.addEventListener("click", (event) => {
      const what = this.hit(this.place(event));
      if (what) this.tell("block-pick", what);
    });
  }

  // A picture shows the list from its beginning, as far as somebody reads a sheet.
  paintOn(context) {
    const { scrolled } = this;
    const { height } = this.spacer.style;
    [this.scrolled, this.pictured] = [0, true];
    super.paintOn(context);
    [this.scrolled, this.pictured] = [scrolled, false];
    this.spacer.style.height = height;
  }

  // How high it is in a picture. Subclasses tell `count`, the rows of the whole list.
  get pictureHeight() {
    return Math.min(this.count, PICTURED) * this.data.row * theme.scale;
  }

  // The rows that a picture leaves out: {from, to: behind the last}; null: none, or this is no picture.
  get leftOut() {
    return this.pictured && this.count > PICTURED ? { from: PICTURED - 2, to: this.count - 1 } : null;
  }

  // As the last scroll event told it: to ask for it while drawing would cost a layout each time.
  get top() {
    return (this.scrolled ?? 0) / theme.scale;
  }

  // In layout numbers of the whole list.
  place(event) {
    const { x, y } = super.place(event);
    return { x, y: y + this.top };
  }

  point(what) {
    const name = what ? `${what.req ?? ""}/${what.block ?? ""}` : "";
    if (name === this.pointed) return;
    this.pointed = name;
    this.tell("block-point", what);
  }

  // Make room for the whole list; the spacer lies below the canvas.
  stretch(whole, height) {
    const rest = `${Math.max(whole - height, 0) * theme.scale}px`;
    if (this.spacer.style.height !== rest) this.spacer.style.height = rest;
  }

  // Bring rows from `y` to `y + size` into sight.
  reveal(y, size, height, foot = 0) {
    const [top, bottom] = [y * theme.scale, (y + size) * theme.scale];
    if (top < this.scrollTop) this.scrollTop = top;
    else if (bottom > this.scrollTop + (height - foot) * theme.scale) this.scrollTop = bottom - (height - foot) * theme.scale;
  }
}
