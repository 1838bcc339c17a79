// What opens over the Board: the Why card, find, help with the legend, the tables.

import { html, nothing } from "lit-html";

import { MARKS } from "#core/facts.js";
import { READY_MADE, find } from "#core/find.js";
import { LEGEND_TOKENS, sayBlock } from "#core/say.js";
import { exportAddress } from "#net/history.js";
import { NO_SERVER, hasServer } from "#net/home.js";
import { fontSize } from "#view/fontsize.js";
import { hueClass, visible } from "#view/parts.js";

const LONG = 24; // characters: a subtitle, such as a served request's id, that takes a line of its own
const LIFE_SHOWN = 10;
const EVENTS_SHOWN = 8;

export function whyPanel(board, card) {
  if (!card) return nothing;
  const link = (step, text = `step ${step}`) => html`<a href=${board.linkTo(step)}
    @click=${(event) => {
      event.preventDefault();
      board.travel.seek(step);
    }}>${text}</a>`;
  return html`<aside class="why" aria-label="Why: ${card.title}">
    <header class=${card.subtitle?.length > LONG ? "apart" : ""}><h2><span class="chip ${hueClass(card.hue ?? -2)}"><span>${card.title}</span></span>
      <small>${card.subtitle}</small></h2>
      <nav>${board.frame.followers(board.focus.about).map((view) => html`<a href=${board.linkTo(board.step, board.focus.chosen, view.id)}
        @click=${(event) => {
          event.preventDefault();
          board.frame.show(view.id);
        }}>${view.short ?? view.title}</a>`)}</nav>
      <button class="tool" aria-label="close (Esc)" @click=${() => board.frame.closeCard()}>✕</button></header>
    <dl>
      <dt>Now</dt><dd>${card.fields ? coded(card.now) : visible(card.now)}${card.fields?.length ? html`<ul class="fields">${card.fields.map(([name, value]) => html`<li><code>${name}</code> ${visible(value)}</li>`)}</ul>` : nothing}</dd>
      ${card.why.length ? html`<dt>Why</dt><dd>${card.why.map(
        ({ text, name, step }) => html`<p>${visible(text)} <code>${name}</code>${step ? html` ${link(step)}` : nothing}</p>`,
      )}</dd>` : nothing}
      ${card.route ? html`<dt>Route</dt><dd>${routeTable(card.route)}</dd>` : nothing}
      ${card.life ? html`<dt>Life</dt><dd class="life">${lifeList(card.life, board.step, link)}${card.begins ? html`<span class="quiet"> What came before step ${card.begins} was not kept.</span>` : nothing}</dd>` : nothing}
      ${card.since || card.next ? html`<dt>When</dt><dd class="when">${card.since ? html`<span>since ${link(card.since.step)}: ${card.since.text}</span>` : nothing}
        ${card.next ? html`<span>next ${card.next.step === null ? card.next.text : html`${link(card.next.step)}: ${card.next.text}`}</span>` : nothing}</dd>` : nothing}
      ${card.events?.length ? html`<dt>Told</dt><dd class="told-here">${card.events.slice(-EVENTS_SHOWN).map((event) => html`<button class="link" title="this event"
        @click=${() => board.focus.choose({ event: { stream: event.stream, seq: event.seq } })}>${event.kind}</button> `)}${card.events.length > EVENTS_SHOWN ? html`<span class="quiet">… ${card.events.length - EVENTS_SHOWN} before</span>` : nothing}</dd>` : nothing}
      ${card.source ? html`<dt>Source</dt><dd><button class="source" title="its source (S)" @click=${() => showLine(board, card.source)}><code>${card.source.file}:${card.source.line}</code></button>
        <small>${card.source.function}, ${card.source.kind}</small></dd>` : nothing}
    </dl>
  </aside>`;
}

// Of an event: what stands between `…` is a field's name.
const coded = (text) => text.split("`").map((part, i) => (i % 2 ? html`<code>${part}</code>` : visible(part)));

// The source, open at this line. What was selected stays; a second press selects the line.
function showLine(board, { file, line }) {
  if (board.frame.drawerId !== "source") board.frame.toggle("source");
  else if (!board.focus.chosen?.line) board.focus.choose({ line: { file, line } });
}

// Why this engine, and the numbers of all that could have been picked.
function routeTable({ text, name, engine, candidates }) {
  return html`<p>${text} <code>${name}</code></p>
    ${candidates.length ? html`<table class="route"><thead><tr><th scope="col">engine</th><th scope="col">open</th>
      <th scope="col">tokens to run</th><th scope="col">cached</th></tr></thead>
      <tbody>${candidates.map((each) => html`<tr class=${each.engine === engine ? "picked" : ""}>
        <th scope="row">${each.engine}${each.engine === engine ? " ✓" : ""}</th><td>${each.open_requests}</td>
        <td>${each.load_tokens}</td><td>${each.cached_tokens}</td></tr>`)}</tbody></table>` : nothing}`;
}

function lifeList(life, step, link) {
  const at = life.findIndex((entry) => entry.step > step);
  const centre = at < 0 ? life.length : at;
  const from = Math.max(Math.min(centre - LIFE_SHOWN / 2, life.length - LIFE_SHOWN), 0);
  const shown = life.slice(from, from + LIFE_SHOWN);
  const rest = life.length - shown.length;
  return html`${shown.map(
    (entry, i) => html`<span class=${entry.step === step ? "here" : ""}>${entry.text} (${link(entry.step, entry.step)})${i < shown.length - 1 ? ", " : ""}</span>`,
  )}${rest ? html`<span class="quiet">… ${rest} more</span>` : nothing}`;
}

export function dialog(board, title, body) {
  return html`<div class="veil" @click=${(event) => event.target === event.currentTarget && board.close()}>
    <section class="dialog" role="dialog" aria-modal="true" aria-label=${title}>
      <div class="dialog-head"><h2>${title}</h2><button class="tool" aria-label="close (Esc)" @click=${() => board.close()}>✕</button></div>
      ${body}
    </section>
  </div>`;
}

export function findPanel(board) {
  const { hits, more } = board.store ? find(board.store, board.query, (step) => board.headlineOf(step)) : { hits: [], more: 0 };
  const at = (hit) => board.linkTo(hit.step, { req: hit.req, block: hit.block });
  return dialog(board, "Find", html`
    <input class="find" type="search" aria-label="a request, a block, a reason or a kind of event"
      placeholder="r4 · block 6 · no_free_blocks · evict" .value=${board.query}
      @input=${(event) => board.search(event.target.value)}>
    <p class="ready-made">${[...READY_MADE.map((item) => item.label), "the longest waits"].map(
      (label) => html`<button class="tool" @click=${() => board.search(label)}>${label}</button>`,
    )}</p>
    ${hits.length && board.frame.id !== "timeline" ? html`<p><button class="tool" @click=${() => {
      board.close();
      board.frame.show("timeline");
    }}>show them in the timeline</button></p>` : nothing}
    <ol class="hits">${hits.map((hit) => html`<li><a href=${at(hit)} @click=${() => board.close()}
      ><b>${hit.step}</b> <span>${hit.text}</span></a></li>`)}</ol>
    ${more ? html`<p class="quiet">… ${more} more</p>` : nothing}
    ${board.query && !hits.length ? html`<p class="quiet">nothing in the ${board.lastStep} steps that are here</p>` : nothing}`);
}

const KEYS = [
  ["← →", "one step back, one step on"],
  ["Shift + → ←", "one event, inside the step"],
  ["Space", "play, pause"],
  ["Home End", "first step, last step (live: follow)"],
  ["[ ]", "slower, faster"],
  ["G", "go to a step"],
  ["N", "the lessons, at the left edge"],
  ["R", "the runs that are here, and what there is to see in each"],
  ["O", "open a trace file, with its steps’ .safetensors files if you like, or drop them on the page; they are read here and sent nowhere"],
  ["/", "find a request, a block, a reason"],
  ["J K", "next, previous step of the chosen request"],
  ["D", "read out the whole state"],
  ["E", "the next engine, where a run has several"],
  ["X", "experiment: the knobs"],
  ["W", "breakpoints: where to stop"],
  [". ,", "to the next, the previous breakpoint"],
  ["V", "a scenario of your own"],
  ["I", "a picture of what is shown; the worksheet of the run"],
  ["Y", "the timeline: requests × steps"],
  ["C", "compare two runs; then B flips the Board between them"],
  ["Enter", "on the pool: a cursor on its blocks; arrows move it, Esc leaves"],
  ["Q", "predict: the page asks what the next step decides, and hides what comes"],
  ["U", "lead a class; F follows again"],
  ["PgUp PgDn", "the run’s stops, as a presenter’s clicker sends them"],
  ["+ −", "everything larger, smaller"],
  ["M", "theme: dark, light, light for the projector"],
  ["Esc", "let go, close"],
];

export function helpPanel(board) {
  const blocks = [
    ["used", "in use: its request’s hue, solid border"],
    ["shared", "shared: a band for each owner, double border, ×n"],
    ["cached", "free and cached: grey hatch; can still be hit"],
    ["blank", "free and blank: dashed border"],
  ];
  return dialog(board, "Help", html`<div class="help">
    <section><h3>Keys</h3><table>${[...KEYS, ...board.frame.keyRows].map(([key, text]) => html`<tr><th><kbd>${key}</kbd></th><td>${text}</td></tr>`)}</table>
      <p><label><input type="checkbox" .checked=${!board.keysOff}
        @change=${(event) => board.setKeys(event.target.checked)}> single keys are on</label></p>
      ${fontSize(board)}</section>
    <section><h3>Tokens</h3><ul class="marks">${LEGEND_TOKENS.map(
        ({ flags, text }) => html`<li><vz-token .data=${flags}></vz-token> ${text}</li>`)}</ul>
      <h3>Blocks</h3><ul class="marks">${blocks.map(([name, text]) => html`<li><i class="swatch ${name}"></i> ${text}</li>`)}
        <li><b>◆</b> full and hashed: others can hit it; bright in the step it came</li></ul>
      <h3>Marks of a step</h3><ul class="marks">${Object.entries(MARKS).map(([mark, text]) => html`<li><b>${mark}</b> ${text}</li>`)}</ul></section>
    <section class="wide"><p>Hue and hatch say which request, and nothing else. Fill says the state of a slot. Outline and mark say
      what happened in this step. Place says the phase of life.</p>
      <p>${board.tour ? html`<button class="tool" @click=${() => takeTour(board)}>Take the tour</button>` : nothing}
      <button class="tool" @click=${() => {
        board.close();
        board.lessons.open();
      }}>Lessons</button>
      ${board.frame.unnamed.map(({ id, title }) => html`<button class="tool" @click=${() => {
        board.close();
        board.frame.show(id);
      }}>${title}</button> `)}
      ${board.frame.drawers.map(({ id, title }) => html`<button class="tool" @click=${() => {
        board.close();
        board.frame.toggle(id);
      }}>${title}</button> `)}
      <button class="tool" @click=${() => board.own.open()}>A scenario of your own</button>
      <button class="tool" @click=${() => board.printing.open()}>Picture and worksheet</button>
      ${board.engine.driver ? html`<button class="tool" @click=${() => board.open("class")}>Lead a class</button>` : nothing}
      <button class="tool" @click=${() => {
        board.close();
        board.predict.toggle();
      }}>Predict</button>
      <button class="tool" @click=${() => board.open("tables")}>Show the ${board.frame.view.title} as tables</button>
      <button class="tool" @click=${() => board.open("runs")}>All runs</button>
      ${exportLink(board)}</p>
      ${board.words.origin ? html`<p class="quiet">${NO_SERVER} ${board.words.origin}</p>` : nothing}</section>
  </div>`);
}

// The run that is open, and the one beside it, as a file that opens from disk.
export function exportLink({ run, pair }) {
  if (!hasServer || !run || run.lives || run.error) return nothing;
  const beside = pair.on && !pair.b.run.lives ? pair.b.run.id : null;
  const words = beside ? "Export both runs as one file" : "Export this run as one file";
  return html`<a class="tool" href=${exportAddress(pair.a.run.id, beside)} download title="a page that opens from disk, without a server">${words}</a>`;
}

function takeTour(board) {
  board.close();
  board.focus.clear();
  board.tour.start(false);
}

const BLOCKS_IN_TABLE = 500;

export const table = (caption, head, rows) => html`<table><caption>${caption}</caption>
  <thead><tr>${head.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
  <tbody>${rows.map((row) => html`<tr>${row.map((cell, i) => (i ? html`<td>${cell}</td>` : html`<th scope="row">${cell}</th>`))}</tr>`)}</tbody></table>`;

// The same as the view that is shown, for a screen reader or to copy from.
export function tablesPanel(board) {
  const { view } = board.frame;
  const tables = view.table?.(board);
  if (!tables) return nothing;
  return dialog(board, `${view.title}: step ${board.step} as tables`, html`<div class="tables">${tables}</div>`);
}

export function tablesOf(board) {
  const scene = board.scene();
  if (!scene) return nothing;
  const { waiting, running, pool } = scene;
  const notBlank = pool.faces.filter((face) => face.state !== "blank");
  return html`
    ${table(`Waiting, ${waiting.length}`, ["request", "computed", "known", "why"], waiting.map((r) => [r.req, r.computed, r.known, r.why]))}
    ${table(`Running, ${running.length}`, ["request", "computed", "known", "ran now", "blocks"],
      running.map((r) => [r.req, r.computed, r.known, r.ranTo - r.ranFrom, r.table.join(" ")]))}
    ${table(`Blocks that are not blank, ${notBlank.length} of ${pool.total}`, ["block", "state", "held by", "marks"],
      notBlank.slice(0, BLOCKS_IN_TABLE).map((face) => [face.id, sayBlock(face), face.owners.map((o) => o.row.req).join(" "), face.marks]))}
    <p>Free queue, next first: ${pool.free.slice(0, 200).join(" ")}${pool.free.length > 200 ? ` … ${pool.free.length - 200} more` : ""}</p>`;
}

export function problemPanel(board) {
  const problem = board.engine.lost ?? board.problem ?? board.news;
  if (!problem) return nothing;
  return html`<div class="problem ${problem.red ? "red" : ""}" role="alert"><p><b>${problem.what}</b> ${problem.cause}</p>
    ${problem.action ? html`<button class="tool" @click=${problem.action.run}>${problem.action.text}</button>` : nothing}</div>`;
}
