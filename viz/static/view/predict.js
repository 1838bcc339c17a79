// Predict's question in place of the sentence, its button beside it, and what became of the answer;
// the same for a question that the leader of a class asks all.

import { html, nothing } from "lit-html";

import { tallyWords } from "#core/following.js";

export function predictQuestion(board) {
  const { predict, classroom } = board;
  if (predict.asking) return classroom.is.leads ? askedOfAll(predict.question, classroom) : asked(predict.question, null, (id) => predict.answer(id));
  if (!classroom.question || classroom.is.leads) return null;
  return asked(classroom.question, classroom.question.yours, (id) => classroom.vote(id), board.engine.linked);
}

function asked({ ask, choices }, yours, take, linked = true) {
  return html`<p class="headline">${ask}</p>
    <p class="choices">${choices.map(({ id, text }) => html`<button class="tool" data-choice=${id} aria-pressed=${id === yours} ?disabled=${!linked}
      @click=${() => take(id)}>${text}</button>`)}
      ${linked ? nothing : html`<small role="status">no connection: nothing is counted</small>`}
      ${!linked || yours === null || yours === undefined ? nothing : html`<small role="status">counted; it may be changed until the answer is shown</small>`}</p>`;
}

// The leader does not vote: it sees what comes in.
function askedOfAll({ ask, choices }, { is: { crowd }, votes }) {
  const tally = crowd?.tally ?? {};
  return html`<p class="headline">${ask}</p>
    <p class="choices votes">${choices.map(({ id, text }) => html`<span data-choice=${id}>${text} <b>${tally[id] ?? 0}</b></span>`)}
      <small>${votes}</small></p>`;
}

export function predictButton(board) {
  const { predict, classroom } = board;
  if (!predict.on) return nothing;
  const text = predict.asking ? (classroom.is.leads ? "Reveal" : "Skip") : predict.state === "waiting" ? "Waiting …" : predict.state === "over" ? "End" : "Next question";
  const go = () => (predict.state === "over" ? predict.end() : predict.next());
  return html`<div class="tour predict">
    <button class="tool primary" data-predict="next" ?disabled=${predict.state === "waiting"} @click=${go}>${text} <kbd aria-hidden="true">Space</kbd></button>
    <small>${classroom.is.leads ? nothing : html`<span role="status">${predict.score}</span>`}
      <button class="term" @click=${() => predict.end()}>Q ends</button></small>
  </div>`;
}

// Under the sentence of the step that has answered.
export function predictVerdict(board) {
  const { predict, classroom } = board;
  const { result } = classroom;
  if (result && (predict.last || !predict.on)) {
    const { ask, choices, answer, tally, yours, upto } = result;
    const name = (id) => choices.find((choice) => choice.id === id)?.text ?? id;
    const own = yours ? (answer.includes(yours) ? " You were right." : ` You said: ${name(yours)}.`) : "";
    const elsewhere = predict.on || board.step === upto ? "" : `${ask} `; // who has let go
    return html`<em data-tally>${elsewhere}${tallyWords(choices, tally)}. It is: ${answer.map(name).join(" and ")}.${own}</em>`;
  }
  if (predict.state === "over") return html`<em>No more questions in this run: ${predict.score}.</em>`;
  if (predict.state === "waiting") return html`<em>The engine has not decided anything more yet.</em>`;
  return predict.verdict ? html`<em>${predict.verdict}</em>` : null;
}
