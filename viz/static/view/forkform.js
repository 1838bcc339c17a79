// How a second run comes: from the list, from a file, or by a fork with other knobs.

import { html, nothing } from "lit-html";

import { hasServer } from "#net/home.js";

export function pickB(board) {
  const { pair } = board;
  const { candidates } = pair;
  const own = pair.a.run?.header?.name;
  return html`<section class="pick" aria-label="Pick the other run">
    <h2>A is ${pair.a.run?.label || pair.a.run?.id || "not open"}. What shall stand beside it?</h2>
    ${pair.wanted ? html`<p role="status">Fetching ${pair.wanted} …</p>` : nothing}
    <ul>${candidates.slice(0, 24).map((run) => html`<li><button class="tool" ?disabled=${Boolean(pair.wanted)} @click=${() => pair.load(run.id)}
      ><b>${run.label || run.id}</b> <small>${aboutRun(run, own)}</small></button></li>`)}
      <li><button class="tool" @click=${() => board.chooseFile()}><b><kbd aria-hidden="true">O</kbd> a trace file of yours</b>
        <small>it is read here and sent nowhere</small></button></li></ul>
    ${candidates.length ? nothing : html`<p class="quiet">No other run is ${hasServer ? "here: make one with another knob" : "in this file"}.</p>`}
  </section>`;
}

function aboutRun(run, own) {
  if (run.kind === "live") return "the live engine’s run so far";
  if (run.header?.forked_from) return `a fork from step ${run.header.forked_from.split("@").at(-1)}`;
  return run.header?.name && run.header.name === own ? "the same workload" : "another workload: numbers only";
}

export function forkForm(board) {
  const { pair } = board;
  const knobs = pair.offers?.knobs ?? [];
  const names = Object.keys(pair.changes);
  const refusal = pair.refusal;
  if (!hasServer) return html`<section class="fork"><h2>Or change a knob: what if?</h2><p>${refusal}</p></section>`;
  const groups = [...new Set(knobs.map((knob) => knob.group))].reverse(); // policies first
  const since = pair.since;
  return html`<form class="knobs fork" @submit=${(event) => {
      event.preventDefault();
      if (names.length && !refusal && !pair.busy) pair.fork();
    }}>
    <h2>Or change a knob: what if?</h2>
    <p class="quiet">The same requests come at the same steps and say the same tokens; the real scheduler and pool decide anew. No model runs.</p>
    <p class="since" role="radiogroup" aria-label="from when on">
      <label><input type="radio" name="since" .checked=${pair.fromStart} @change=${() => pair.setFromStart(true)}> from the start</label>
      <label><input type="radio" name="since" .checked=${!pair.fromStart} @change=${() => pair.setFromStart(false)}> from step ${Math.min(Math.max(board.step, 1), Math.max(board.lastStep, 1))} on, where the cursor stands</label>
    </p>
    ${groups.map((group) => html`<fieldset><legend>${group.replace(/^The /, "")}</legend>
      ${knobs.filter((knob) => knob.group === group).map((knob) => knobRow(pair, knob))}</fieldset>`)}
    <footer><span class="notice" role="alert">${pair.notice || refusal || (names.length ? `changed: ${names.join(", ")}` : "nothing is changed yet")}</span>
      <button class="primary" type="submit" ?disabled=${!names.length || Boolean(refusal) || pair.busy}>${
        pair.busy ? "It runs …" : since > 1 ? `Fork at step ${since}` : "Fork from the start"}</button></footer>
  </form>`;
}

function knobRow(pair, knob) {
  const fits = pair.fromStart || knob.live;
  const touched = knob.name in pair.changes;
  const value = pair.valueOf(knob);
  const options = knob.kind === "bool" ? ["on", "off"] : knob.choices;
  const shown = knob.kind === "bool" ? (value ? "on" : "off") : String(value);
  const set = (event) => pair.set(knob, event.target.value);
  return html`<label class="knob ${touched ? "touched" : ""} ${fits ? "" : "fixed"}"><code>${knob.flag}</code>
    ${options.length
      ? html`<select ?disabled=${!fits} .value=${shown} @change=${set}>${options.map((name) => html`<option value=${name} ?selected=${name === shown}>${name}</option>`)}</select>`
      : html`<input ?disabled=${!fits} inputmode="decimal" autocomplete="off" .value=${shown} @change=${set}>`}
    <span>${fits ? knob.help : "Made at a start: choose “from the start”."}</span></label>`;
}
