// The colours in force, for canvases and for CSS: palette.json is the only place that has them.

import { mix } from "#core/palette.js";

export const theme = { name: "dark", scale: 1, colours: null, hatches: [], tiles: new Map() };
const listeners = new Set();

export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// `scale`: how large everything is.
export function setTheme(palette, name, scale = 1) {
  theme.name = name;
  theme.scale = scale;
  theme.colours = palette.themes[name];
  theme.hatches = palette.hatches;
  theme.tiles.clear();
  const root = document.documentElement;
  root.dataset.theme = name;
  root.style.setProperty("--scale", theme.scale);
  for (const [key, value] of Object.entries(theme.colours)) {
    if (key !== "hues") root.style.setProperty(`--${key}`, value);
  }
  theme.colours.hues.forEach((hue, i) => {
    root.style.setProperty(`--hue-${i}`, hue);
    root.style.setProperty(`--hatch-${i}`, `url(${hatchTile(i, theme.colours.ink, 0.85).toDataURL()})`);
  });
  for (const listener of listeners) listener();
}

export function hueColour(hue) {
  return hue >= 0 ? theme.colours.hues[hue] : theme.colours.grey;
}

export function tint(colour, share) {
  return mix(colour, theme.colours.background, share);
}

// Eight hatches, one a hue, so that requests differ without colour, too. 8×8, strokes only.
export const STROKES = {
  plain: [],
  diagonal: [[0, 8, 8, 0], [-2, 2, 2, -2], [6, 10, 10, 6]],
  back: [[0, 0, 8, 8], [-2, 6, 2, 10], [6, -2, 10, 2]],
  vertical: [[2, 0, 2, 8], [6, 0, 6, 8]],
  horizontal: [[0, 2, 8, 2], [0, 6, 8, 6]],
  grid: [[4, 0, 4, 8], [0, 4, 8, 4]],
  cross: [[0, 0, 8, 8], [8, 0, 0, 8]],
  dots: [[1, 2, 3, 2], [5, 6, 7, 6]],
};

function drawStrokes(context, strokes, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  for (const [x0, y0, x1, y1] of strokes) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
}

function hatchTile(hue, colour, alpha) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const context = tile.getContext("2d");
  context.globalAlpha = alpha;
  const name = theme.hatches[hue];
  drawStrokes(context, STROKES[name], colour, name === "dots" ? 2 : 1.25);
  return tile;
}

// A pattern for a canvas, made once per theme. A picture that is being saved gets the strokes.
export function pattern(context, name, colour, pixelRatio) {
  if (context.hatch) return context.hatch(STROKES[name], colour);
  const key = `${name} ${colour} ${pixelRatio}`;
  let tile = theme.tiles.get(key);
  if (!tile) {
    tile = document.createElement("canvas");
    tile.width = tile.height = Math.round(8 * pixelRatio);
    const strokes = tile.getContext("2d");
    strokes.scale(tile.width / 8, tile.width / 8);
    drawStrokes(strokes, STROKES[name], colour, 1.5);
    theme.tiles.set(key, tile);
  }
  const made = context.createPattern(tile, "repeat");
  made.setTransform(new DOMMatrix().scale(8 / tile.width));
  return made;
}
