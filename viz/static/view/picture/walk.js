// A part of the page as SVG: its elements in the order in which they are painted, each with its box,
// its text, and, of a canvas, what its own function draws.

import { escape, paintOf } from "#core/svg.js";
import { STROKES, theme } from "#view/theme.js";
import { drawBox, px } from "#view/picture/boxes.js";
import { Recorder } from "#view/picture/recorder.js";
import { drawLine, fontOf, linesOf } from "#view/picture/texts.js";

const SHAPES = new Set(["path", "rect", "line", "circle", "ellipse", "polyline", "polygon", "text"]);
const GEOMETRY = ["d", "x", "y", "width", "height", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "points", "text-anchor"];

export class Walk {
  constructor(doc, { left = 0, top = 0 } = {}) {
    this.doc = doc;
    this.origin = [1, 0, 0, 1, -left, -top];
    this.ruler = document.createElement("canvas").getContext("2d");
  }

  element(element, clip = null, alpha = 1) {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (style.display === "none" || style.visibility === "hidden" || style.clipPath !== "none" || style.opacity === "0") return;
    const shown = alpha * Number(style.opacity);
    const recorder = new Recorder(this.doc, this.ruler, { matrix: this.origin, clip, alpha: shown });
    recorder.hatchOf = (of) => hatchOf(element, of);
    if (element instanceof SVGSVGElement) return this.#inlineSvg(element, clip, shown);
    if (style.display !== "contents") {
      if (box.width && box.height && style.display !== "inline") drawBox(recorder, style, box);
      else if (style.display === "inline") for (const line of element.getClientRects()) drawBox(recorder, style, line);
      if (box.width && box.height) this.doc.reach(box.right + this.origin[4], box.bottom + this.origin[5]);
    }
    if (element.matches("input, select, textarea")) return this.#field(recorder, element, style, box);
    if (element.canvas && element.paintOn) return this.#canvas(element, recorder, box, clip, shown);
    if (element instanceof HTMLCanvasElement) return this.#bitmap(element, recorder, box);
    const cuts = cutsOff(element, style);
    const inner = cuts ? this.#clipTo(element, clip) : clip;
    const within = new Recorder(this.doc, this.ruler, { matrix: this.origin, clip: inner, alpha: shown });
    this.#pseudo(within, element, "::before");
    const later = [];
    for (const child of element.childNodes) {
      if (child instanceof Text) {
        for (const line of child.data.trim() || style.whiteSpace.startsWith("pre") ? linesOf(child, style) : []) drawLine(within, style, line);
      } else if (child instanceof Element) {
        if (Number(getComputedStyle(child).zIndex) > 0) later.push(child);
        else this.element(child, inner, shown);
      }
    }
    this.#pseudo(within, element, "::after");
    for (const child of later) this.element(child, inner, shown);
    if (cuts && style.textOverflow === "ellipsis") this.#ellipsis(within, element, style);
    return undefined;
  }

  #clipTo(element, clip) {
    const { left, top } = element.getBoundingClientRect();
    const [x, y] = [left + element.clientLeft, top + element.clientTop];
    return this.doc.clip(`M${x} ${y}h${element.clientWidth}v${element.clientHeight}h${-element.clientWidth}Z`, this.origin, clip);
  }

  #canvas(element, recorder, box, clip, alpha) {
    const bounded = this.doc.clip(`M${box.left} ${box.top}h${box.width}v${box.height}h${-box.width}Z`, this.origin, clip);
    const own = new Recorder(this.doc, this.ruler, { matrix: this.origin, clip: bounded, alpha });
    own.translate(box.left, box.top);
    own.scale(theme.scale, theme.scale);
    element.paintOn(own);
  }

  // Another's canvas, of which nobody knows how it is drawn.
  #bitmap(canvas, recorder, { left, top, width, height }) {
    if (!width || !height || !canvas.width || !canvas.height) return;
    recorder.picture(canvas.toDataURL(), left, top, width, height);
  }

  #inlineSvg(element, clip, alpha) {
    for (const shape of element.querySelectorAll("*")) {
      if (!SHAPES.has(shape.localName)) continue;
      const style = getComputedStyle(shape);
      const matrix = shape.getScreenCTM();
      if (!matrix || style.display === "none") continue;
      const given = Object.fromEntries(GEOMETRY.map((name) => [name, shape.getAttribute(name)]).filter(([, value]) => value));
      if (shape.localName === "path" && !given.d) continue;
      const [fill, stroke] = [style.fill, style.stroke].map((paint) => (paint === "none" ? { colour: "none", alpha: 1 } : paintOf(paint)));
      const opacity = alpha * Number(style.opacity);
      const { a, b, c, d, e, f } = matrix;
      this.doc.element(shape.localName, {
        ...given,
        fill: fill.colour,
        "fill-opacity": fill.alpha < 1 ? fill.alpha : null,
        stroke: stroke.colour === "none" ? null : stroke.colour,
        "stroke-width": stroke.colour === "none" ? null : px(style.strokeWidth),
        "stroke-dasharray": style.strokeDasharray === "none" ? null : style.strokeDasharray.replaceAll("px", ""),
        opacity: opacity < 1 ? opacity : null,
        ...(shape.localName === "text" ? { "font-size": px(style.fontSize), "font-family": style.fontFamily.replaceAll('"', "'"), "font-weight": style.fontWeight } : {}),
        transform: `matrix(${a} ${b} ${c} ${d} ${e + this.origin[4]} ${f + this.origin[5]})`,
      }, { clip, content: shape.localName === "text" ? escape(shape.textContent) : "" });
    }
  }

  // What a field holds, as text in its middle.
  #field(recorder, element, style, box) {
    const { type } = element;
    if (type === "checkbox" || type === "radio") {
      recorder.strokeStyle = style.color;
      recorder.strokeRect(box.left + 0.5, box.top + 0.5, box.width - 1, box.height - 1);
      recorder.fillStyle = style.color;
      if (element.checked) recorder.fillRect(box.left + 3, box.top + 3, box.width - 6, box.height - 6);
      return;
    }
    const text = element.tagName === "SELECT" ? `${element.selectedOptions[0]?.textContent.trim() ?? ""} ▾` : element.value || element.placeholder || "";
    recorder.font = fontOf(style);
    const x = box.left + px(style.borderLeftWidth) + px(style.paddingLeft);
    const middle = element.tagName === "TEXTAREA" ? box.top + px(style.paddingTop) + px(style.lineHeight) / 2 : box.top + box.height / 2;
    const width = recorder.measureText(text).width;
    drawLine(recorder, style, { text, left: x, right: x + width, top: middle, bottom: middle });
  }

  // What stands before or behind an element by its style alone.
  #pseudo(recorder, element, which) {
    const style = getComputedStyle(element, which);
    if (["none", "normal"].includes(style.content) || style.display === "none") return;
    const own = element.getBoundingClientRect();
    if (style.position === "absolute") {
      const [left, top] = [own.left + element.clientLeft + px(style.left), own.top + element.clientTop + px(style.top)];
      // Computed widths are those of the content where the box is not counted by its border.
      const edge = style.boxSizing === "border-box" ? 0 : 1;
      const width = px(style.width) + edge * (px(style.borderLeftWidth) + px(style.borderRightWidth));
      const height = px(style.height) + edge * (px(style.borderTopWidth) + px(style.borderBottomWidth));
      drawBox(recorder, style, { left, top, width, height, right: left + width, bottom: top + height });
      return;
    }
    const text = { "open-quote": "“", "close-quote": "”" }[style.content] ?? style.content.replace(/^"|"$/g, "");
    if (!text) return;
    recorder.font = fontOf(style);
    const { width } = recorder.measureText(text);
    const range = document.createRange();
    range.selectNodeContents(element);
    const [first, ...rest] = [...range.getClientRects()].filter((rect) => rect.width);
    const at = which === "::before" ? first : rest.at(-1) ?? first;
    const centred = own.left + (own.width - width) / 2;
    const left = !at ? centred : which === "::before" ? at.left - width : at.right;
    const { top, bottom } = at ?? own;
    drawLine(recorder, style, { text, left, right: left + width, top, bottom });
  }

  #ellipsis(recorder, element, style) {
    const { left, top } = element.getBoundingClientRect();
    recorder.font = fontOf(style);
    const { width } = recorder.measureText("…");
    const [x, y] = [left + element.clientLeft, top + element.clientTop];
    const [rtl, gap] = [style.direction === "rtl", px(style.fontSize) / 2]; // of a letter that is cut
    const at = rtl ? x : x + element.clientWidth - width;
    recorder.fillStyle = groundOf(element);
    recorder.fillRect(rtl ? at : at - gap, y, width + gap, element.clientHeight);
    const middle = y + element.clientHeight / 2;
    drawLine(recorder, { ...fields(style), textDecorationLine: "none" }, { text: "…", left: at, right: at + width, top: middle, bottom: middle });
  }
}

const fields = ({ fontStyle, fontWeight, fontSize, fontFamily, color }) => ({ fontStyle, fontWeight, fontSize, fontFamily, color });

// Is something of it not to be seen?
function cutsOff(element, style) {
  if (style.overflowX === "visible" && style.overflowY === "visible") return false;
  return element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1;
}

// The colour that lies under an element.
function groundOf(element) {
  for (let at = element; at; at = at.parentElement) {
    const { backgroundColor } = getComputedStyle(at);
    if (paintOf(backgroundColor).alpha === 1) return backgroundColor;
  }
  return theme.colours.background;
}

// The hatch of a chip's hue, as strokes.
function hatchOf(element, style) {
  const found = /\bh([0-7])\b/.exec(element.closest("[class*='h']")?.className ?? "");
  if (!found) return null;
  return { strokes: STROKES[theme.hatches[Number(found[1])]], colour: theme.colours.ink, width: style ? 1.25 : 1.5 };
}
