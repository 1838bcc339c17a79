// The picture of what is shown: the step's sentence, the view with all that scrolls in it, the open
// drawer and Why card, and a line that tells where it is from. As it is, or as it is on paper.

import { SvgDocument } from "#core/svg.js";
import { drawLinks } from "#view/page.js";
import { setTheme, theme } from "#view/theme.js";
import { Recorder } from "#view/picture/recorder.js";
import { Walk } from "#view/picture/walk.js";

const EDGE = 16; // px, around it
const CAPTION = 13; // px, its letters

// What stands under a picture. No date: the same step gives the same picture.
export function captionOf(board) {
  const { run } = board;
  const name = run?.label || run?.id || "no run";
  const drawer = board.frame.drawer ? ` and ${board.frame.drawer.title}` : "";
  const view = `${board.frame.view.title}${drawer}`;
  return [name, `step ${board.step} of ${board.lastStep}`, board.pill.text, view, board.place()].join(" · ");
}

export function fileName(board, suffix) {
  const { view, drawerId } = board.frame;
  const parts = [board.run?.id ?? "minivllm", `step-${board.step}`, view.id, drawerId];
  return `${parts.filter(Boolean).join("-").replace(/[^\w.-]+/g, "-")}.${suffix}`;
}

// {text, width, height} of an SVG. Nothing is drawn on the screen meanwhile: all of it happens
// between two frames. `palette`: draw with its light theme, as for paper.
export function picture(board, root, palette = null) {
  const before = { name: theme.name, scale: theme.scale };
  const turned = palette && (theme.name !== "light" || theme.scale !== 1);
  if (turned) setTheme(palette, "light");
  if (palette) document.documentElement.style.setProperty("--faded", "0.45");
  const fold = unfold(root);
  try {
    drawLinks(board, root);
    const { left, top } = root.getBoundingClientRect();
    const doc = new SvgDocument();
    const walk = new Walk(doc, { left: left - EDGE, top: top - EDGE });
    walk.element(root);
    walk.element(document.getElementById("links"));
    const width = Math.max(doc.right, root.clientWidth) + EDGE;
    const size = { width, height: doc.bottom + drawCaption(doc, walk.ruler, captionOf(board), width) };
    const text = doc.toString({ ...size, background: theme.colours.background, title: captionOf(board) });
    return { text, width: Math.ceil(size.width), height: Math.ceil(size.height) };
  } finally {
    fold();
    document.documentElement.style.removeProperty("--faded");
    if (turned) setTheme(palette, before.name, before.scale);
    drawLinks(board, root);
  }
}

// Under what was drawn; answers how high it is.
function drawCaption(doc, ruler, words, width) {
  const recorder = new Recorder(doc, ruler);
  recorder.fillStyle = theme.colours.dim;
  recorder.font = `400 ${CAPTION}px ${getComputedStyle(document.body).fontFamily}`;
  const lines = [""];
  for (const part of words.split(" · ")) {
    const longer = lines.at(-1) ? `${lines.at(-1)} · ${part}` : part;
    if (lines.at(-1) && recorder.measureText(longer).width > width - 2 * EDGE) lines.push(part);
    else lines[lines.length - 1] = longer;
  }
  const { bottom } = doc;
  recorder.fillRect(EDGE, bottom + CAPTION / 2, width - 2 * EDGE, 0.5);
  lines.forEach((line, i) => recorder.fillText(line, EDGE, bottom + CAPTION * (2 + 1.4 * i)));
  return CAPTION * (2 + 1.4 * (lines.length - 1)) + EDGE;
}

// Everything that scrolls as high and as wide as it is, but the lists of blocks, which may be 10,000; answers how to fold it again. style/print.css
// has what else is otherwise in a picture.
function unfold(root) {
  const html = document.documentElement;
  const sizes = [];
  const set = (element, name, value) => {
    sizes.push([element, name, element.style.getPropertyValue(name)]);
    element.style.setProperty(name, value);
  };
  const lists = [...root.querySelectorAll("*")].filter((element) => element.spacer && element.paintOn);
  const heights = lists.map((element) => (element.count === undefined ? element.scrollHeight : element.pictureHeight));
  const at = [...root.querySelectorAll("*")].filter((element) => element.scrollTop || element.scrollLeft).map((element) => [element, element.scrollLeft, element.scrollTop]);
  for (const [element] of at) element.scrollTo(0, 0);
  lists.forEach((element, i) => set(element, "height", `${heights[i]}px`));
  html.classList.add("picture");
  return () => {
    html.classList.remove("picture");
    for (const [element, name, value] of sizes) {
      if (value) element.style.setProperty(name, value);
      else element.style.removeProperty(name);
    }
    for (const [element, left, top] of at) element.scrollTo(left, top);
  };
}
