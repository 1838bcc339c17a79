// Which engine is shown, where a run has several; and which of its lives, where it was started anew.

import { html, nothing } from "lit-html";

import { engineName, livesOf } from "#core/lives.js";

const MOST_BUTTONS = 4;

export function enginesNav(board) {
  const { engines, at } = board;
  const lives = livesOf(board.lives, at.stream);
  if (engines.length < 2 && lives.length < 2) return nothing;
  return html`<nav class="engines" aria-label="engine">
    ${engines.length > MOST_BUTTONS ? engineList(board) : engines.map((stream) => engineButton(board, stream))}
    ${lives.length < 2 ? nothing : html`<span class="lives">life ${lives.map((life) => html`<button
      class="tool" aria-pressed=${life === at.life} aria-label="life ${life} of ${engineName(at.stream)}"
      @click=${() => board.showEngine(at.stream, life)}>${life}</button>`)}</span>`}
  </nav>`;
}

// Said beside the name, and never by a hue: those are the requests'.
const TOLD = { starting: "starting", draining: "draining", dead: "dead" };

function engineButton(board, stream) {
  const shown = stream === board.at.stream;
  const state = TOLD[board.stateOf(stream)];
  return html`<button class="tool" aria-pressed=${shown} title="next engine: E"
    @click=${() => shown || board.showEngine(stream)}>${engineName(stream)}${state ? html` <small>${state}</small>` : nothing}</button>`;
}

function engineList(board) {
  return html`<label><span class="hidden">engine</span><select .value=${board.at.stream}
    @change=${(event) => board.showEngine(event.target.value)}>
    ${board.engines.map((stream) => {
      const state = TOLD[board.stateOf(stream)];
      return html`<option value=${stream} ?selected=${stream === board.at.stream}>${engineName(stream)}${state ? ` · ${state}` : ""}</option>`;
    })}</select></label>`;
}
