// Colours as numbers: contrast as WCAG defines it, what a colour-blind eye sees (Machado, Oliveira,
// Fernandes 2009, full severity), and how far apart two colours look (OKLab). The tests hold
// palette.json to these; the page itself needs only `mix`.

const SIGHT = {
  normal: [1, 0, 0, 0, 1, 0, 0, 0, 1],
  protan: [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
  deutan: [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881],
  tritan: [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039],
};

export const SIGHTS = Object.keys(SIGHT);

export function parseHex(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
}

const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);

const multiply = (m, [a, b, c]) => [0, 3, 6].map((i) => m[i] * a + m[i + 1] * b + m[i + 2] * c);

export function luminance(hex) {
  const [r, g, b] = parseHex(hex).map(linear);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// 1 (the same) to 21 (black on white).
export function contrast(a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

function oklab(hex, sight) {
  const seen = multiply(SIGHT[sight], parseHex(hex).map(linear)).map((c) => Math.min(Math.max(c, 0), 1));
  const lms = multiply(
    [0.4122214708, 0.5363325363, 0.0514459929, 0.2119034982, 0.6806995451, 0.1073969566, 0.0883024619, 0.2817188376, 0.6299787005],
    seen,
  ).map(Math.cbrt);
  return multiply(
    [0.2104542553, 0.793617785, -0.0040720468, 1.9779984951, -2.428592205, 0.4505937099, 0.0259040371, 0.7827717662, -0.808675766],
    lms,
  );
}

// How different two colours look to one kind of sight; 0.02 is about the least one notices.
export function distance(a, b, sight = "normal") {
  const [x, y] = [oklab(a, sight), oklab(b, sight)];
  return Math.hypot(...x.map((v, i) => v - y[i]));
}

// How strong words are whose drawing has a strength of `alpha`: what steps back (0.35) keeps words
// that can be read; what has not come yet (0) has none.
export const WORDS_LEAST = 0.9;

export const wordStrength = (alpha) => Math.max(alpha, Math.min(alpha / 0.35, 1) * WORDS_LEAST);

// `share` of colour a over colour b, as a canvas or CSS colour.
export function mix(a, b, share) {
  const [x, y] = [parseHex(a), parseHex(b)];
  const byte = (i) => Math.round(255 * (x[i] * share + y[i] * (1 - share)));
  return `rgb(${byte(0)} ${byte(1)} ${byte(2)})`;
}
