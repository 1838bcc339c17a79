// What surrounds a view: the bar at the top, the sentence, drawers, the detail line, the transport.

import { html, nothing, svg } from "lit-html";

import { speedName } from "#core/clock.js";
import { LEGEND_TOKENS } from "#core/say.js";
import { unknownWords } from "#core/words.js";
import { MARKS } from "#core/facts.js";
import { enginesNav } from "#view/engines.js";
import { keyButton, sentence } from "#view/parts.js";
import { predictButton, predictQuestion, predictVerdict } from "#view/predict.js";
import { tourButton, tourQuestion } from "#view/tour.js";

export function topBar(board) {
  return html`<header class="bar">
    <h1>mini<b>vllm</b></h1>
    ${runPicker(board)}
    ${board.narrow ? nothing : enginesNav(board)}
    ${pairBadge(board)}
    ${runPill(board)}
    ${board.narrow ? nothing : viewsNav(board)}
    <span class="space"></span>
    ${drawerButtons(board)}
    ${keyButton("experiment with the knobs", "X", () => board.knobs.open(), { lettered: "knobs" })}
    ${keyButton("find", "/", () => board.open("find"), { lettered: "find" })}
    ${keyButton("help and legend", "?", () => board.open("help"), { lettered: "help" })}
    ${keyButton("theme", "M", () => board.nextTheme(), { text: html`<kbd aria-hidden="true">◐</kbd> theme` })}
    <button class="tool" title="everything there is" @click=${() => board.open("more")}><kbd aria-hidden="true">⋯</kbd> more</button>
    ${enginePill(board)}
  </header>`;
}

// Two runs are loaded: which of them is shown, and the other at a touch.
function pairBadge({ pair }) {
  if (!pair.on) return nothing;
  const [here, other] = pair.flipped ? ["B", "A"] : ["A", "B"];
  return html`<button class="badge" title="flip to ${other} (B)" aria-label="run ${here} is shown; flip to ${other} (B)" @click=${() => pair.flip()}>${here}</button>`;
}

// The views by name; each is a link, so that it can be opened beside this one.
export function viewsNav(board) {
  const { frame } = board;
  return html`<nav class="views" aria-label="views">${frame.named.map(({ id, title, key }) => html`<a
    href=${board.run ? board.linkTo(board.step, board.focus.chosen, id) : nothing} title=${key ? `${title} (${key.toUpperCase()})` : title}
    aria-current=${id === frame.id ? "page" : nothing}
    @click=${(event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      frame.show(id);
    }}>${title}</a>`)}</nav>`;
}

// Beside its key each drawer has a button; on a phone, in the help.
export function drawerButtons(board) {
  const { frame } = board;
  return frame.drawers.map(({ id, title, short, key }) => keyButton(title, key.toUpperCase(), () => frame.toggle(id), {
    lettered: short,
    pressed: frame.drawerId === id,
  }));
}

export function drawerRegion(board) {
  const { drawer } = board.frame;
  if (!drawer) return nothing;
  return html`<aside class="drawer ${drawer.side}" aria-label=${drawer.title}>
    <header><h2>${drawer.title}</h2>
      <button class="tool" aria-label="close (Esc)" @click=${() => board.frame.closeDrawer()}>✕</button></header>
    ${board.frame.host(drawer, "div")}
  </aside>`;
}

function runPicker(board) {
  // A lesson's run is reached from its lesson.
  const runs = board.runs.filter((run) => !run.lesson || run.id === board.run?.id);
  if (runs.length < 2) return html`<span class="run-name">${called(board.run)}</span>`;
  return html`<label class="picker"><span class="hidden">run</span><select
    .value=${board.run?.id ?? ""} @change=${(event) => pickRun(board, event.target)}>
    ${runs.map((run) => html`<option value=${run.id} ?selected=${run.id === board.run?.id}>${called(run)}</option>`)}
    <option value=${ALL}>all runs (R) …</option>
  </select></label>`;
}

const ALL = "?"; // no run is called so

function pickRun(board, select) {
  if (select.value !== ALL) return board.openRun(select.value);
  select.value = board.run?.id ?? "";
  return board.open("runs");
}

// A simulated run is told from the others by the knobs that were changed for it.
const called = (run) => run?.label || run?.id || "";

function runPill(board) {
  if (!board.run) return nothing;
  const { text, behind, live, origin, short = text.split(" · ")[0] } = board.pill;
  if (behind) {
    return html`<button class="pill live" @click=${() => board.travel.end()}><i></i>LIVE · ${behind} ahead <span class="long">— go there</span></button>`;
  }
  return html`<span class="pill ${live ? "live" : ""}" title=${origin || nothing}><i></i>${board.narrow ? short : origin ? html`<span class="origin">${text}<small>${origin}</small></span>` : text}</span>`;
}

function enginePill(board) {
  const { status } = board.engine;
  if (!status || board.isLive) return nothing;
  if (board.engine.lost) return html`<span class="pill engine">no connection to the engine</span>`;
  const text = `engine: ${status.text}`;
  if (status.state === "ready") {
    return html`<button class="pill engine ready" @click=${() => board.openRun("live")}
      ><i></i><span class="long">engine: ready —</span> <span class="verb">watch</span> live</button>`;
  }
  const failed = status.state === "failed";
  return html`<span class="pill engine ${status.state}" title=${status.remedy ?? ""} tabindex=${failed ? 0 : nothing}
    >${failed ? nothing : html`<i></i>`}${text}${failed && status.remedy ? html`<small>${status.remedy}</small>` : nothing}</span>`;
}

export function sentenceRegion(board, told) {
  return html`<section class="sentence" aria-label="What happened in this step">
    <div class="number"><b>${board.step}</b><span>of ${board.lastStep}${board.growing ? "…" : ""}</span></div>
    <div class="words">${tourQuestion(board) ?? predictQuestion(board) ?? html`
      <p class="headline">${sentence(board, told.headline)}</p>
      <p class="also">${alsoLine(board, told)}</p>`}
    </div>
    ${tourButton(board)}${predictButton(board)}
    <button class="tool why-button" ?disabled=${!told.subject} @click=${() => board.frame.why(told.subject)}>Why?</button>
  </section>`;
}

function alsoLine(board, told) {
  const { here, held } = board.breaks;
  if (told.event || held) {
    const walked = held ? html`<b>${held}</b>` : html`<button class="link" title="why this event?" @click=${() => board.frame.why({ event: told.at })}><b>${told.event}</b></button>`;
    return html`${here ? html`<em>stopped at ${here}</em> · ` : nothing}${walked}`;
  }
  const verdict = predictVerdict(board);
  if (verdict) return verdict;
  if (board.tour?.told) return html`<em>${board.tour.told}</em>`;
  const strange = told.headline && board.store ? unknownWords(board.store.eventsOf(board.step)) : "";
  return html`${told.also ? html`also: ${sentence(board, told.also)}` : nothing}${strange ? html` · <b>${strange}</b> ` : nothing}`;
}

// At a fixed place, not at the pointer: what is under it in words; else the legend.
export function detailLine(board) {
  const words = board.frame.view.detail?.(board) || board.focus.detail;
  return html`<div class="detail" aria-hidden="true">${words
    ? html`<p>${words}</p>`
    : html`<p class="legend">${LEGEND_TOKENS.map(
        ({ flags, text, short }) => html`<span><vz-token .data=${flags}></vz-token>${short ?? text}</span>`,
      )}<span class="apart"></span>${Object.entries(MARKS).map(([mark, text]) => html`<span><b>${mark}</b>${text}</span>`)}
      <span><b>◆</b>cached</span></p>`}
    ${board.focus.cells ? html`<span class="mode">cells · Esc leaves</span>` : nothing}</div>`;
}

const ICONS = {
  first: "M4 4v12M16 4 7 10l9 6z",
  back: "M14 4 6 10l8 6z",
  play: "M6 3.5 16 10 6 16.5z",
  pause: "M6.5 4v12M13.5 4v12",
  on: "M6 4l8 6-8 6z",
  last: "M16 4v12M4 4l9 6-9 6z",
};

const icon = (name) => html`<svg class="icon" viewBox="0 0 20 20" aria-hidden="true">${svg`<path d=${ICONS[name]}/>`}</svg>`;

function scrubData({ firstStep, lastStep, step, store, breaks, marked }) {
  const summaries = (k) => store?.steps.get(k)?.summary ?? null;
  return { steps: Math.max(lastStep, 1), first: firstStep, step, summaries, stops: breaks.steps, hits: marked };
}

export function transport(board) {
  const speed = board.travel.pace;
  return html`<footer class="transport">
    <vz-scrub .data=${board.memo("scrub", () => scrubData(board), `${board.breaks.words} ${JSON.stringify(board.focus.chosen)}`)} role="slider" tabindex="0"
      aria-label="step" aria-valuemin=${board.firstStep} aria-valuemax=${board.lastStep} aria-valuenow=${board.step}
      @seek=${(event) => board.travel.seek(event.detail.step)}></vz-scrub>
    <div class="buttons">
      ${keyButton("first step", "Home", () => board.travel.home(), { text: icon("first") })}
      ${keyButton("one step back", "←", () => board.travel.back(), { text: icon("back") })}
      ${keyButton(board.travel.moving ? "pause" : "play", "Space", () => board.travel.toggle(), { text: icon(board.travel.moving ? "pause" : "play") })}
      ${keyButton("one step on", "→", () => board.travel.on(), { text: icon("on") })}
      ${keyButton("last step", "End", () => board.travel.end(), { text: icon("last") })}
    </div>
    ${board.narrow ? nothing : keyButton("timeline", "Y", () => board.frame.show(board.frame.id === "timeline" ? "board" : "timeline"), { lettered: "timeline", pressed: board.frame.id === "timeline" })}
    ${board.narrow ? nothing : keyButton("breakpoints", "W", () => board.open("breaks"), { lettered: board.breaks.list.length ? `stops ${board.breaks.list.length}` : "stops" })}
    <div class="speed">
      ${keyButton("slower", "[", () => board.travel.faster(-1), { text: "−" })}
      <span>${speedName(speed)}</span>
      ${keyButton("faster", "]", () => board.travel.faster(1), { text: "+" })}
    </div>
    <form class="position" @submit=${(event) => board.travel.goto(event)}>
      <input name="step" inputmode="numeric" aria-label="go to step (G)" autocomplete="off" .value=${String(board.step)}>
      <span>of ${board.lastStep}</span>
    </form>
  </footer>`;
}
