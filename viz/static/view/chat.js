// The conversation: each turn with its answers, their tokens, their times, and what went wrong.

import { html, nothing } from "lit-html";
import { repeat } from "lit-html/directives/repeat.js";

import { endWords, inText, percent, shown, sureness, timesOf } from "#core/chat.js";
import { plural } from "#core/reasons.js";
import { chip } from "#view/parts.js";

export function conversation(board) {
  const { chat } = board;
  if (!chat.turns.length) {
    return html`<div class="talk empty" tabindex="0" role="region" aria-label="nothing said yet"><p>Nothing has been said. What you ask goes the way of every client’s request, over
      <code>/v1/chat/completions</code>; its tokens come back one step of the engine after another, and the engine’s own
      picture of it stands at the side.</p></div>`;
  }
  return html`<ol class="talk" tabindex="-1">${repeat(chat.turns, (turn) => turn, (turn) => turnItem(board, turn))}</ol>`;
}

function turnItem(board, turn) {
  const { chat } = board;
  const several = turn.answers.length > 1;
  return html`<li class="turn ${turn.state}">
    <p class="asked">${turn.ask}</p>
    ${turn.answers.map((answer, index) => html`<div class="answer ${several && index === turn.chosen ? "chosen" : ""}">
      ${several ? html`<label><input type="radio" .checked=${index === turn.chosen} name=${`turn-${chat.turns.indexOf(turn)}`}
        @change=${() => chat.choose(turn, index)}> answer ${index + 1}${index === turn.chosen ? ": the talk goes on with it" : ""}</label>` : nothing}
      ${said(board, turn, index)}
      ${answer.finish ? html`<small>${endWords(answer)}</small>` : nothing}
    </div>`)}
    ${waiting(board, turn)}
    ${failure(board, turn)}
    ${facts(board, turn)}
  </li>`;
}

// With logprobs, a token at a time; else the plain text. Never markup, whatever it says.
function said(board, turn, index) {
  const answer = turn.answers[index];
  if (!answer.tokens.length) return html`<p class="said">${answer.text}</p>`;
  const { looked } = board.chat;
  const here = looked?.turn === turn && looked.answer === index ? looked.token : -1;
  const within = inText(answer);
  const look = (token) => () => board.chat.look({ turn, answer: index, token });
  return html`<p class="said tokens" role="listbox" tabindex="0" aria-label="tokens of the answer; Enter, then arrows, to look at one"
      @pointerleave=${() => !board.frame.host(board.frame.view, "main").contains(document.activeElement) && board.chat.look(null)}
    >${answer.tokens.map(({ text, logprob }, i) => html`<span class="tk s${sureness(logprob)} ${i < within ? "" : "beyond"}" role="option" tabindex="-1"
      aria-selected=${i === here} aria-label="${shown(text)}, ${percent(logprob)}" data-token=${i}
      @pointerenter=${look(i)} @focus=${look(i)} @click=${look(i)}>${text === "" ? "∅" : text}</span>`)}</p>`;
}

function waiting(board, turn) {
  if (turn.state === "cut") return html`<p class="quiet">The page was loaded anew while the answer came; the engine has stopped working on it.</p>`;
  if (turn.state !== "sent" && turn.state !== "streaming") return nothing;
  const held = board.engine.gate?.mode === "pause";
  const words = held ? "The engine is paused: → runs one step, Space lets it go on." : turn.state === "sent" ? "It is with the engine …" : "";
  return html`<p class="quiet">${words}</p>`;
}

function failure(board, { error, state }) {
  const turn = board.chat.last;
  if (state === "stopped") return html`<p class="quiet">You stopped it; the engine has let go of its blocks.</p>`;
  if (!error) return nothing;
  const { chat } = board;
  const latest = turn.error === error && !chat.open;
  const again = error.again === null ? "" : ` It says: again in ${plural(error.again, "second")}.`;
  return html`<div class="failed" role="alert"><p><b>${error.what}</b> ${error.cause}${again}</p>
    ${latest ? remedy(board, error) : nothing}</div>`;
}

function remedy({ chat }, { todo }) {
  if (todo === "key") {
    return html`<form @submit=${(event) => {
      event.preventDefault();
      chat.unlock(event.target.elements.key.value);
    }}><input name="key" type="password" autocomplete="off" aria-label="API key" placeholder="API key">
      <button class="tool">Use it</button> <small>kept until the page is closed or loaded anew</small></form>`;
  }
  if (todo === "shorten") return html`<button class="tool" @click=${() => chat.shorten()}>Forget the earliest turn and ask again</button>`;
  return todo === "again" ? html`<button class="tool" @click=${() => chat.again()}>Ask again</button>` : nothing;
}

// Who it was on the Board, how long it took, and the way to its life.
function facts(board, turn) {
  const { ttft, tpot } = timesOf(turn);
  const { usage } = turn;
  const req = board.chat.requestOf(turn);
  const ms = (value) => `${value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${Math.round(value)} ms`}`;
  if (!turn.life && ttft === null) return nothing;
  return html`<p class="facts">
    ${req ? chip(board, req, board.hueOf(req), { flip: false }) : nothing}
    ${turn.life ? html`<a href=${turn.life.href} title=${turn.life.request}>its life</a>` : nothing}
    ${ttft === null ? nothing : html`<span>first token after <b>${ms(ttft)}</b></span>`}
    ${tpot === null ? nothing : html`<span>then <b>${ms(tpot)}</b> a token</span>`}
    ${usage ? html`<span>${plural(usage.prompt, "prompt token")}${usage.cached ? `, ${usage.cached} from the cache` : ""}; ${usage.completion} out</span>` : nothing}
  </p>`;
}

// The token that is looked at and what might have stood in its place; it keeps its room.
export function alternatives({ chat }) {
  const { looked } = chat;
  const token = looked?.turn.answers[looked.answer]?.tokens[looked.token];
  if (!token) {
    const any = chat.turns.some((turn) => turn.answers.some(({ tokens }) => tokens.length));
    return html`<p class="quiet">${any ? "Point at a token, or Enter on an answer and then ← →." : "With top_logprobs set, each token of an answer tells here how likely it was, and what else was."}</p>`;
  }
  const rows = token.top.some(({ text, logprob }) => text === token.text && logprob === token.logprob) ? token.top : [...token.top, token];
  return html`<p>token ${looked.token + 1}: <code>${shown(token.text)}</code> had <b>${percent(token.logprob)}</b></p>
    <ol class="others">${rows.map(({ text, logprob }) => html`<li class=${text === token.text ? "taken" : ""}>
      <code>${shown(text)}</code><meter min="0" max="1" value=${Math.exp(logprob)}></meter><span>${percent(logprob)}${text === token.text ? " ✓" : ""}</span></li>`)}</ol>`;
}
