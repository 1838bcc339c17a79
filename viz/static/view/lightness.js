// A weight as lightness: 0 is the cell's ground, 1 the colour of text. No hue, which says whose.

import { mix } from "#core/palette.js";
import { theme } from "#view/theme.js";

const LEVELS = 64;
const ramps = new Map(); // theme → its colours, made once

export function lightness(share) {
  let ramp = ramps.get(theme.name);
  if (!ramp) {
    const { text, surface } = theme.colours;
    ramp = Array.from({ length: LEVELS + 1 }, (_, i) => mix(text, surface, i / LEVELS));
    ramps.set(theme.name, ramp);
  }
  return ramp[Math.round(Math.min(Math.max(share, 0), 1) * LEVELS)];
}
