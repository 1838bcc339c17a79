// Everything that the page can do, as buttons: what the bar has no room for, and a button for each key.

import { html } from "lit-html";

import { dialog, exportLink } from "#view/panels.js";
import { keyButton } from "#view/parts.js";

// [what it does, its key, the word on its button, do it]. A tool that is not in the bar stands here.
export function tools(board) {
  const { travel, focus, knobs, breaks, engine, engines } = board;
  return [
    ["experiment with the knobs", "X", "knobs", () => knobs.open()],
    ["breakpoints: where to stop", "W", "stops", () => board.open("breaks")],
    ["next breakpoint", ".", "next stop", () => breaks.go(1)],
    ["previous breakpoint", ",", "previous stop", () => breaks.go(-1)],
    ["next step of the chosen request", "J", "its next step", () => travel.jump(1)],
    ["previous step of the chosen request", "K", "its previous step", () => travel.jump(-1)],
    ["one event on, inside the step", "Shift+→", "event on", () => travel.walk(1)],
    ["one event back, inside the step", "Shift+←", "event back", () => travel.walk(-1)],
    ["read out the whole state", "D", "read out", () => focus.readOut()],
    ["find a request, a block, a reason", "/", "find", () => board.open("find")],
    ["a scenario of your own", "V", "own scenario", () => board.own.open()],
    ["picture and worksheet", "I", "print", () => board.printing.open()],
    ["lessons", "N", "lessons", () => board.lessons.toggle()],
    ["the runs that are here", "R", "runs", () => board.open("runs")],
    ["open a trace file", "O", "open a file", () => board.chooseFile()],
    ...(engines.length > 1 ? [["the next engine", "E", "next engine", () => board.nextEngine()]] : []),
    ...(engine.driver ? [["lead a class", "U", "class", () => board.open("class")]] : []),
    ["predict: guess each step before it is shown", "Q", "predict", () => board.predict.toggle()],
    ["everything larger", "+", "larger", () => board.scaleFont(1)],
    ["everything smaller", "−", "smaller", () => board.scaleFont(-1)],
    ["theme: dark, light, projector", "M", "theme", () => board.nextTheme()],
    ["help and legend", "?", "help", () => board.open("help")],
  ];
}

export function morePanel(board) {
  const { frame } = board;
  const button = ([label, key, word, run]) => keyButton(label, key, () => {
    board.close();
    run();
  }, { lettered: word });
  const lead = (item, run) => [item.title, item.key?.toUpperCase() ?? "", item.title, run];
  return dialog(board, "Everything there is", html`<div class="more-tools">
    <h3>Views</h3><p>${frame.views.map((view) => button(lead(view, () => frame.show(view.id))))}</p>
    <h3>Drawers</h3><p>${frame.drawers.map((drawer) => button(lead(drawer, () => frame.toggle(drawer.id))))}</p>
    <h3>Tools</h3><p>${tools(board).map(button)} ${exportLink(board)}</p></div>`);
}
