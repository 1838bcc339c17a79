// What is taken away from the page: a picture of what is shown, and a run's worksheet.

import { worksheetAt } from "#net/worksheet.js";

export const ASKED = [["runs", "runs"], ["waits", "waits, with the reason"], ["budget", "budget"], ["taken", "blocks taken"], ["free", "free queue"], ["ends", "ends"]];

export class Printing {
  constructor(board) {
    this.board = board;
    this.paper = true; // white, in the light palette; else as it is shown
    this.sheets = "both";
    this.ask = ASKED.map(([name]) => name);
    this.from = "";
    this.to = "";
    this.notice = "";
    this.busy = false;
  }

  open() {
    this.notice = "";
    this.board.open("printing");
  }

  set(change) {
    Object.assign(this, change);
    this.board.changed();
  }

  toggle(name) {
    this.set({ ask: ASKED.map(([each]) => each).filter((each) => this.ask.includes(each) !== (each === name)) });
  }

  // Of a run that is read here alone, or of a page that is a file, the server knows nothing.
  get sheetMissing() {
    const { run } = this.board;
    if (!run) return "no run is open";
    if (run.worksheet) return "";
    if (run.inside) return `there was no room for it in this file: minivllm trace worksheet ${run.file.name} makes it`;
    return run.lives ? "this run is not on the server: minivllm trace worksheet FILE makes it from the file" : "";
  }

  // In an exported file lies the sheet of the whole run, blank and filled: nothing about it can be chosen.
  get sheetInside() {
    return this.board.run?.worksheet ?? null;
  }

  async savePicture(kind) {
    await this.#try(async () => {
      await this.board.savePicture(kind, this.paper);
      this.board.say("The picture is saved.");
    });
  }

  async openSheet() {
    await this.#try(async () => {
      const { sheets, ask, from, to, board } = this;
      this.#check("from step", from);
      this.#check("to step", to);
      if (!ask.length && sheets !== "filled") throw new Error("a blank sheet asks for at least one column");
      const path = await worksheetAt(board.run.id, board.at, { sheets, ask, from: from.trim(), to: to.trim() });
      if (!window.open(path, "_blank")) throw new Error("the browser did not let the page open another: allow it, and try again");
    });
  }

  #check(name, text) {
    const { firstStep, lastStep } = this.board;
    const [least, step] = [firstStep + 1, Number(text)];
    if (!text.trim() || (Number.isInteger(step) && step >= least && step <= lastStep)) return;
    throw new Error(`${name}: got “${text}”; allowed: ${least} to ${lastStep}`);
  }

  async #try(action) {
    this.set({ busy: true, notice: "" });
    try {
      await action();
    } catch (error) {
      this.notice = error.message;
    }
    this.set({ busy: false });
  }
}
