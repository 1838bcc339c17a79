// The Playground: a talk with the served model, with the engine that answers in sight.

import { html, nothing, render } from "lit-html";

import { conversation } from "#view/chat.js";
import { boardStrip, paramsForm, tokenPanel, workloads } from "#view/playside.js";
import { table } from "#view/panels.js";
import { percent, shown, timesOf } from "#core/chat.js";
import { register } from "#views/frame.js";

const NEAR = 48; // px from the end: who reads there goes along with the answer

let main = null;

register({
  id: "play",
  title: "Playground",
  key: "h",
  named: false,

  mount(el) {
    main = el;
  },

  update(board) {
    board.chat.fetchOffers();
    const talk = main.querySelector(".talk");
    const atEnd = !talk || talk.scrollHeight - talk.scrollTop - talk.clientHeight < NEAR;
    render(html`<section class="chat" aria-label="Conversation">
        ${obstacle(board)}${conversation(board)}${composer(board)}</section>
      <aside class="side" aria-label="Engine, sampling, workloads">
        <div class="pinned">${boardStrip(board)}${tokenPanel(board)}</div>
        <div class="rest">${paramsForm(board)}${workloads(board)}</div></aside>`, main);
    if (atEnd) main.querySelector(".talk")?.scrollTo(0, 1e9);
  },

  // Enter on an answer's tokens, then arrows; Esc leaves them.
  keys(event, board) {
    const { target, key } = event;
    const list = target.closest?.(".tokens");
    if (!list) return false;
    if (target === list && key === "Enter") return focusToken(list, 0);
    if (target === list) return false;
    const at = Number(target.dataset.token);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: list.children.length - 1 }[key];
    return to === undefined ? false : focusToken(list, to);
  },

  escape(board) {
    const token = document.activeElement?.closest?.(".tk");
    if (token) {
      token.parentElement.focus();
      board.chat.look(null);
      return true;
    }
    return board.chat.stop();
  },

  table(board) {
    const { turns } = board.chat;
    const rows = turns.flatMap((turn) => turn.answers.map((answer, i) => [turn.ask, i + 1, answer.text, answer.finish ?? turn.state, ms(timesOf(turn).ttft), ms(timesOf(turn).tpot)]));
    const last = turns.at(-1)?.answers[turns.at(-1).chosen];
    return html`${table(`Conversation, ${turns.length} turns`, ["asked", "answer", "text", "end", "first token, ms", "then a token, ms"], rows)}
      ${last?.tokens.length ? table("Tokens of the last answer", ["token", "probability", "likeliest"],
        last.tokens.map(({ text, logprob, top }) => [shown(text), percent(logprob), top.map((other) => `${shown(other.text)} ${percent(other.logprob)}`).join(", ")])) : nothing}`;
  },
});

const ms = (value) => (value === null ? "" : Math.round(value));

function focusToken(list, to) {
  list.children[Math.min(Math.max(to, 0), list.children.length - 1)]?.focus();
  return true;
}

function obstacle({ chat }) {
  const { obstacle: there } = chat;
  return there ? html`<div class="obstacle" role="status"><p><b>${there.what}</b> ${there.todo}</p></div>` : nothing;
}

function composer(board) {
  const { chat } = board;
  const closed = chat.obstacle !== null;
  return html`<form class="composer" @submit=${(event) => {
    event.preventDefault();
    chat.send();
  }}>
    <textarea name="ask" rows="2" aria-label="Ask the model" placeholder=${closed ? "nobody is there to answer" : "Ask the model. Enter sends, Shift + Enter begins a line."} .value=${chat.draft}
      @input=${(event) => {
        chat.draft = event.target.value;
        board.changed();
      }}
      @keydown=${(event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        chat.send();
      }}></textarea>
    <div>${chat.open
      ? html`<button class="tool primary" type="button" @click=${() => chat.stop()}>Stop <kbd aria-hidden="true">Esc</kbd></button>`
      : html`<button class="tool primary" ?disabled=${closed || !chat.draft.trim()}>Send</button>`}
      <button class="tool" type="button" ?disabled=${!chat.turns.length} @click=${() => chat.clear()}>Forget it all</button>
      <p class="notice" role="status">${chat.notice}${chat.unkept ? " The conversation cannot be kept over a reload." : ""}</p></div>
  </form>`;
}
