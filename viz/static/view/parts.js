// Small pieces that several regions share: chips, marks, and sentences whose words can be touched.

import { html, nothing } from "lit-html";

import { GLOSSARY } from "#core/say.js";

export const hueClass = (hue) => (hue >= 0 ? `h${hue}` : "grey");

// A request: hue, hatch and name. `board` knows what is chosen or pointed at.
export function chip(board, req, hue, { mark = "", flip = true } = {}) {
  const chosen = board.focus.chosen?.req === req;
  const dim = board.focus.dims({ req });
  return html`<button
      class="chip ${hueClass(hue)} ${chosen ? "chosen" : ""} ${dim ? "dimmed" : ""}"
      data-req=${req}
      data-flip=${flip ? req : nothing}
      aria-pressed=${chosen}
      @click=${() => board.focus.choose({ req })}
    ><span>${req}</span></button
    >${mark ? html`<b class="mark">${mark}</b>` : nothing}`;
}

const TERMS = Object.keys(GLOSSARY).sort((a, b) => b.length - a.length);
const PIECES = new RegExp(
  `\\br\\d+\\b|\\b[Bb]locks? \\d+(?:, \\d+)*(?: and \\d+)?|\\b(?:${TERMS.join("|")})\\b`,
  "g",
);

// A sentence with its requests, blocks and terms as buttons; every word stays text.
export function sentence(board, text) {
  const parts = [];
  let from = 0;
  const seen = new Set();
  for (const match of text.matchAll(PIECES)) {
    parts.push(text.slice(from, match.index));
    const [word] = match;
    from = match.index + word.length;
    if (/^r\d+$/.test(word)) parts.push(request(board, word));
    else if (/\d/.test(word)) parts.push(...blocks(board, word));
    else if (seen.has(word)) parts.push(word);
    else parts.push(term(board, word));
    seen.add(word);
  }
  parts.push(text.slice(from));
  return parts;
}

function request(board, req) {
  if (!board.knows(req)) return req;
  return html`<button class="word ${hueClass(board.hueOf(req))}" data-req=${req}
    @click=${() => board.focus.choose({ req })}>${req}</button>`;
}

function blocks(board, text) {
  return text.split(/(\d+)/).map((piece) =>
    /^\d+$/.test(piece)
      ? html`<button class="word plain" data-block=${piece}
          @click=${() => board.focus.choose({ block: Number(piece) })}>${piece}</button>`
      : piece,
  );
}

function term(board, word) {
  return html`<button class="term" data-term=${word}
    @click=${() => board.focus.explain(word)}>${word}</button>`;
}

// The end of a request's text on one line; line breaks are shown, nothing is ever markup.
export function textTail({ prompt, output, newest }) {
  return html`<p class="tail"><bdi dir="ltr"><span class="from-prompt">${visible(prompt)}</span><span
    >${visible(output)}</span><u>${visible(newest)}</u></bdi></p>`;
}

export const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥");

const SHORTCUTS = { "←": "ArrowLeft", "→": "ArrowRight" }; // as ARIA names them

// A button with a key. `lettered`: the key stands on it, beside the word that is its name.
export function keyButton(label, key, action, { text = label, lettered = null, pressed = null, disabled = false } = {}) {
  return html`<button class="tool" aria-label=${lettered ? nothing : label} title="${label} (${key})" aria-keyshortcuts=${SHORTCUTS[key] ?? key}
    aria-pressed=${pressed ?? nothing} ?disabled=${disabled} @click=${action}>${lettered ? html`<kbd aria-hidden="true">${key}</kbd> ${lettered}` : text}</button>`;
}
