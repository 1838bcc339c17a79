// The form of a scenario of one's own: a row a request, and the knobs.

import { html, nothing } from "lit-html";

import { FIELDS, namesOf } from "#core/own.js";
import { hasServer } from "#net/home.js";
import { dialog } from "#view/panels.js";
import { download } from "#view/picture/save.js";

const HEADS = { arrives: "arrives in step", prefix: "shared prefix", own: "own prompt", outputs: "outputs", priority: "priority" };

export function ownPanel(board) {
  const { own } = board;
  return dialog(board, "A scenario of your own", html`<form class="knobs own" novalidate @submit=${(event) => {
      event.preventDefault();
      if (!own.busy && hasServer) own.run();
    }}>
    <p>The real scheduler and pool run it; in the model’s place stand made-up tokens. Lengths are in tokens; the shared prefix is the same in all rows, as far as it goes.</p>
    <p class="choices-of">${own.offers ? html`<label>begin with <select @change=${(event) => own.preset(event.target.value)}>
        <option value="">…</option>${Object.keys(own.offers.presets).map((name) => html`<option value=${name}>${name}</option>`)}</select></label>` : nothing}
      ${hasServer ? html`<label class="tool file">open a .toml file<input type="file" class="hidden" accept=".toml" @change=${(event) => {
        if (event.target.files[0]) own.readFile(event.target.files[0]);
        event.target.value = "";
      }}></label>` : nothing}
      <button class="tool" type="button" @click=${() => download("own.toml", new Blob([own.fileText], { type: "application/toml" }))}>save as .toml</button></p>
    ${rows(own)}
    ${own.knobs.length ? knobs(own) : nothing}
    <div class="foot"><span class="notice" role="alert">${own.notice}</span>
      <button class="primary" type="submit" ?disabled=${own.busy || !own.rows.length || !hasServer}>${own.busy ? "It runs …" : "Run"}</button></div>
  </form>`);
}

function rows(own) {
  const names = namesOf(own.rows);
  return html`<div class="scrolls"><table class="own-rows"><thead><tr><th scope="col">request</th>${FIELDS.map((name) => html`<th scope="col">${HEADS[name]}</th>`)}<td></td></tr></thead>
    <tbody>${own.rows.map((row, i) => html`<tr>
      <th scope="row">${names[i]}</th>
      ${FIELDS.map((name) => cell(own, row, i, name))}
      <td class="row-tools"><button class="tool" type="button" aria-label="one more like row ${i + 1}" title="one more like this" ?disabled=${own.full} @click=${() => own.add(i)}>+</button>
        <button class="tool" type="button" aria-label="remove row ${i + 1}" title="remove" ?disabled=${own.rows.length === 1} @click=${() => own.remove(i)}>✕</button></td></tr>`)}</tbody></table></div>
    <p><button class="tool" type="button" ?disabled=${own.full} @click=${() => own.add()}>one more request</button>
      <span class="quiet">${own.rows.length} of at most ${own.offers?.most ?? 32}</span></p>`;
}

function cell(own, row, i, name) {
  const wrong = own.wrong[`request.${i + 1}.${name}`];
  const id = `own-${i}-${name}`;
  return html`<td class=${wrong ? "wrong" : ""}><input inputmode="numeric" autocomplete="off" aria-label="row ${i + 1}, ${HEADS[name]}" .value=${String(row[name])}
    aria-invalid=${wrong ? "true" : "false"} aria-describedby=${wrong ? id : nothing} @change=${(event) => own.set(i, name, event.target.value)}>
    ${wrong ? html`<small id=${id}>${wrong.replace(/^.*?: /, "")}</small>` : nothing}</td>`;
}

function knobs(own) {
  const [first, rest] = own.knobGroups;
  return html`<fieldset><legend>Knobs</legend>${first.map((knob) => knobRow(own, knob))}</fieldset>
    <details ?open=${rest.some((knob) => own.wrong[knob.name])}><summary>more knobs</summary>${rest.map((knob) => knobRow(own, knob))}</details>`;
}

function knobRow(own, knob) {
  const value = own.knobValue(knob);
  const wrong = own.wrong[knob.name];
  const options = knob.kind === "bool" ? ["on", "off"] : knob.choices;
  const shown = knob.kind === "bool" ? (value ? "on" : "off") : String(value);
  const set = (event) => own.setKnob(knob, event.target.value);
  return html`<label class="knob ${knob.name in own.engine ? "touched" : ""} ${wrong ? "wrong" : ""}"><code>${knob.flag}</code>
    ${options.length
      ? html`<select .value=${shown} @change=${set}>${options.map((name) => html`<option value=${name} ?selected=${name === shown}>${name}</option>`)}</select>`
      : html`<input inputmode="decimal" autocomplete="off" aria-invalid=${wrong ? "true" : "false"} .value=${shown} @change=${set}>`}
    <span>${wrong || knob.help}</span></label>`;
}
