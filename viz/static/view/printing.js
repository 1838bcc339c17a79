// The panel behind I: the picture of what is shown, and the worksheet of the run.

import { html } from "lit-html";

import { ASKED } from "#board/printing.js";
import { dialog } from "#view/panels.js";
import { download } from "#view/picture/save.js";

export function printingPanel(board) {
  const { printing, frame } = board;
  const drawer = frame.drawer ? ` and ${frame.drawer.title}` : "";
  const radio = (name, value, words) => html`<label><input type="radio" name=${name} .checked=${printing[name] === value}
    @change=${() => printing.set({ [name]: value })}> ${words}</label>`;
  return dialog(board, "Picture and worksheet", html`<div class="printing">
    <section aria-label="Picture">
      <h3>A picture of this: ${frame.view.title}${drawer}, step ${board.step}</h3>
      <p class="choices-of">${radio("paper", true, "as on paper: white")} ${radio("paper", false, "as it is shown")}</p>
      <p><button class="tool" ?disabled=${printing.busy || !board.run} @click=${() => printing.savePicture("svg")}>Save as SVG</button>
        <button class="tool" ?disabled=${printing.busy || !board.run} @click=${() => printing.savePicture("png")}>Save as PNG</button>
        <button class="tool" @click=${() => {
          board.close();
          setTimeout(() => window.print());
        }}>Print</button></p>
      <p class="quiet">All of it, also what is scrolled out of sight. The browser’s own Print makes the same page.</p>
    </section>
    ${worksheet(board, radio)}
    <p class="notice" role="alert">${printing.notice}</p></div>`);
}

function worksheet(board, radio) {
  const { printing } = board;
  const step = (name, words) => html`<label>${words} <input inputmode="numeric" autocomplete="off" placeholder=${name === "from" ? board.firstStep + 1 : board.lastStep}
    .value=${printing[name]} @input=${(event) => printing.set({ [name]: event.target.value })}></label>`;
  return html`<section aria-label="Worksheet">
    <h3>The worksheet of this run</h3>
    <p>A row a step, each sheet on one page of A4: who runs, who waits and why, which blocks go where.</p>
    ${printing.sheetInside ? sheetInside(board) : html`
    <p class="choices-of">${radio("sheets", "both", "blank and filled")} ${radio("sheets", "blank", "blank")} ${radio("sheets", "filled", "filled")}</p>
    <fieldset ?disabled=${printing.sheets === "filled"}><legend>The blank one asks for</legend>
      <p class="choices-of">${ASKED.map(([name, words]) => html`<label><input type="checkbox" .checked=${printing.ask.includes(name)}
        @change=${() => printing.toggle(name)}> ${words}</label>`)}</p></fieldset>
    <p class="choices-of">${step("from", "from step")} ${step("to", "to step")}</p>
    <p><button class="tool" ?disabled=${printing.busy || Boolean(printing.sheetMissing)} @click=${() => printing.openSheet()}>Open the worksheet</button>
      <span class="quiet">${printing.sheetMissing}</span></p>`}
  </section>`;
}

// Saved, not opened: a page that this one opened would be bound by its policy.
function sheetInside({ run, printing }) {
  const save = () => download(`${run.id}-worksheet.html`, new Blob([printing.sheetInside], { type: "text/html" }));
  return html`<p><button class="tool" @click=${save}>Save the worksheet</button>
    <span class="quiet">blank and filled, of all steps; with a choice of them: minivllm trace worksheet ${run.file.name}</span></p>`;
}
