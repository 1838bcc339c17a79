// The knobs as a form: each with its flag, what it does, and the value that the run has.

import { html, nothing } from "lit-html";

import { hasServer } from "#net/home.js";
import { dialog } from "#view/panels.js";

export function knobsPanel(board) {
  const { knobs } = board;
  const { offers } = knobs;
  if (!offers) return dialog(board, "Knobs", html`<p>${knobs.notice || "Fetching the knobs …"}</p>${hasServer ? nothing : withServer(board.run)}`);
  const groups = [...new Set(offers.knobs.map((knob) => knob.group))].reverse(); // policies first
  return dialog(board, board.isLive ? "Knobs of the live engine" : "Run it with other knobs", html`
    <form class="knobs" @submit=${(event) => submit(board, event)}>
      <p class="quiet">${board.isLive
        ? "They hold from the next step on. What was made when the engine started cannot change."
        : "The real scheduler and pool run the scenario anew, with given tokens in the model’s place."}
        <button class="tool" type="button" @click=${() => board.own.open()}><kbd>V</kbd> a scenario of your own</button></p>
      ${board.isLive ? nothing : scenarioRow(board)}
      ${groups.map((group) => html`<fieldset><legend>${group.replace(/^The /, "")}</legend>
        ${offers.knobs.filter((knob) => knob.group === group).map((knob) => knobRow(board, knob))}</fieldset>`)}
      <div class="foot">
        <span class="notice" role="alert">${knobs.notice || changeWords(knobs)}</span>
        ${board.engine.driver ? nothing : html`<span class="quiet">only the driver may run or change anything</span>`}
        <button class="primary" type="submit" ?disabled=${!ready(board)}>${board.isLive ? "Apply" : "Run"}</button>
      </div>
    </form>`);
}

// In an exported file.
const withServer = (run) => html`<p>To run it with other knobs, open the trace itself: <code>minivllm view ${run?.file.name ?? "FILE"}</code>
  or, in a terminal, <code>minivllm fork ${run?.file.name ?? "FILE"} --set KEY=VALUE</code>.</p>`;

function ready({ knobs, engine, isLive }) {
  return engine.driver && engine.linked && !knobs.busy && (!isLive || knobs.changed.length > 0);
}

function submit(board, event) {
  event.preventDefault();
  if (!ready(board)) return undefined;
  return board.isLive ? board.knobs.apply() : board.knobs.run();
}

function changeWords({ changed }) {
  if (!changed.length) return "nothing is changed yet";
  return `changed: ${changed.join(", ")}`;
}

function scenarioRow({ knobs, changed }) {
  return html`<label class="knob"><code>scenario</code>
    <select .value=${knobs.scenario} @change=${(event) => {
      knobs.scenario = event.target.value;
      changed();
    }}>${knobs.offers.scenarios.map((name) => html`<option value=${name} ?selected=${name === knobs.scenario}>${name}</option>`)}</select>
    <span>who arrives when, and how much they say</span></label>`;
}

function knobRow(board, knob) {
  const { knobs } = board;
  const fits = knobs.fits(knob);
  const touched = knob.name in knobs.changes;
  const help = fits ? knob.help : "Can change at a start only.";
  return html`<label class="knob ${touched ? "touched" : ""} ${fits ? "" : "fixed"}">
    <code>${knob.flag}</code>${field(knobs, knob, fits)}<span>${help}</span></label>`;
}

function field(knobs, knob, fits) {
  const value = knobs.valueOf(knob);
  const options = knob.kind === "bool" ? ["on", "off"] : knob.choices;
  const shown = knob.kind === "bool" ? (value ? "on" : "off") : String(value);
  const set = (event) => knobs.set(knob, event.target.value);
  if (options.length) {
    return html`<select ?disabled=${!fits} .value=${shown} @change=${set}>${options.map(
      (name) => html`<option value=${name} ?selected=${name === shown}>${name}</option>`,
    )}</select>`;
  }
  return html`<input ?disabled=${!fits} inputmode="decimal" autocomplete="off" .value=${shown} @change=${set}>`;
}
