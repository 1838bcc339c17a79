// What moves over the picture: chips that change their lane, and the thin lines from a request's
// tokens to its blocks.

const MOVE_MS = 140;
const MOST_LINES = 16;

// Where every chip stands now, to be compared after the next render.
export function chipPlaces(root) {
  const places = new Map();
  for (const chip of root.querySelectorAll("[data-flip]")) {
    places.set(chip.dataset.flip, chip.getBoundingClientRect());
  }
  return places;
}

// Let the chips that jumped slide from their old places.
export function slideChips(root, before) {
  for (const chip of root.querySelectorAll("[data-flip]")) {
    const old = before.get(chip.dataset.flip);
    if (!old) continue;
    const now = chip.getBoundingClientRect();
    const [dx, dy] = [old.left - now.left, old.top - now.top];
    if (Math.abs(dx) + Math.abs(dy) < 2) continue;
    chip.animate(
      [{ transform: `translate(${dx}px, ${dy}px)` }, { transform: "none" }],
      { duration: MOVE_MS, easing: "ease-out" },
    );
  }
}

export function fade(element, ms) {
  element.animate([{ opacity: 0.55 }, { opacity: 1 }], { duration: ms, easing: "ease-out" });
}

// Lines from each group of tokens of a request to its block, as an SVG path in page pixels.
export function linkPath(root, req, table, scale) {
  const strip = root.querySelector(`vz-strip[data-req="${CSS.escape(req)}"]`);
  const pool = root.querySelector("vz-pool");
  if (!strip?.data || !pool?.layout || pool.layout.detail === "pixel") return "";
  const card = root.querySelector(".why")?.getBoundingClientRect();
  const hidden = ({ x, y }) => card && x > card.left && x < card.right && y > card.top && y < card.bottom;
  return table
    .slice(0, MOST_LINES)
    .map((id, logical) => {
      const from = strip.groupAnchor(logical, scale);
      const to = pool.anchor(id, scale);
      if (hidden(from) || hidden(to)) return "";
      const bend = Math.max((to.x - from.x) / 2, 24);
      return `M${from.x} ${from.y + 8 * scale} C${from.x + bend} ${from.y + 24 * scale} ${to.x - bend} ${to.y} ${to.x - 24} ${to.y}`;
    })
    .join(" ");
}
