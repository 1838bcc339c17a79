// The whole page as one template: the frame, and in its midst the view that is shown.

import { html, nothing } from "lit-html";

import { breaksPanel } from "#view/breaks.js";
import { enginesNav } from "#view/engines.js";
import { classPanel, classStrip } from "#view/classroom.js";
import { detailLine, drawerRegion, sentenceRegion, topBar, transport, viewsNav } from "#view/frame.js";
import { morePanel } from "#view/more.js";
import { linkPath } from "#view/motion.js";
import { knobsPanel } from "#view/knobs.js";
import { ownPanel } from "#view/own.js";
import { printingPanel } from "#view/printing.js";
import { findPanel, helpPanel, problemPanel, tablesPanel, whyPanel } from "#view/panels.js";
import { rail, railTab } from "#view/rail.js";
import { runsPanel } from "#view/runs.js";
import { theme } from "#view/theme.js";
import "#view/scrub.js";
import "#view/token.js";

// Everything but the lines from tokens to blocks, which lie over it.
export function page(board) {
  const told = board.told();
  const dimmed = (board.isLive && board.engine.lost) || board.problem?.stale ? "stale" : "";
  return html`
    ${topBar(board)}
    ${board.narrow ? html`${viewsNav(board)}${enginesNav(board)}` : nothing}
    ${sentenceRegion(board, told)}
    ${rail(board)}
    <div class="stage ${dimmed}">
      ${railTab(board)}
      ${board.frame.host(board.frame.view, "main")}
      ${drawerRegion(board)}
      ${whyPanel(board, board.frame.card)}
    </div>
    <div class="footline">${detailLine(board)}<div class="notices">${classStrip(board)}${problemPanel(board)}</div></div>
    ${transport(board)}
    ${board.panel === "help" ? helpPanel(board) : nothing}
    ${board.panel === "class" ? classPanel(board) : nothing}
    ${board.panel === "find" ? findPanel(board) : nothing}
    ${board.panel === "knobs" ? knobsPanel(board) : nothing}
    ${board.panel === "breaks" ? breaksPanel(board) : nothing}
    ${board.panel === "own" ? ownPanel(board) : nothing}
    ${board.panel === "printing" ? printingPanel(board) : nothing}
    ${board.panel === "more" ? morePanel(board) : nothing}
    ${board.panel === "runs" ? runsPanel(board) : nothing}
    ${board.panel === "tables" ? tablesPanel(board) : nothing}`;
}

// Thin lines from the groups of tokens of the request that is looked at to its blocks.
export function drawLinks(board, root) {
  const path = document.querySelector("#links path");
  const req = board.focus.hover?.req ?? board.focus.chosen?.req;
  const row = req ? board.scene()?.running.find((item) => item.req === req) : null;
  path.setAttribute("d", row && !board.narrow && !board.player.motion ? linkPath(root, req, row.table, theme.scale) : "");
  if (row) path.setAttribute("class", row.hue >= 0 ? `h${row.hue}` : "grey");
}
