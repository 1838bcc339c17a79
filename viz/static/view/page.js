// The whole page as one template.

import { html, nothing } from "lit-html";

import { enginesNav } from "#view/engines.js";
import { detailLine, sentenceRegion, topBar, transport } from "#view/frame.js";
import { doneLane, waitingLane } from "#view/lanes.js";
import { linkPath } from "#view/motion.js";
import { knobsPanel } from "#view/knobs.js";
import { findPanel, helpPanel, problemPanel, tablesPanel, whyPanel } from "#view/panels.js";
import { poolRegion } from "#view/poolregion.js";
import { runningRegion } from "#view/running.js";
import { theme } from "#view/theme.js";
import "#view/budget.js";
import "#view/pool.js";
import "#view/scrub.js";
import "#view/strip.js";
import "#view/token.js";

// Everything but the lines from tokens to blocks, which lie over it.
export function page(board, scene) {
  const told = board.told();
  const dimmed = board.engine.linked || !board.isLive ? "" : "stale";
  return html`
    ${topBar(board)}
    ${board.narrow ? enginesNav(board) : nothing}
    ${sentenceRegion(board, told)}
    ${problemPanel(board)}
    <main class="board ${dimmed} ${board.enlarged ? "only-pool" : ""}" .style=${`--faded:${board.focus.faded}`}>
      <div class="lanes">${waitingLane(board, scene)}${doneLane(board, scene)}</div>
      ${runningRegion(board, scene)}
      ${poolRegion(board, scene)}
      ${whyPanel(board, board.focus.card())}
    </main>
    ${detailLine(board)}
    ${transport(board)}
    ${board.panel === "help" ? helpPanel(board) : nothing}
    ${board.panel === "find" ? findPanel(board) : nothing}
    ${board.panel === "knobs" ? knobsPanel(board) : nothing}
    ${board.panel === "tables" ? tablesPanel(board, scene) : nothing}`;
}

// Thin lines from the groups of tokens of the request that is looked at to its blocks.
export function drawLinks(board, root) {
  const path = document.querySelector("#links path");
  const req = board.focus.hover?.req ?? board.focus.chosen?.req;
  const row = req ? board.scene()?.running.find((item) => item.req === req) : null;
  path.setAttribute("d", row && !board.narrow && !board.player.motion ? linkPath(root, req, row.table, theme.scale) : "");
  if (row) path.setAttribute("class", row.hue >= 0 ? `h${row.hue}` : "grey");
}
