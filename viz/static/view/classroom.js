// The line that says who leads and whether this page goes along; and the driver's panel: the lead,
// what to write on the wall, the size of the letters.

import { html, nothing } from "lit-html";

import { standing } from "#core/following.js";
import { NO_SERVER, hasServer } from "#net/home.js";
import { fontSize } from "#view/fontsize.js";
import { dialog } from "#view/panels.js";

export function classStrip(board) {
  const { classroom } = board;
  const told = standing(classroom.is, board.engine.linked);
  if (!told) return nothing;
  return html`<div class="class-strip ${classroom.is.follows ? "" : "let-go"}" role="status"><p>${told.text}</p>
    ${told.follow ? html`<button class="tool" @click=${() => classroom.follow()}>Follow again <kbd aria-hidden="true">F</kbd></button>` : nothing}
    ${classroom.is.gone && board.horizon.on && !board.predict.on ? html`<button class="tool" @click=${() => classroom.showAll()}>Show all</button>` : nothing}
    ${classroom.is.leads ? html`${classroom.join ? html`<button class="tool" @click=${() => board.open("class")}>Show the join code</button>` : nothing}
      <button class="tool" aria-pressed=${board.predict.on} @click=${() => board.predict.toggle()}>Ask all <kbd aria-hidden="true">Q</kbd></button>
      <button class="tool" @click=${() => classroom.drop()}>End the class</button>` : nothing}</div>`;
}

export function classPanel(board) {
  const { classroom, engine } = board;
  const { join, is } = classroom;
  if (!hasServer) return dialog(board, "Class", html`<p>${NO_SERVER}</p>${fontSize(board)}`);
  return dialog(board, "Class", html`<div class="class-panel">
    ${join ? html`<p class="join-at">${join.url.replace(/^http:\/\/|\/$/g, "")}</p>
      <p class="join-code" aria-label="join code ${[...join.code].join(" ")}">${join.code}</p>
      <p>Open the address in a browser and type the code.</p>`
    : html`<p>Only this machine can open this page. For others, start it anew: <code>minivllm view --class</code>. Other windows here can follow already.</p>`}
    <p>${is.leads ? html`<button class="tool" @click=${() => classroom.drop()}>End the class</button>`
      : html`<button class="tool primary" ?disabled=${!engine.driver} @click=${() => {
        classroom.lead();
        board.close();
      }}>${is.led ? "Take the lead" : "Lead the class"}</button>`}
      ${engine.driver ? nothing : html`<span class="quiet">Only the driver may lead: at the machine itself, or by the driver’s link.</span>`}
      <a href="/class" target="_blank" rel="noopener">Ten minutes at the projector: eight links</a></p>
    ${fontSize(board)}
  </div>`);
}
