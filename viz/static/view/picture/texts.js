// Text of the page as SVG: each line of a text node where the browser has set it.

const CASES = {
  uppercase: (text) => text.toUpperCase(),
  lowercase: (text) => text.toLowerCase(),
  capitalize: (text) => text.replace(/(^|\s)\S/g, (letters) => letters.toUpperCase()),
};

// The lines of a text node: [{text, left, right, top, bottom}].
export function linesOf(node, style) {
  const { data } = node;
  const keeps = style.whiteSpace.startsWith("pre") || style.whiteSpace === "break-spaces";
  const range = document.createRange();
  const lines = [];
  const add = (from, to) => {
    range.setStart(node, from);
    range.setEnd(node, to);
    const rects = [...range.getClientRects()].filter((rect) => rect.width || rect.height);
    if (!rects.length) return;
    if (rects.length > 1 && to - from > 1 && new Set(rects.map((rect) => Math.round(rect.top))).size > 1) {
      // A word that is broken over lines.
      const middle = from + Math.ceil((to - from) / 2);
      add(from, middle);
      add(middle, to);
      return;
    }
    const box = { left: Math.min(...rects.map((r) => r.left)), right: Math.max(...rects.map((r) => r.right)), top: rects[0].top, bottom: rects[0].bottom };
    const last = lines.at(-1);
    if (last && Math.abs(last.top - box.top) < 2) {
      last.to = to;
      last.left = Math.min(last.left, box.left);
      last.right = Math.max(last.right, box.right);
    } else lines.push({ ...box, from, to });
  };
  for (const word of data.matchAll(keeps ? /[^\n]+/g : /\S+/g)) add(word.index, word.index + word[0].length);
  const change = CASES[style.textTransform] ?? ((text) => text);
  return lines.map(({ from, to, ...box }) => {
    const text = data.slice(from, to);
    return { ...box, text: change(keeps ? text : text.replace(/\s+/g, " ")) };
  });
}

export const fontOf = (style) =>
  `${style.fontStyle === "italic" ? "italic " : ""}${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;

export function drawLine(recorder, style, { text, left, right, top, bottom }) {
  const font = fontOf(style);
  recorder.font = font;
  const { fontBoundingBoxAscent: up, fontBoundingBoxDescent: down } = recorder.measureText(text);
  const base = (top + bottom) / 2 + (up - down) / 2;
  recorder.fillStyle = style.color;
  recorder.textAlign = "left";
  recorder.textBaseline = "alphabetic";
  recorder.write(text, left, base, right - left, style.textDecorationLine.includes("underline"));
}
