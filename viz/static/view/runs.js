// The list of runs: what the gallery's index says of its recordings, in groups, each with the place
// to look at first; and before them whatever else is here.

import { html, nothing } from "lit-html";

import { dialog } from "#view/panels.js";

export function runsPanel(board) {
  const groups = new Map([["Here", board.runs.filter((run) => !run.gallery)]]);
  for (const run of board.runs) {
    if (run.gallery) groups.set(run.gallery.group, [...(groups.get(run.gallery.group) ?? []), run]);
  }
  return dialog(board, "Runs", html`${[...groups].filter(([, runs]) => runs.length).map(([name, runs]) => html`
    <h3>${name}</h3><ul class="runs">${runs.map((run) => item(board, run))}</ul>`)}
    <p class="quiet">Times in a recording are those of the machine that it was made on.</p>`);
}

const addressOf = (run) => `#/run/${encodeURIComponent(run.id)}/${run.gallery?.first ?? ""}`;

function item(board, run) {
  const { title, see, command, beside } = run.gallery ?? {};
  const other = beside ? board.runs.find(({ id }) => id === beside) : null;
  const here = run.id === board.run?.id;
  const close = () => board.close();
  return html`<li>
    <p><a href=${addressOf(run)} aria-current=${here ? "true" : nothing} @click=${close}><b>${run.label || run.id}</b></a> ${title ?? aboutRun(run)}
      ${other ? html`<a class="beside" href=${`#/run/${encodeURIComponent(run.id)}?view=compare&with=${encodeURIComponent(other.id)}`} @click=${close}>beside ${other.label || other.id}</a>` : nothing}</p>
    ${see ? html`<p>${see}</p>` : nothing}
    ${command ? html`<p><code>${command}</code></p>` : nothing}</li>`;
}

function aboutRun(run) {
  if (run.error) return run.error;
  if (run.kind === "live") return "the engine, as it runs";
  return run.header?.name && run.header.name !== run.id ? `a run of ${run.header.name}` : "";
}
