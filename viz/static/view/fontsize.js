// How large everything is, beside the theme: for the back row, and for who wants it so.

import { html } from "lit-html";

export const fontSize = (board) => html`<p class="font-size"><span>Size of everything</span>
  <button class="tool" aria-label="A−, smaller" title="smaller (−)" @click=${() => board.scaleFont(-1)}>A−</button>
  <output>${Math.round(board.fontScale * 100)} %</output>
  <button class="tool" aria-label="A+, larger" title="larger (+)" @click=${() => board.scaleFont(1)}>A+</button></p>`;
