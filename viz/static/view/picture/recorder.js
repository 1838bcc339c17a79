// A 2D context that writes down as SVG what is drawn on it: the functions that paint a canvas paint
// a picture, too. What it has of the canvas's own interface is what this page's canvases use.

import { escape, isPlain, number, paintOf } from "#core/svg.js";

const FONT = /^(italic\s+)?(?:(\d+|bold|normal)\s+)?([\d.]+)px(?:\/\S+)?\s+(.+)$/;
const ANCHORS = { left: "start", start: "start", center: "middle", right: "end", end: "end" };

class Path {
  text = "";
  add(letter, ...values) {
    this.text += letter + values.map(number).join(" ");
  }
  moveTo(x, y) { this.add("M", x, y); }
  lineTo(x, y) { this.add(this.text ? "L" : "M", x, y); }
  closePath() { this.text += "Z"; }
  bezierCurveTo(...values) { this.add("C", ...values); }
  quadraticCurveTo(...values) { this.add("Q", ...values); }
  rect(x, y, w, h) { this.text += `M${number(x)} ${number(y)}h${number(w)}v${number(h)}h${number(-w)}Z`; }
  arc(x, y, r, from, to, back = false) {
    const turn = back ? from - to : to - from;
    const point = (angle) => [x + r * Math.cos(angle), y + r * Math.sin(angle)];
    this.lineTo(...point(from));
    const whole = Math.abs(turn) >= 2 * Math.PI;
    const half = from + (whole ? Math.PI : (to - from) / 2);
    const sweep = back ? 0 : 1;
    for (const angle of [half, whole ? from + 2 * Math.PI : to]) this.add("A", r, r, 0, 0, sweep, ...point(angle));
  }
  ellipse(x, y, rx, ry) {
    this.add("M", x - rx, y);
    this.add("A", rx, ry, 0, 1, 1, x + rx, y);
    this.add("A", rx, ry, 0, 1, 1, x - rx, y);
  }
  roundRect(x, y, w, h, radii = 0) {
    const corners = [radii].flat();
    const [a, b = a, c = a, d = b] = corners.map((r) => Math.min(r, Math.abs(w) / 2, Math.abs(h) / 2));
    this.add("M", x + a, y);
    this.add("H", x + w - b);
    if (b) this.add("A", b, b, 0, 0, 1, x + w, y + b);
    this.add("V", y + h - c);
    if (c) this.add("A", c, c, 0, 0, 1, x + w - c, y + h);
    this.add("H", x + d);
    if (d) this.add("A", d, d, 0, 0, 1, x, y + h - d);
    this.add("V", y + a);
    if (a) this.add("A", a, a, 0, 0, 1, x + a, y);
    this.text += "Z";
  }
}

const START = {
  matrix: [1, 0, 0, 1, 0, 0],
  bounds: null,
  fillStyle: "#000000",
  strokeStyle: "#000000",
  lineWidth: 1,
  lineCap: "butt",
  lineJoin: "miter",
  lineDashOffset: 0,
  globalAlpha: 1,
  font: "10px sans-serif",
  textAlign: "start",
  textBaseline: "alphabetic",
  imageSmoothingEnabled: true,
};

export class Recorder {
  // `doc`: an SvgDocument; `ruler`: a real 2D context, to measure text with.
  constructor(doc, ruler, { matrix = START.matrix, clip = null, alpha = 1 } = {}) {
    Object.assign(this, START, { doc, ruler, matrix, bounds: clip, alpha });
    this.path = new Path();
    this.dash = [];
    this.stack = [];
    for (const name of ["moveTo", "lineTo", "closePath", "bezierCurveTo", "quadraticCurveTo", "rect", "arc", "ellipse", "roundRect"]) {
      this[name] = (...values) => this.path[name](...values);
    }
  }

  // --- state -------------------------------------------------------------------------------------

  save() {
    const kept = Object.fromEntries(Object.keys(START).map((name) => [name, this[name]]));
    this.stack.push({ ...kept, dash: this.dash });
  }

  restore() {
    Object.assign(this, this.stack.pop() ?? {});
  }

  transform(a, b, c, d, e, f) {
    const [A, B, C, D, E, F] = this.matrix;
    this.matrix = [A * a + C * b, B * a + D * b, A * c + C * d, B * c + D * d, A * e + C * f + E, B * e + D * f + F];
  }

  translate(x, y) { this.transform(1, 0, 0, 1, x, y); }
  scale(x, y) { this.transform(x, 0, 0, y, 0, 0); }
  rotate(angle) { this.transform(Math.cos(angle), Math.sin(angle), -Math.sin(angle), Math.cos(angle), 0, 0); }
  setLineDash(dash) { this.dash = dash; }
  getLineDash() { return this.dash; }
  beginPath() { this.path = new Path(); }
  clip(path = this.path) { this.bounds = this.doc.clip(path.text, this.matrix, this.bounds); }

  // --- paints ------------------------------------------------------------------------------------

  newPath() {
    return new Path();
  }

  createLinearGradient(...line) {
    const stops = [];
    return { line, stops, addColorStop: (offset, colour) => stops.push([offset, paintOf(colour).colour]) };
  }

  // What view/theme.js asks for in place of a tile that repeats.
  hatch(strokes, colour) {
    return { strokes, colour };
  }

  #paint(style) {
    if (style?.strokes) {
      const { colour, alpha } = paintOf(style.colour);
      return { value: `url(#${this.doc.hatch(style.strokes, colour, style)})`, alpha };
    }
    if (style?.stops) return { value: `url(#${this.doc.gradient(style.line, style.stops)})`, alpha: 1 };
    const { colour, alpha } = paintOf(String(style));
    return { value: colour, alpha };
  }

  // --- drawing -----------------------------------------------------------------------------------

  #put(name, given, alpha, content = "") {
    const shown = alpha * this.globalAlpha * this.alpha;
    if (shown <= 0) return;
    const transform = isPlain(this.matrix) ? null : `matrix(${this.matrix.map(number).join(" ")})`;
    this.doc.element(name, { ...given, opacity: shown < 1 ? shown : null, transform }, { clip: this.bounds, content });
  }

  fill(path = this.path) {
    const { value, alpha } = this.#paint(this.fillStyle);
    if (path.text) this.#put("path", { d: path.text, fill: value }, alpha);
  }

  stroke(path = this.path) {
    const { value, alpha } = this.#paint(this.strokeStyle);
    if (!path.text) return;
    this.#put("path", {
      d: path.text,
      fill: "none",
      stroke: value,
      "stroke-width": this.lineWidth,
      "stroke-dasharray": this.dash.length ? this.dash.map(number).join(" ") : null,
      "stroke-linecap": this.lineCap === "butt" ? null : this.lineCap,
      "stroke-linejoin": this.lineJoin === "miter" ? null : this.lineJoin,
    }, alpha);
  }

  fillRect(x, y, width, height) {
    const { value, alpha } = this.#paint(this.fillStyle);
    if (width < 0) [x, width] = [x + width, -width];
    if (height < 0) [y, height] = [y + height, -height];
    if (width && height) this.#put("rect", { x, y, width, height, fill: value }, alpha);
  }

  strokeRect(x, y, w, h) {
    const path = new Path();
    path.rect(x, y, w, h);
    this.stroke(path);
  }

  clearRect() {}

  measureText(text) {
    this.ruler.font = this.font;
    return this.ruler.measureText(text);
  }

  fillText(text, x, y) {
    const { width, fontBoundingBoxAscent: up, fontBoundingBoxDescent: down } = this.measureText(String(text));
    const drop = { middle: (up - down) / 2, top: up, bottom: -down }[this.textBaseline] ?? 0;
    this.write(String(text), x, y + drop, width);
  }

  // `width`: as wide as it is here, whatever fonts the program has that opens the picture. Not every
  // program keeps to it: what follows another text of its line without a gap goes into the same
  // element, after it wherever it ends.
  write(text, x, y, width, underline = false) {
    if (!text) return;
    const { value, alpha } = this.#paint(this.fillStyle);
    const [, italic, weight, size, family] = FONT.exec(this.font) ?? [null, null, null, "10", "sans-serif"];
    const several = [...text].length > 1;
    const style = {
      fill: value,
      "font-family": family.replaceAll('"', "'"),
      "font-size": Number(size),
      "font-weight": weight && weight !== "normal" && weight !== "400" ? weight : null,
      "font-style": italic ? "italic" : null,
      "text-decoration": underline ? "underline" : null,
    };
    const fitted = { textLength: several ? width : null, lengthAdjust: several ? "spacingAndGlyphs" : null };
    const line = { y, alpha: alpha * this.globalAlpha * this.alpha, clip: this.bounds, matrix: this.matrix.join(" ") };
    const starts = ANCHORS[this.textAlign] === "start";
    if (starts && this.doc.follows(line, x)) return void this.doc.goOn({ ...style, ...fitted }, text, x + width);
    if (!text.trim()) return;
    this.#put("text", {
      x,
      y,
      ...style,
      "text-anchor": starts ? null : ANCHORS[this.textAlign],
      ...fitted,
      "xml:space": /^\s|\s$|\s\s/.test(text) ? "preserve" : null,
    }, alpha, escape(text));
    if (starts) this.doc.line = { ...line, right: x + width, piece: this.doc.pieces.at(-1), place: { x, y }, spans: [[{ ...style, ...fitted }, text]] };
  }

  // An image, by its data: address.
  picture(href, x, y, width, height) {
    this.#put("image", { href, x, y, width, height, preserveAspectRatio: "none" }, 1);
  }

  // A small canvas, enlarged: its pixels are squares, in every program.
  drawImage(source, x, y, width, height) {
    const { data } = source.getContext("2d").getImageData(0, 0, source.width, source.height);
    const [w, h] = [width / source.width, height / source.height];
    const at = (row, column) => {
      const i = 4 * (row * source.width + column);
      return `rgba(${data[i]}, ${data[i + 1]}, ${data[i + 2]}, ${data[i + 3] / 255})`;
    };
    this.save();
    for (let row = 0; row < source.height; row += 1) {
      for (let column = 0; column < source.width; ) {
        const colour = at(row, column);
        let end = column + 1;
        while (end < source.width && at(row, end) === colour) end += 1;
        this.fillStyle = colour;
        this.fillRect(x + column * w, y + row * h, (end - column) * w, h);
        column = end;
      }
    }
    this.restore();
  }
}
