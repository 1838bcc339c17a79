// Keys. ← → always step; while the cursor stands on cells (Enter on the pool), arrows move it there.

import { sayBlock } from "#core/say.js";

export function listenToKeys(board, root) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest?.("input, textarea, select");
    if (event.key === "Escape") return escape(board, event, typing);
    if (typing) return;
    if (board.panel) return;
    if (board.frame.takesKey(event)) return void event.preventDefault();
    if (board.focus.cells && moveCell(board, event, root)) return void event.preventDefault();
    const onButton = event.target.closest?.("button, a, summary");
    if (onButton && (event.key === "Enter" || event.key === " ")) return;
    const action = actionFor(board, event, root);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function escape(board, event, typing) {
  event.preventDefault();
  if (typing && !board.panel) return typing.blur();
  if (board.panel) return board.close();
  if (board.focus.cells) return leaveCells(board);
  if (board.tour?.on) return board.tour.finish();
  if (board.predict.on) return board.predict.end();
  if (event.target.closest?.(".rail")) return board.lessons.close();
  if (board.frame.drawer) return board.frame.closeDrawer();
  if (board.frame.view.escape?.(board)) return undefined;
  board.focus.chosen = null;
  board.focus.hover = null;
  return board.changed();
}

function actionFor(board, event, root) {
  const { key, shiftKey } = event;
  if (key === "ArrowRight") return () => (shiftKey ? board.travel.walk(1) : board.travel.on());
  if (key === "ArrowLeft") return () => (shiftKey ? board.travel.walk(-1) : board.travel.back());
  if (key === "Enter" && event.target.matches?.("vz-pool")) return () => enterCells(board);
  if (key === "Home") return () => board.travel.home();
  if (key === "End") return () => board.travel.end();
  if (key === "PageDown") return () => board.travel.stop(1);
  if (key === "PageUp") return () => board.travel.stop(-1);
  if (board.keysOff) return null;
  const single = {
    " ": () => onSpace(board),
    q: () => board.predict.toggle(),
    f: () => board.classroom.follow(),
    u: () => board.open("class"),
    "+": () => board.scaleFont(1),
    "=": () => board.scaleFont(1),
    "-": () => board.scaleFont(-1),
    "[": () => board.travel.faster(-1),
    "]": () => board.travel.faster(1),
    "/": () => board.open("find"),
    "?": () => board.open("help"),
    g: () => focusGoto(root),
    i: () => board.printing.open(),
    v: () => board.own.open(),
    d: () => board.focus.readOut(),
    e: () => board.nextEngine(),
    j: () => board.travel.jump(1),
    k: () => board.travel.jump(-1),
    m: () => board.nextTheme(),
    n: () => board.lessons.toggle(),
    o: () => board.chooseFile(),
    r: () => board.open("runs"),
    w: () => board.open("breaks"),
    x: () => board.knobs.open(),
    ".": () => board.breaks.go(1),
    ",": () => board.breaks.go(-1),
  };
  const name = key.length === 1 ? key.toLowerCase() : key;
  const leads = board.frame.ofKey(name);
  if (leads?.view) return () => board.frame.show(leads.view.id);
  if (leads?.drawer) return () => board.frame.toggle(leads.drawer.id);
  return single[name] ?? null;
}

function onSpace(board) {
  const { tour, predict } = board;
  if (tour?.on) return tour.next();
  if (predict.on) return predict.state === "over" ? predict.end() : predict.next();
  return board.travel.toggle();
}

function focusGoto(root) {
  const field = root.querySelector(".position input");
  field.focus();
  field.select();
}

// --- the cursor on the pool's blocks -----------------------------------------------------------

function enterCells(board) {
  board.focus.cells = true;
  board.focus.cell ??= board.focus.chosen?.block ?? 1;
  showCell(board, "Cursor on blocks. ");
}

function leaveCells(board) {
  board.focus.cells = false;
  board.focus.cell = null;
  board.focus.hover = null;
  board.say("Arrows step again.");
  board.changed();
}

function moveCell(board, event, root) {
  const pool = root.querySelector("vz-pool");
  const columns = pool?.layout?.columns ?? 1;
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (event.key === "Enter") {
    board.focus.choose({ block: board.focus.cell });
    return true;
  }
  if (!by) return false;
  const count = board.scene().pool.total;
  board.focus.cell = Math.min(Math.max(board.focus.cell + by, 1), count);
  showCell(board);
  return true;
}

function showCell(board, prefix = "") {
  board.focus.hover = { block: board.focus.cell };
  board.say(prefix + sayBlock(board.scene().pool.faces[board.focus.cell - 1]));
  board.changed();
}
