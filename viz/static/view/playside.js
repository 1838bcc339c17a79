// Beside the conversation: how the engine stands, the sampling parameters, the workloads.

import { html, nothing } from "lit-html";

import { PARAMS } from "#core/chat.js";
import { alternatives } from "#view/chat.js";
import { chip, keyButton } from "#view/parts.js";

const CHIPS = 12;

// A small strip of the Board: the queue, the step's budget, the pool.
export function boardStrip(board) {
  const scene = board.isLive ? board.scene() : null;
  if (!scene) return html`<section class="now"><h2>Engine</h2><p class="quiet">${board.isLive ? "Nothing has run yet." : "It is shown as soon as you ask something."}</p></section>`;
  const { waiting, running, budget, pool } = scene;
  const used = pool.total - pool.free.length;
  const row = (name, value, total, words) => html`<dt>${name}</dt><dd><meter min="0" max=${total} value=${value} aria-label=${name}></meter><span>${words}</span></dd>`;
  const chips = (rows, words) => html`<dd class="chips">${rows.slice(0, CHIPS).map(({ req, hue }) => chip(board, req, hue, { flip: false }))}${
    rows.length > CHIPS ? html`<span class="quiet">+ ${rows.length - CHIPS}</span>` : nothing}${rows.length ? nothing : html`<span class="quiet">${words}</span>`}</dd>`;
  return html`<section class="now"><h2>Engine <span>at step ${board.step}</span>
      <button class="tool aside" @click=${() => board.frame.show("board")}>Board</button></h2>
    <dl>
      <dt>waiting ${waiting.length}</dt>${chips(waiting, "nobody")}
      <dt>running ${running.length}</dt>${chips(running, "nobody")}
      ${row("budget", budget.used, budget.total, `${budget.used} of ${budget.total}`)}
      ${row("pool", used, pool.total, `${used} of ${pool.total}`)}
    </dl></section>`;
}

export function tokenPanel(board) {
  return html`<section class="looked"><h2>Token</h2>${alternatives(board)}</section>`;
}

export function paramsForm(board) {
  const { chat } = board;
  const { errors } = chat;
  return html`<section class="params"><h2>Sampling <span>empty: the server’s own</span></h2>
    ${PARAMS.map((param) => paramRow(chat, param, errors[param.name]))}</section>`;
}

function paramRow(chat, { name, kind, min, max, step, says }, error) {
  const value = chat.typed[name] ?? "";
  const type = (event) => chat.type(name, event.target.value);
  const id = `param-${name}`;
  const field = kind === "lines"
    ? html`<textarea id=${id} rows="2" .value=${value} aria-invalid=${Boolean(error)} aria-describedby=${`${id}-says`} @input=${type}></textarea>`
    : html`<input id=${id} inputmode=${min < 0 ? "text" : "decimal"} autocomplete="off" .value=${value} aria-invalid=${Boolean(error)}
        aria-describedby=${`${id}-says`} placeholder=${`${min} … ${max > 1e9 ? "" : max}`} step=${step} @input=${type}>`;
  return html`<div class="param ${value ? "set" : ""} ${kind}"><label for=${id}><code>${name}</code></label>${field}
    <small id=${`${id}-says`} class=${error ? "wrong" : ""}>${error ?? says}</small></div>`;
}

// All scenarios that the server offers; each is sent whole, at once.
export function workloads(board) {
  const { chat, engine } = board;
  const { scenarios = [], about = {}, missing = "" } = chat.offers ?? {};
  const { ready, reason } = engine.canSend;
  return html`<section class="workloads"><h2>Workloads <span>all requests at once</span></h2>
    <p class="quiet">${ready ? "The running engine’s own knobs hold, not the scenario’s." : `${reason[0].toUpperCase()}${reason.slice(1)}.`}</p>
    ${missing ? html`<p class="notice" role="alert">They could not be read: ${missing}. <button class="tool" @click=${() => chat.offersAnew()}>Try again</button></p>` : nothing}
    <ul>${scenarios.map((name) => html`<li><div><b>${name}</b>
        <button class="tool" ?disabled=${!ready} aria-label=${`send ${name}`} @click=${() => chat.runWorkload(name)}>Send</button></div>
      <p>${about[name]?.note || about[name]?.title || ""}</p>
      ${about[name]?.tries?.length ? html`<p class="quiet">Try it with ${about[name].tries.map((flags, i) => html`${i ? ", or " : ""}<code>${flags}</code>`)}.</p>` : nothing}</li>`)}</ul>
    <p>${keyButton("change the knobs", "X", () => board.knobs.open(), { lettered: "change the knobs" })}</p>
    ${engine.driver ? nothing : html`<p class="quiet">You look on: workloads, the knobs and the engine’s pace are for the driver. Asking the model is open to whom the endpoint answers.</p>`}
  </section>`;
}
