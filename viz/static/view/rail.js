// The lesson rail: the list of lessons, or one of them with its five parts.

import { html, nothing } from "lit-html";

import { TABS } from "#board/lessons.js";
import { checkWords, questionsOf, score } from "#core/lesson.js";
import { plural } from "#core/reasons.js";
import { NO_SERVER, hasServer } from "#net/home.js";
import { prose } from "#view/prose.js";

export function rail(board) {
  const { lessons } = board;
  if (!lessons.shown) return nothing;
  const { lesson } = lessons;
  return html`<aside class="rail" aria-label=${lesson ? `Lesson ${lesson.number}: ${lesson.title}` : "Lessons"}>
    <header><h2 tabindex="-1">${lesson ? html`<small>Lesson ${lesson.number}</small> ${lesson.title}` : "Lessons"}</h2>
      ${lesson ? html`<button class="tool" aria-label="all lessons" @click=${() => lessons.leave()}>☰</button>` : nothing}
      <button class="tool" aria-label="close the lesson (N)" @click=${() => lessons.close()}>✕</button></header>
    ${lesson ? opened(board, lesson) : listed(lessons)}
  </aside>`;
}

// At the left edge, where the rail comes out.
export function railTab(board) {
  const { lessons } = board;
  if (lessons.shown || board.frame.id !== "board" || board.narrow) return nothing;
  return html`<button class="rail-tab" title="lessons (N)" @click=${() => lessons.toggle()}>Lessons</button>`;
}

function listed(lessons) {
  const { list, trouble } = lessons;
  return html`<div class="rail-body">
    ${list === null ? html`<p class="quiet">Looking for lessons …</p>` : nothing}
    ${list?.length === 0 ? html`<p>There are no lessons here. They come with the repository, in its folder <code>lessons</code>; the page of
      <code>minivllm demo</code>, <code>view</code> or <code>serve</code> that is started from there has them.</p>` : nothing}
    <ol class="lessons">${(list ?? []).map((row) => html`<li><button class="tool" @click=${() => lessons.choose(row.slug)}>
      <b>${row.number}</b> ${row.title}</button> <small>${stateOf(row)}</small></li>`)}</ol>
    ${trouble ? html`<p class="notice" role="alert">${trouble}</p>` : nothing}
  </div>`;
}

const stateOf = ({ progress }) => (progress ? (progress.state === "passed" ? "passed ✓" : progress.state) : "");

function opened(board, lesson) {
  const { lessons } = board;
  const parts = { read, walk, change, hints, check };
  const move = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.stopPropagation();
    const names = TABS.map(([name]) => name);
    lessons.show(names[(names.indexOf(lessons.tab) + by + names.length) % names.length]);
    event.currentTarget.querySelector(`[data-tab=${lessons.tab}]`).focus();
  };
  return html`<div class="tabs" role="tablist" aria-label="parts of the lesson" @keydown=${move}>${TABS.map(([name, text]) => html`<button
      role="tab" id=${`tab-${name}`} data-tab=${name} aria-selected=${name === lessons.tab} aria-controls="rail-part" tabindex=${name === lessons.tab ? 0 : -1}
      @click=${() => lessons.show(name)}>${text}</button>`)}</div>
    <div class="rail-body ${lessons.tab}" id="rail-part" role="tabpanel" aria-labelledby=${`tab-${lessons.tab}`} tabindex="0">${parts[lessons.tab](board, lesson)}</div>`;
}

function read({ lessons }, lesson) {
  return html`${prose(lesson.text)}
    ${lesson.tour && lesson.run ? html`<p><button class="tool primary" @click=${() => lessons.walk()}>Walk through it</button></p>` : nothing}`;
}

function walk(board, lesson) {
  const { lessons } = board;
  if (!lesson.tour || !lesson.run) return html`<p class="quiet">${hasServer ? "This lesson has no walk." : "Its walk is made on its own run, which is not in this file."}</p>`;
  const { tour } = lessons;
  const { stops } = lesson.tour;
  if (!tour) return html`<p>${plural(stops.length, "stop")} on the lesson’s own run, ${plural(questionsOf(lesson.tour, {}).length, "question")} on the way: predict, then see.</p>
    <p><button class="tool primary" @click=${() => lessons.walk()}>${Object.keys(lessons.answers).length ? "Walk it once more" : "Begin"}</button></p>`;
  const at = Math.max(tour.at, 0);
  const away = tour.stop === null && tour.state !== "playing";
  return html`<p class="quiet">stop ${at + 1} of ${stops.length}, step ${stops[at].step}</p>
    ${tour.told ? html`<p class="verdict"><b>${tour.told}</b></p>` : nothing}
    <p class="say">${tour.state === "playing" ? "…" : away ? "You have gone elsewhere; the walk goes on from there." : stops[at].say}</p>
    ${tour.asking ? html`<p>The question stands above. <button class="term" @click=${() => lessons.show("hints")}>a hint?</button></p>` : nothing}
    <p class="row"><button class="tool" ?disabled=${at === 0 && !away} @click=${() => tour.back()}>Back</button>
      <button class="tool primary" @click=${() => tour.next()}>${tour.asking ? "Skip" : tour.atLast ? "To the end" : "Next"} <kbd>Space</kbd></button></p>`;
}

function change(board, lesson) {
  const { lessons, engine } = board;
  const { words } = lesson.tour?.change ?? {};
  if (!words || !lesson.scenario || !lessons.knobs.length) return html`<p class="quiet">${hasServer ? "There is nothing to turn in this lesson." : NO_SERVER}</p>`;
  const allowed = engine.driver && engine.linked;
  return html`<p>${words}</p>
    <form @submit=${(event) => {
      event.preventDefault();
      lessons.runAnew();
    }}>${lessons.knobs.map((knob) => knobRow(lessons, knob))}
      <p class="row"><button class="tool primary" ?disabled=${!allowed || lessons.busy}>Run it anew</button></p></form>
    ${allowed ? nothing : html`<p class="quiet">Only the driver of this page may run it.</p>`}
    <p class="notice" role="alert">${lessons.notice}</p>
    ${lessons.last ? html`<p>The new run is ${lessons.last}.</p>
      <p class="row"><button class="tool" @click=${() => lessons.compare()}>Compare with the lesson’s run</button>
        <button class="tool" @click=${() => board.openRun(lesson.run, { step: 0 })}>Back to the lesson’s run</button></p>` : nothing}`;
}

function knobRow(lessons, knob) {
  const value = lessons.valueOf(knob);
  const options = knob.kind === "bool" ? ["on", "off"] : knob.choices;
  const shown = knob.kind === "bool" ? (value ? "on" : "off") : String(value);
  const set = (event) => lessons.turn(knob, event.target.value);
  const field = options.length
    ? html`<select .value=${shown} @change=${set}>${options.map((name) => html`<option value=${name} ?selected=${name === shown}>${name}</option>`)}</select>`
    : html`<input inputmode="decimal" autocomplete="off" .value=${shown} @change=${set}>`;
  return html`<label class="rail-knob ${knob.name in lessons.values ? "touched" : ""}"><code>${knob.name}</code>${field}<small>${knob.help}</small></label>`;
}

// One at a time.
function hints({ lessons }, lesson) {
  if (!lesson.hints.length) return html`<p class="quiet">There are no hints to this lesson.</p>`;
  return lesson.hints.map(({ title, items }, i) => {
    const open = Math.min(lessons.hints[i] ?? 0, items.length);
    return html`<h3>${title}</h3><ol class="hints">${items.slice(0, open).map((item) => html`<li>${prose(item)}</li>`)}</ol>
      ${open < items.length ? html`<button class="tool" @click=${() => lessons.hint(i)}>${open ? "One more" : "A hint"} (${open} of ${items.length})</button>` : nothing}`;
  });
}

function check({ lessons }, lesson) {
  const questions = questionsOf(lesson.tour, lessons.answers);
  return html`${questions.length ? html`<h3>Predictions: ${score(questions)}</h3>
    <ol class="asked-so-far">${questions.map(({ words, choice, truth, right, told }) => html`<li><p>${words}</p>
      <p class="quiet">${truth === null ? "not asked yet" : html`<b>${right ? "✓" : "✗"}</b> you said ${choice}. ${told}`}</p></li>`)}</ol>` : nothing}
    ${lesson.exercise ? exercise(lesson) : questions.length ? nothing : html`<p class="quiet">There is nothing to check in this lesson.</p>`}
    ${lesson.trouble ? html`<p class="notice" role="alert">${lesson.trouble}</p>` : nothing}`;
}

function exercise({ number, progress }) {
  const { command, words, passed, at, step } = checkWords(number, progress ?? {});
  return html`<h3>Exercise</h3><p>${passed === null ? nothing : html`<b>${passed ? "✓ passed" : "✗ not yet"}</b> `}${words}
      ${step ? html` (step ${step})` : nothing}</p>
    ${at ? html`<p class="quiet">checked ${at.replace("T", " ").replace("Z", " UTC")}</p>` : nothing}
    <pre tabindex="0" aria-label="command"><code>${command}</code></pre>`;
}
