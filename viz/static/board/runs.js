// Opening runs: a recording is fetched whole; a live run is followed, and its past fetched behind it.
// A trace file of the reader's own is read in the page, and stays there.

import { TraceStore } from "#core/store.js";
import { nameOf, parseTrace, textOf } from "#core/file.js";
import { Tour } from "#board/tour.js";
import { listRuns, loadRange, loadRun, loadTour } from "#net/history.js";

export class Runs {
  constructor(board) {
    this.board = board;
    this.own = []; // runs read from the reader's own files
    this.missed = null; // {id, place} of a run that was asked for before it was there
  }

  async refresh() {
    const { board } = this;
    try {
      board.runs = [...(await listRuns()), ...this.own];
      board.run = board.runs.find((run) => run.id === board.run?.id) ?? board.run;
    } catch (error) {
      board.fail("The list of runs could not be read.", error.message);
    }
    board.changed();
    const { missed } = this;
    if (missed && board.runs.some((run) => run.id === missed.id)) await this.open(missed.id, missed.place);
  }

  async open(id, place = {}) {
    const { board } = this;
    const run = board.runs.find((item) => item.id === id);
    this.missed = run ? null : { id, place };
    if (!run) return this.#notThere(id);
    board.engine.channel.leave();
    board.begin(run);
    board.wanted = place;
    if (run.error) return board.fail("This trace cannot be read.", run.error);
    if (run.events) {
      board.take(run.events);
    } else if (run.kind === "live") {
      board.player.following = (place.step ?? null) === null;
      board.engine.channel.follow(run.id);
    } else {
      await this.#fetchAll(run);
    }
    if (board.run !== run) return undefined; // another one was opened meanwhile
    if (run.tour) await this.#offerTour(run, place);
    board.arrive(true);
    return board.resized();
  }

  #notThere(id) {
    const { board } = this;
    const [other] = board.runs;
    const action = other ? { text: `Open ${other.id}`, run: () => this.open(other.id) } : null;
    const known = `There ${board.runs.length === 1 ? "is" : "are"}: ${board.runs.map((item) => item.id).join(", ") || "none"}.`;
    if (id !== "live") return board.fail(`There is no run “${id}”.`, known, false, action);
    return board.fail("The engine is not there yet.", "The page goes there as soon as it is.", false, action);
  }

  // From the file chooser, or dropped on the page.
  async openFile(file) {
    const { board } = this;
    try {
      const { header, events } = parseTrace(await textOf(file));
      const taken = (id) => id === "live" || board.runs.some((run) => run.id === id);
      const name = nameOf(file.name);
      let id = name;
      for (let n = 2; taken(id); n += 1) id = `${name}-${n}`;
      this.own.push({ id, kind: "recorded", header, events });
      board.runs = [...board.runs, this.own.at(-1)];
      await this.open(id);
    } catch (error) {
      const action = { text: "Go on", run: () => board.settle() };
      board.fail(`${file.name} cannot be shown.`, error.message, false, action);
    }
  }

  // The first visit begins with the tour; a link to a certain place does not.
  async #offerTour(run, place) {
    const { board } = this;
    const script = await loadTour(run.id).catch(() => null);
    if (!script || board.run !== run) return;
    board.tour = new Tour(board, script);
    if ((place.step ?? null) === null && !board.recall("tour")) board.tour.start();
  }

  async #fetchAll(run) {
    const { board } = this;
    try {
      const { streams, first } = await loadRun(run.id);
      const stream = Object.keys(streams).find((name) => name.startsWith("engine")) ?? "engine0";
      await loadRange(run.id, stream, first[stream] ?? 1, streams[stream] ?? 0, (events) => {
        if (board.run !== run) return false;
        board.take(events);
        board.changed();
        return true;
      });
    } catch (error) {
      const action = { text: "Try again", run: () => this.open(run.id) };
      board.fail("The recording could not be fetched.", error.message, false, action);
    }
  }

  // A run that was joined late: fold its past apart, then put it before what is here.
  async #fetchPast(store, upto) {
    const { board } = this;
    const older = new TraceStore();
    try {
      const { first } = await loadRun(board.run.id);
      await loadRange(board.run.id, "engine0", first.engine0 ?? 1, upto, (events) => {
        if (board.store !== store) return false;
        older.ingest(events);
        return true;
      });
    } catch {
      return; // the oldest events are no longer kept: the past begins at the snapshot
    }
    if (board.store === store && older.seq === upto) {
      store.prepend(older);
      board.changed();
    }
  }

  // --- what the live channel tells (net/live.js) -------------------------------------------------

  listeners() {
    const { board } = this;
    const { engine } = board;
    const set = (change) => (message) => {
      change(message);
      board.changed();
    };
    return {
      events: set((events) => board.take(events)),
      reset: set(() => this.#beginLive(null)),
      // Somebody who reads the past is not moved: the missing events are fetched for them.
      mayJump: () => board.player.following || board.lastStep === 0,
      late: set((snapshot) => {
        this.#beginLive(snapshot);
        this.#fetchPast(board.store, snapshot.seq);
      }),
      status: set((status) => (engine.status = status)),
      role: set(({ driver }) => (engine.driver = driver)),
      gate: set((gate) => (engine.gate = gate)),
      runs: () => this.refresh(),
      link: set((up) => this.#link(up)),
      problem: (text) => {
        const action = { text: "Open it anew", run: () => this.open(board.run.id) };
        board.fail("The run cannot be followed further.", text, false, action);
      },
    };
  }

  #beginLive(snapshot) {
    this.board.begin(this.board.run, snapshot);
    this.board.player.following = true;
  }

  #link(up) {
    const { board } = this;
    const lost = board.engine.linked && !up;
    board.engine.linked = up;
    if (lost && board.isLive) {
      const since = `What you see is from step ${board.lastStep}; it tries again by itself.`;
      board.fail("The connection to the server is lost.", since, true);
    } else if (up && board.problem?.red && !board.store?.violated.length) {
      board.problem = null;
    }
  }
}
