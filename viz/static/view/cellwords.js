// Cells in words, and the timeline's twin as a table.

import { html } from "lit-html";

import { stepFacts } from "#core/facts.js";
import { explain, plural } from "#core/reasons.js";
import { CELLS, timelineOf } from "#core/timeline.js";
import { table } from "#view/panels.js";

// What a request did in a step, with the reason and the numbers of that step.
export function cellWords(store, req, step) {
  const cell = timelineOf(store).cell(req, step);
  if (!cell) return `${req} is not there in step ${step}`;
  const facts = stepFacts(store.eventsOf(step));
  const grant = facts.grants.find((item) => item.req === req);
  const hit = facts.admitted.get(req)?.hit;
  const victim = facts.preempted.get(req);
  const skip = facts.skipped.get(req);
  const parts = [CELLS[cell.code]];
  if (grant) parts.push(`${plural(grant.n, "token")} ${grant.n === 1 ? "runs" : "run"}`);
  if (hit) parts.push(`${hit} reused`);
  if (victim) parts.push(`for ${victim.for === req ? "itself" : victim.for}, which needed ${plural(victim.need, "block")} and had ${victim.have}`);
  else if (cell.behind) parts.push(`behind ${cell.behind}, for whom ${explain(cell.reason)}`);
  else if (skip?.need) parts.push(`${explain(skip.reason)}: ${skip.need} needed, ${skip.have} free`);
  else if (cell.reason) parts.push(explain(cell.reason));
  const lasts = cell.to > cell.from ? ` (steps ${cell.from} to ${cell.to})` : "";
  return `${req}, step ${step}: ${parts.join(" · ")}${lasts}`;
}

const LETTERS_UP_TO = 120; // steps; longer ones are told run by run

export function lettersTable(board, timeline, caption) {
  const short = timeline.lastStep - timeline.firstStep <= LETTERS_UP_TO;
  const told = ({ code, from, to, reason }) =>
    `${code} ${from === to ? from : `${from}–${to}`}${reason ? ` (${reason})` : ""}`;
  const cells = (row) => (short ? html`<code>${timeline.letters(row.req)}</code>` : row.runs.map(told).join(", "));
  return table(caption, ["request", "arrives", "ends", short ? `steps ${timeline.firstStep + 1} to ${timeline.lastStep}` : "steps"],
    [...timeline.rows.values()].map((row) => [row.req, row.arrived, row.ended ?? "lives", cells(row)]));
}
