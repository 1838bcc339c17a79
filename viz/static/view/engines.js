// Which engine is shown, where a run has several; and which of its lives, where it was started anew.

import { html, nothing } from "lit-html";

import { engineName, livesOf } from "#core/lives.js";

const MOST_BUTTONS = 4;
const MOST_WITH_GATES = 2; // a button is longer that tells how its engine's gate stands

export function enginesNav(board) {
  const { engines, at } = board;
  const lives = livesOf(board.lives, at.stream);
  if (engines.length < 2 && lives.length < 2) return nothing;
  return html`<nav class="engines" aria-label="engine">
    ${engines.length > (board.engine.gateOf(at.stream) ? MOST_WITH_GATES : MOST_BUTTONS) ? engineList(board) : engines.map((stream) => engineButton(board, stream))}
    ${steered(board)}
    ${lives.length < 2 ? nothing : html`<span class="lives">life ${lives.map((life) => html`<button
      class="tool" aria-pressed=${life === at.life} aria-label="life ${life} of ${engineName(at.stream)}"
      @click=${() => board.showEngine(at.stream, life)}>${life}</button>`)}</span>`}
  </nav>`;
}

// Pause, step, pace and stops: for all engines, or for the one that is shown.
function steered({ engine, at }) {
  if (!engine.several) return nothing;
  return html`<button class="tool" aria-pressed=${engine.alone} data-steer="alone"
    title="pause, step, pace and stops hold for ${engine.alone ? "this engine alone" : "all engines; press for this one alone"}"
    @click=${() => engine.steerAlone(!engine.alone)}>only ${engineName(at.stream)}</button>`;
}

// Said beside the name, and never by a hue: those are the requests'.
const TOLD = { starting: "starting", draining: "draining", dead: "dead" };

// What becomes of an engine, and how its gate stands.
function stateWords(board, stream) {
  const gate = board.engine.gateOf(stream);
  const stands = gate && (gate.mode === "pause" ? "paused" : gate.rate ? `${Math.round(gate.rate * 10) / 10}/s` : "runs");
  const state = TOLD[board.stateOf(stream)];
  return state === "dead" ? state : [state, stands].filter(Boolean).join(" · ");
}

function engineButton(board, stream) {
  const shown = stream === board.at.stream;
  const state = stateWords(board, stream);
  return html`<button class="tool" aria-pressed=${shown} title="next engine: E"
    @click=${() => shown || board.showEngine(stream)}>${engineName(stream)}${state ? html` <small>${state}</small>` : nothing}</button>`;
}

function engineList(board) {
  return html`<label><span class="hidden">engine</span><select .value=${board.at.stream}
    @change=${(event) => board.showEngine(event.target.value)}>
    ${board.engines.map((stream) => {
      const state = stateWords(board, stream);
      return html`<option value=${stream} ?selected=${stream === board.at.stream}>${engineName(stream)}${state ? ` · ${state}` : ""}</option>`;
    })}</select></label>`;
}
