// Small words and numbers that sentences are made of. Twin of minivllm/trace/words.py and of the
// number cells in minivllm/trace/side_by_side.py: the same digits, rounded the same way.

export const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

// `a`, `a and b`, `a, b and c`; beyond `most` the rest is counted.
export function join(items, most = 8) {
  const words = items.map(String);
  const shown = words.length > most ? [...words.slice(0, most - 1), `${words.length - most + 1} more`] : words;
  return shown.length < 2 ? shown.join("") : `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}`;
}

export const knobValue = (value) => (typeof value === "boolean" ? (value ? "on" : "off") : String(value));

export const span = (first, last) => (first === last ? `token ${first}` : `tokens ${first}–${last}`);

// A text as Python shows it in quotes, for what tokens are made of.
export function quoted(text) {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escapes = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", [quote]: `\\${quote}` };
  return quote + [...text].map((letter) => escapes[letter] ?? letter).join("") + quote;
}

// So many digits behind the point; halves go to the even digit. `toFixed` sends them up.
export function fixed(value, digits) {
  const half = value * 2 ** (digits + 1); // a half in the last digit is a whole, odd number here
  if (!Number.isInteger(half) || half % 2 === 0) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below % 2 === 0 ? below : below + 1) / 10 ** digits).toFixed(digits);
}

function grouped(text) {
  const [whole, part] = text.split(".");
  const digits = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return part === undefined ? digits : `${digits}.${part}`;
}

// A cell: `–` where there is nothing; `digits` null for a count.
export function number(value, digits = null) {
  if (value === null || value === undefined) return "–";
  return grouped(digits === null ? String(value) : fixed(value, digits));
}

export function signed(value, digits = null) {
  const text = digits === null ? String(Math.abs(value)) : fixed(Math.abs(value), digits);
  if (!Number(text)) return "0";
  return `${value < 0 ? "−" : "+"}${grouped(text)}`;
}
