// THE WAY: the hops of a request as stations, the steps as a loop among them. A map, not a scale.

import { html, nothing } from "lit-html";

import { plural } from "#core/reasons.js";
import { samePick } from "#core/selection.js";
import { AFTER, BEFORE, LOOP, duration, litStations, stationsOf } from "#core/stations.js";

const EVENTS_SHOWN = 12;

export function waySection(life, view) {
  const { board, way } = view;
  const timed = board.run?.header?.fidelity !== "given";
  const made = stationsOf(way, life, board.store, timed);
  const { step, event } = board.player;
  const kind = event === null ? null : board.store.eventsOf(step)[event - 1]?.kind;
  const lit = new Set(litStations(life, step, kind));
  const station = (id) => stationButton(view, made.stations[id], lit.has(id));
  return html`<section class="way" aria-labelledby="way-title">
    <h3 id="way-title">The way</h3>
    <div class="stations">
      ${BEFORE.map(station)}
      <div class="loop ${LOOP.some((id) => lit.has(id)) ? "lit" : ""}">
        <div class="stations">${LOOP.map(station)}</div>
        <p>× ${plural(made.ran, "step")} that ran${life.ended === null ? " so far" : ""}</p>
      </div>
      ${AFTER.map(station)}
    </div>
    ${waysNotes(view, made, timed)}
    ${view.station ? stationCard(view, made.stations[view.station]) : nothing}
  </section>`;
}

// What no stream told, and where the request was before.
function waysNotes({ board, way, life }, { front }, timed) {
  const notes = [];
  if (!front && board.front.seq) notes.push("What the front end told of this request is no longer here.");
  else if (!front) notes.push("This run has no front end's stream: it was made without a server, so the hollow stations were not told.");
  if (!timed) notes.push("No model ran: what the steps took means nothing.");
  const route = board.front.routes.get(life.requestId);
  if (route?.tried.length) notes.push(`Engine ${route.tried.join(", ")} had it first, and died; here is what engine ${route.engine} did.`);
  else if (way.places.length > 1) notes.push(`It was on ${way.places.map(({ stream, req }) => `${stream} as ${req}`).join(", then on ")}.`);
  return notes.length ? html`<p class="quiet">${notes.join(" ")}</p>` : nothing;
}

function stationButton(view, { id, title, ns, note, within, told }, lit) {
  const time = duration(ns) || within;
  return html`<button class="station ${lit ? "lit" : ""} ${told ? "" : "untold"}" aria-expanded=${view.station === id}
    aria-current=${lit ? "step" : nothing} @click=${() => view.openStation(id)}
    ><i></i><b>${title}</b><span>${time || (told ? "" : "not told")}</span><small>${note}</small></button>`;
}

function stationCard(view, { id, title, text, vllm, ns, note }) {
  const { board } = view;
  const events = view.eventsOf(id);
  const at = Math.max(events.findIndex(({ step }) => step >= board.step), 0);
  const from = Math.max(Math.min(at - 2, events.length - EVENTS_SHOWN), 0);
  const told = events.findLast((event) => event.step === board.step && view.sourceOf(event)) ?? events.find((event) => view.sourceOf(event));
  const source = view.sourceOf(told);
  return html`<section class="station-card" aria-label=${title}>
    <header><h4>${title}</h4><span class="quiet">${[duration(ns), note].filter(Boolean).join(" · ")}</span>
      <button class="tool" aria-label="close (Esc)" @click=${() => view.openStation(id)}>✕</button></header>
    <p>${text}</p>
    <p class="quiet">${source ? html`here <code>${source.file}:${source.line}</code> · ` : nothing}in vLLM <code>${vllm}</code></p>
    ${events.length ? html`<ol class="events">${from ? html`<li class="quiet">… ${from} before</li>` : nothing}
      ${events.slice(from, from + EVENTS_SHOWN).map((event) => eventLine(view, event))}
      ${events.length > from + EVENTS_SHOWN ? html`<li class="quiet">… ${events.length - from - EVENTS_SHOWN} more</li>` : nothing}</ol>`
    : html`<p class="quiet">No event of this run tells of it.</p>`}
  </section>`;
}

function eventLine({ board }, { stream, seq, step, kind, data }) {
  const words = summary(data);
  const chosen = samePick({ event: { stream, seq } }, board.focus.chosen);
  const name = html`<button class="link" aria-pressed=${chosen} @click=${() => pickEvent(board, { stream, seq })}><code>${kind}</code></button>`;
  if (stream === "api") return html`<li class=${chosen ? "looked" : ""}><i>–</i>${name}<span>${words}</span></li>`;
  return html`<li class="${step === board.step ? "here" : ""} ${chosen ? "looked" : ""}"><a href=${board.linkTo(step)} @click=${(event) => {
      event.preventDefault();
      board.travel.seek(step);
    }}>${step}</a>${name}<span>${words}</span></li>`;
}

function pickEvent(board, event) {
  board.frame.why({ event });
}

// The payload's short fields: all that fits on a line.
function summary(data) {
  return Object.entries(data ?? {})
    .filter(([name, value]) => name !== "request_id" && value !== null && (typeof value !== "object" || (Array.isArray(value) && value.length && value.length <= 8 && typeof value[0] !== "object")))
    .map(([name, value]) => `${name} ${value}`)
    .join(" · ");
}
