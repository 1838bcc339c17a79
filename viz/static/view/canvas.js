// A custom element around one canvas: sharp on every screen, drawn anew when its data, its size or
// the theme changes. Subclasses implement `paint(context, width, height)`.

import { onTheme, theme } from "#view/theme.js";

export class CanvasElement extends HTMLElement {
  #data = null;
  #progress = 1;
  #size = { width: 0, height: 0 };

  // Plain data to draw; a new object means a new picture.
  set data(value) {
    this.#data = value;
    this.redraw();
  }

  get data() {
    return this.#data;
  }

  // 0…1 within the beat that is shown.
  set progress(value) {
    if (value === this.#progress) return;
    this.#progress = value;
    this.redraw();
  }

  get progress() {
    return this.#progress;
  }

  connectedCallback() {
    if (!this.canvas) {
      this.canvas = document.createElement("canvas");
      this.canvas.setAttribute("aria-hidden", "true");
      this.append(this.canvas);
      this.context = this.canvas.getContext("2d");
    }
    // The observer tells the size; to ask for it while drawing would cost a layout each time.
    this.observer = new ResizeObserver(([entry]) => this.#resize(entry.contentRect));
    this.observer.observe(this);
    this.unwatch = onTheme(() => this.redraw());
  }

  disconnectedCallback() {
    this.observer?.disconnect();
    this.unwatch?.();
  }

  #resize({ width, height }) {
    const ratio = window.devicePixelRatio || 1;
    this.#size = { width, height };
    [this.canvas.width, this.canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    this.redraw();
  }

  // Layout numbers are unscaled; the projector theme enlarges them all.
  redraw() {
    const { width, height } = this.#size;
    if (!this.context || this.#data === null || !theme.colours || !width) return;
    const ratio = (window.devicePixelRatio || 1) * theme.scale;
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.paint(this.context, width / theme.scale, height / theme.scale);
  }

  // The same on another context, as large as it is now: for a picture to be saved.
  paintOn(context) {
    if (this.data === null || !theme.colours) return;
    const { width, height } = this.getBoundingClientRect();
    this.paint(context, width / theme.scale, height / theme.scale);
  }

  // Where a pointer event lies, in layout numbers.
  place(event) {
    const box = this.getBoundingClientRect();
    return { x: (event.clientX - box.left) / theme.scale, y: (event.clientY - box.top) / theme.scale };
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true }));
  }
}
