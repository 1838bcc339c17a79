// A picture as a file: SVG as it is, PNG twice as large. And on paper: the page prints its picture.

import { fileName, picture } from "#view/picture/compose.js";

const PNG_SCALE = 2;
const MOST_PIXELS = 64e6; // of a canvas: browsers draw nothing on a larger one
const LONG = 1.9; // height ÷ width: more would be too small on one page across

export function download(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export function saveSvg(board, root, palette) {
  const { text } = picture(board, root, palette);
  download(fileName(board, "svg"), new Blob([text], { type: "image/svg+xml" }));
}

export async function savePng(board, root, palette) {
  const name = fileName(board, "png");
  download(name, await pngOf(picture(board, root, palette)));
}

// Raises where the browser cannot draw it.
export async function pngOf({ text, width, height }) {
  const scale = Math.min(PNG_SCALE, Math.sqrt(MOST_PIXELS / (width * height)));
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  if (!blob) throw new Error("the picture is too large for a PNG; save it as SVG");
  return blob;
}

// Before the browser prints, the picture is put in the page's place; after it, taken away.
export function printsPictures(board, root, palette) {
  const paper = document.getElementById("paper");
  addEventListener("beforeprint", () => {
    if (!board.run) return;
    const { text, width, height } = picture(board, root, palette());
    const made = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
    paper.classList.toggle("long", height / width > LONG);
    paper.replaceChildren(document.importNode(made, true));
  });
  addEventListener("afterprint", () => paper.replaceChildren());
}
