// An SVG document as text, put together piece by piece: shapes, text, hatches, clips. It uses what
// every program that opens SVG knows (no foreignObject, no CSS, no script). Pure.

const NAMESPACE = "http://www.w3.org/2000/svg";
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g; // no XML has these

export const number = (value) => String(Math.round(value * 100) / 100 || 0);

export function escape(text) {
  return String(text)
    .replace(UNSEEN, "\ufffd")
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

// {fill: "#fff", x: 1.234} → ` fill="#fff" x="1.23"`; what is null or undefined is left out.
export function attributes(given) {
  return Object.entries(given)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => ` ${name}="${typeof value === "number" ? number(value) : escape(value)}"`)
    .join("");
}

// "#rrggbb", "rgb(1 2 3 / 0.5)", "rgba(1, 2, 3, 0.5)", "color(srgb 0 0.5 1 / 0.5)" → {colour, alpha}.
// Not every program reads the newer ways of writing a colour.
export function paintOf(text) {
  const hex = (bytes) => `#${bytes.map((byte) => Math.round(byte).toString(16).padStart(2, "0")).join("")}`;
  const found = /^(rgba?|color)\(([^)]*)\)$/.exec(text.trim());
  if (!found) return { colour: text === "transparent" ? "#000000" : text, alpha: text === "transparent" ? 0 : 1 };
  const parts = found[2].replace(/^srgb\s+/, "").split(/[\s,/]+/).map((part) => (part === "none" ? 0 : parseFloat(part)));
  const scale = found[1] === "color" ? 255 : 1;
  return { colour: hex(parts.slice(0, 3).map((part) => Math.min(Math.max(part * scale, 0), 255))), alpha: parts[3] ?? 1 };
}

export const isPlain = ([a, b, c, d, e, f]) => a === 1 && !b && !c && d === 1 && !e && !f;

export class SvgDocument {
  constructor() {
    this.definitions = new Map(); // what it says → its id
    this.pieces = []; // {clip: id | null, text}
    this.right = 0;
    this.bottom = 0;
    this.line = null; // of the last text, which another may follow
  }

  // The id of a definition, which is made once however often it is used. `make(id)` → its element.
  define(kind, key, make) {
    const name = `${kind} ${key}`;
    if (!this.definitions.has(name)) {
      const id = `${kind}${this.definitions.size}`;
      this.definitions.set(name, { id, text: make(id) });
    }
    return this.definitions.get(name).id;
  }

  // Strokes in a square that repeats: [x0, y0, x1, y1] each.
  hatch(strokes, colour, { size = 8, width = 1.5, alpha = 1, x = 0, y = 0 } = {}) {
    const key = JSON.stringify([strokes, colour, size, width, alpha, number(x % size), number(y % size)]);
    return this.define("hatch", key, (id) => {
      const lines = strokes.map(([x0, y0, x1, y1]) => `M${x0} ${y0}L${x1} ${y1}`).join("");
      const path = lines ? `<path${attributes({ d: lines, stroke: colour, "stroke-width": width, "stroke-opacity": alpha < 1 ? alpha : null })}/>` : "";
      return `<pattern${attributes({ id, width: size, height: size, patternUnits: "userSpaceOnUse", x: x % size, y: y % size })}>${path}</pattern>`;
    });
  }

  gradient([x1, y1, x2, y2], stops) {
    return this.define("gradient", JSON.stringify([x1, y1, x2, y2, stops]), (id) => {
      const parts = stops.map(([offset, colour]) => `<stop${attributes({ offset, "stop-color": colour })}/>`).join("");
      return `<linearGradient${attributes({ id, x1, y1, x2, y2, gradientUnits: "userSpaceOnUse" })}>${parts}</linearGradient>`;
    });
  }

  // A region outside of which nothing is drawn; `inside`: the id of another that bounds it.
  clip(path, matrix, inside = null) {
    return this.define("clip", `${path} ${matrix} ${inside}`, (id) => {
      const transform = isPlain(matrix) ? null : `matrix(${matrix.map(number).join(" ")})`;
      return `<clipPath${attributes({ id, "clip-path": inside && `url(#${inside})` })}><path${attributes({ d: path, transform })}/></clipPath>`;
    });
  }

  element(name, given, { clip = null, content = "" } = {}) {
    const text = `<${name}${attributes(given)}${content ? `>${content}</${name}>` : "/>"}`;
    this.pieces.push({ clip, text });
  }

  // Does a text at x stand right behind the last one, in the same line? (Where two of them are
  // written from right to left, the later begins within the earlier.)
  follows(wanted, x) {
    const { line } = this;
    return Boolean(line) && x > line.place.x && x < line.right + 1 && Math.abs(line.y - wanted.y) < 1
      && ["alpha", "clip", "matrix"].every((name) => line[name] === wanted[name]);
  }

  // It goes into the element of the last one. Each part keeps its own direction.
  goOn(given, text, right) {
    const { line } = this;
    line.right = Math.max(line.right, right);
    line.spans.push([given, text]);
    const parts = line.spans.map(([own, words]) => `<tspan${attributes({ ...own, "unicode-bidi": "isolate" })}>${escape(words)}</tspan>`).join("");
    const transform = line.piece.text.match(/ transform="[^"]*"/)?.[0] ?? "";
    const opacity = line.piece.text.match(/ opacity="[^"]*"/)?.[0] ?? "";
    line.piece.text = `<text${attributes({ ...line.place, "xml:space": "preserve" })}${opacity}${transform}>${parts}</text>`;
  }

  // How far to the right and down the drawing reaches.
  reach(x, y) {
    this.right = Math.max(this.right, x);
    this.bottom = Math.max(this.bottom, y);
  }

  toString({ width, height, background, title }) {
    const parts = [];
    let open = null;
    for (const { clip, text } of [...this.pieces, { clip: null, text: "" }]) {
      if (clip !== open) {
        if (open) parts.push("</g>");
        if (clip) parts.push(`<g clip-path="url(#${clip})">`);
        open = clip;
      }
      if (text) parts.push(text);
    }
    const [w, h] = [Math.ceil(width), Math.ceil(height)];
    const defs = [...this.definitions.values()].map(({ text }) => text).join("\n");
    return [
      `<svg xmlns="${NAMESPACE}" width="${w}" height="${h}" viewBox="0 0 ${w} ${h}">`,
      `<title>${escape(title)}</title>`,
      defs && `<defs>\n${defs}\n</defs>`,
      `<rect width="${w}" height="${h}" fill="${background}"/>`,
      ...parts,
      "</svg>",
      "",
    ].filter((part, i, all) => part || i === all.length - 1).join("\n");
  }
}
