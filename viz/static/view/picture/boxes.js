// The box of an element as SVG: background, hatch, border, rings. As far as this page's style needs:
// plain colours, repeating hatches, borders of one width a side, shadows that are rings.

import { paintOf } from "#core/svg.js";

const SIDES = ["Top", "Right", "Bottom", "Left"];

export const px = (value) => parseFloat(value) || 0;

export function drawBox(recorder, style, { left: x, top: y, width: w, height: h }) {
  const radius = radii(style, w, h);
  drawRings(recorder, style, x, y, w, h, radius, false);
  fillBox(recorder, style, x, y, w, h, radius);
  drawBorder(recorder, style, x, y, w, h, radius);
  drawRings(recorder, style, x, y, w, h, radius, true);
}

function radii(style, w, h) {
  return ["TopLeft", "TopRight", "BottomRight", "BottomLeft"].map((corner) => {
    const value = style[`border${corner}Radius`];
    return value.includes("%") ? (px(value) / 100) * Math.min(w, h) : px(value);
  });
}

function shape(recorder, x, y, w, h, radius) {
  recorder.beginPath();
  if (radius.some(Boolean)) recorder.roundRect(x, y, Math.max(w, 0), Math.max(h, 0), radius.map((r) => Math.max(r, 0)));
  else recorder.rect(x, y, w, h);
}

function fillBox(recorder, style, x, y, w, h, radius) {
  const { backgroundColor: colour, backgroundImage: image } = style;
  if (paintOf(colour).alpha) {
    shape(recorder, x, y, w, h, radius);
    recorder.fillStyle = colour;
    recorder.fill();
  }
  if (image === "none") return;
  recorder.save();
  shape(recorder, x, y, w, h, radius);
  recorder.clip();
  for (const layer of layersOf(image)) drawLayer(recorder, layer, style, x, y, w, h);
  recorder.restore();
}

// "a(…), b(…)" → its layers, the lowest first.
function layersOf(image) {
  const layers = [];
  let [depth, from] = [0, 0];
  for (let i = 0; i <= image.length; i += 1) {
    if (image[i] === "(") depth += 1;
    else if (image[i] === ")") depth -= 1;
    else if (i === image.length || (image[i] === "," && !depth)) {
      layers.unshift(image.slice(from, i).trim());
      from = i + 1;
    }
  }
  return layers;
}

// A chip's hatch is an image that repeats; any other pattern is a gradient with hard stops.
function drawLayer(recorder, layer, style, x, y, w, h) {
  const hatch = /^url\(/.test(layer) ? recorder.hatchOf?.(style) : null;
  if (hatch) {
    const [left] = style.backgroundPositionX.split(",").map(px);
    recorder.translate(x + left, y);
    recorder.fillStyle = hatch;
    recorder.fillRect(0, 0, 8, h);
    recorder.translate(-x - left, -y);
    return;
  }
  const gradient = /^(repeating-)?linear-gradient\((.*)\)$/s.exec(layer);
  if (!gradient) return;
  const [, repeats, inside] = gradient;
  const parts = layersOf(inside).reverse();
  const angle = /deg$/.test(parts[0]) ? parseFloat(parts.shift()) : 180;
  const turn = (angle * Math.PI) / 180;
  const length = Math.abs(w * Math.sin(turn)) + Math.abs(h * Math.cos(turn));
  const bands = stopsOf(parts, length);
  const end = bands.at(-1)?.to ?? 0;
  if (!(end > 0)) return;
  if (!repeats && end < length) bands.push({ colour: /^(\w+\([^)]*\)|\S+)/.exec(parts.at(-1))[0], from: end, to: length });
  recorder.save();
  recorder.translate(x + w / 2, y + h / 2);
  recorder.rotate(turn);
  // Bands across the gradient's line, which runs upwards here.
  for (let base = 0; base < length; base += repeats ? end : length) {
    for (const { colour, from, to } of bands) {
      if (!paintOf(colour).alpha || to <= from) continue;
      recorder.fillStyle = colour;
      recorder.fillRect(-length, length / 2 - base - to, 2 * length, to - from);
    }
  }
  recorder.restore();
}

// ["red 30%", "blue 0 70%"] → the bands between hard stops. One that is not hard is as its first colour.
function stopsOf(parts, length) {
  const stops = [];
  for (const part of parts) {
    const [, colour, rest] = /^(\w+\([^)]*\)|\S+)\s*(.*)$/.exec(part);
    const places = rest.split(/\s+/).filter(Boolean).map((word) => (word.endsWith("%") ? (px(word) / 100) * length : px(word)));
    for (const at of places.length ? places : [stops.length ? length : 0]) stops.push({ colour, at: Math.max(at, stops.at(-1)?.at ?? 0) });
  }
  const bands = stops.slice(1).map(({ at }, i) => ({ colour: stops[i].colour, from: stops[i].at, to: at }));
  if (stops[0]?.at > 0) bands.unshift({ colour: stops[0].colour, from: 0, to: stops[0].at });
  return bands;
}

function drawBorder(recorder, style, x, y, w, h, radius) {
  const sides = SIDES.map((side) => ({
    width: style[`border${side}Style`] === "none" ? 0 : px(style[`border${side}Width`]),
    colour: style[`border${side}Color`],
    kind: style[`border${side}Style`],
  }));
  if (!sides.some(({ width, colour }) => width && paintOf(colour).alpha)) return;
  const [first] = sides;
  if (sides.every((side) => side.width === first.width && side.colour === first.colour && side.kind === first.kind)) {
    const line = (inset, width) => {
      const d = inset + width / 2;
      pen(recorder, first.kind, first.colour, width);
      shape(recorder, x + d, y + d, w - 2 * d, h - 2 * d, radius.map((r) => Math.max(r - d, 0)));
      recorder.stroke();
    };
    if (first.kind === "double") {
      line(0, first.width / 3);
      line((first.width * 2) / 3, first.width / 3);
    } else line(0, first.width);
  } else {
    const ends = [[0, 0, 1, 0], [1, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]];
    const into = [[0, 1], [-1, 0], [0, -1], [1, 0]];
    sides.forEach(({ width, colour, kind }, i) => {
      if (!width || !paintOf(colour).alpha) return;
      const [x0, y0, x1, y1] = ends[i];
      const [dx, dy] = into[i].map((direction) => (direction * width) / 2);
      pen(recorder, kind, colour, width);
      recorder.beginPath();
      recorder.moveTo(x + x0 * w + dx, y + y0 * h + dy);
      recorder.lineTo(x + x1 * w + dx, y + y1 * h + dy);
      recorder.stroke();
    });
  }
  recorder.setLineDash([]);
}

function pen(recorder, kind, colour, width) {
  recorder.strokeStyle = colour;
  recorder.lineWidth = width;
  recorder.setLineDash(kind === "dashed" ? [Math.max(3 * width, 3), Math.max(2 * width, 3)] : kind === "dotted" ? [width, width] : []);
}

// Shadows without blur: "rgb(…) 0px 0px 0px 2px inset", the first lies on top.
function drawRings(recorder, style, x, y, w, h, radius, inset) {
  if (style.boxShadow === "none") return;
  for (const shadow of layersOf(style.boxShadow)) {
    if (shadow.includes("inset") !== inset) continue;
    const colour = /^(\w+\([^)]*\)|#\w+)/.exec(shadow)?.[0];
    const [dx, dy, blur, spread] = shadow.slice(colour?.length ?? 0).split(/\s+/).filter((word) => /^-?[\d.]/.test(word)).map(px);
    if (!colour || blur) continue;
    recorder.fillStyle = colour;
    if (!inset) {
      shape(recorder, x + dx - spread, y + dy - spread, w + 2 * spread, h + 2 * spread, radius.map((r) => (r ? r + spread : 0)));
      recorder.fill();
    } else if (dx) recorder.fillRect(dx > 0 ? x : x + w + dx, y, Math.abs(dx), h);
    else if (dy) recorder.fillRect(x, dy > 0 ? y : y + h + dy, w, Math.abs(dy));
  }
}
