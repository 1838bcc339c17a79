// The tour's button beside the sentence, its question in the sentence's place, the card at its end.

import { html, nothing } from "lit-html";

// Beside the sentence: one button, and what else can be done.
export function tourButton(board) {
  const { tour } = board;
  if (!tour?.on) return nothing;
  const first = tour.state === "ready" && board.step === board.firstStep;
  const text = first ? "▶ Play" : tour.asking ? "Skip" : tour.atLast ? "To the end" : "Next stop";
  return html`<div class="tour">
    ${tour.state === "end" ? nothing : html`<button class="tool primary" data-tour="next" @click=${() => tour.next()}>
      <span class="ring" ?hidden=${!tour.alone || tour.state === "playing"}></span>${text} <kbd aria-hidden="true">Space</kbd></button>`}
    <small>${first ? html`<button class="term" @click=${() => tour.finish()}>no tour</button>` : html`
      <button class="term" @click=${() => board.travel.on()}>→ one step</button>
      <button class="term" @click=${() => board.travel.back()}>← back</button>
      <button class="term" @click=${() => tour.finish()}>Esc ends</button>`}</small>
  </div>`;
}

// In place of the sentence, before the step that answers it: with choices, or a field.
export function tourQuestion(board) {
  const { tour, classroom } = board;
  const { words, choices } = tour?.question ?? {};
  if (!words) return null;
  const form = html`<form class="choices" @submit=${(event) => {
    event.preventDefault();
    const said = event.target.elements.answer.value;
    if (said.trim()) tour.answer(said);
  }}><input name="answer" autocomplete="off" aria-label="your prediction" size="6"><button class="tool">Predict</button></form>`;
  return html`<p class="headline">${words}</p>
    ${choices ? html`<p class="choices">${choices.map((choice) => html`<button class="tool" data-choice=${choice}
      @click=${() => tour.answer(choice)}>${choice}${classroom.touring ? html` <b>${classroom.is.crowd?.tally?.[choice] ?? 0}</b>` : nothing}</button>`)}
      ${classroom.touring ? html`<small>${classroom.votes}; what you choose, or skip, shows all what it was</small>` : nothing}</p>` : form}`;
}

export function endCard(board) {
  const { tour } = board;
  if (tour?.state !== "end") return nothing;
  const { ready, reason } = board.engine.canSend;
  return html`<div class="end-card">
    <h3>That was one engine, ${board.lastStep} steps, and every decision it took.</h3>
    <div><button class="tool primary" data-tour=${ready ? "next" : nothing} ?disabled=${!ready} @click=${() => tour.runLive()}>
        <span class="ring" ?hidden=${!tour.alone || !ready}></span>Run 8 prompts live${ready ? "" : ` · ${reason}`}</button>
      <button class="tool" @click=${() => tour.ask()}>Ask it something</button>
      <button class="tool" data-tour=${ready ? nothing : "next"} @click=${() => tour.follow()}>Follow ${tour.script.end.follow}’s life</button></div>
  </div>`;
}
