// The Board: lanes, budget, rows, pool; what the page opens with.

import { html, render } from "lit-html";

import { doneLane, waitingLane } from "#view/lanes.js";
import { tablesOf } from "#view/panels.js";
import { poolRegion } from "#view/poolregion.js";
import { runningRegion } from "#view/running.js";
import { register } from "#views/frame.js";
import "#view/budget.js";
import "#view/pool.js";
import "#view/strip.js";

let main = null;

register({
  id: "board",
  title: "Board",
  key: "b",
  named: true,

  mount(el) {
    main = el;
  },

  update(board) {
    const scene = board.scene();
    main.style.setProperty("--faded", board.focus.faded);
    render(
      html`<div class="lanes">${waitingLane(board, scene)}${doneLane(board, scene)}</div>
        ${runningRegion(board, scene)}
        ${poolRegion(board, scene)}`,
      main,
    );
  },

  // Two runs are loaded: the other one, in place.
  keys(event, board) {
    if (event.key.toLowerCase() !== "b" || !board.pair.on || board.keysOff) return false;
    board.pair.flip();
    return true;
  },

  table: tablesOf,
});
