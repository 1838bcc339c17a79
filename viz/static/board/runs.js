// Opening runs: a recording is fetched whole; a live run is followed, and its past fetched behind it.
// A trace file of the reader's own is read in the page, and stays there.

import { nameOf, parseTrace, textOf } from "#core/file.js";
import { applyToFront, newFront } from "#core/front.js";
import { FRONT, engineStreams, findLife, findRequest, newestOf } from "#core/lives.js";
import { plural } from "#core/reasons.js";
import { TraceStore } from "#core/store.js";
import { parseHash } from "#core/url.js";
import { Tour } from "#board/tour.js";
import { ArraysBeside, isArrays } from "#net/beside.js";
import { findRequest as askForRequest, listRuns, loadRange, loadRun, loadTour } from "#net/history.js";

const OWN = /^own-[0-9a-f]{8}$/; // a run of a form, see viz/own.py

export class Runs {
  constructor(board) {
    this.board = board;
    this.own = []; // runs read from the reader's own files
    this.turn = 0; // raised at each run that is opened: late answers about an earlier one are dropped
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
    const run = board.runs.find((item) => item.id === id) ?? (await this.#unlisted(id, place));
    this.missed = run ? null : { id, place };
    if (!run) return this.#notThere(id);
    this.turn += 1;
    const { turn } = this;
    board.engine.channel.leave();
    board.begin(run);
    board.wanted = place;
    if (run.error) return board.fail("This trace cannot be read.", run.error);
    const known = await this.#lives(run);
    if (!known || turn !== this.turn) return undefined; // another one was opened meanwhile
    board.lives = known;
    const [found, unknown] = await this.#found(run, place);
    if (turn !== this.turn) return undefined;
    await this.#fetchFront(run);
    const { at, missing } = this.#choose(found);
    await this.#show(at, found);
    if (turn !== this.turn || board.at.stream !== at.stream) return undefined;
    if (run.tour) await this.#offerTour(run, found);
    board.arrive(true);
    if (unknown ?? missing) {
      const action = { text: "Go on", run: () => board.settle() };
      board.fail(...(unknown ?? missing), false, action);
    }
    return board.resized();
  }

  // A scenario of somebody's own stands in no list: it is there by its address, or is run again.
  async #unlisted(id, place) {
    const { board } = this;
    if (!OWN.test(id ?? "")) return null;
    const described = async (name) => {
      const { lives: _lives, ...about } = await loadRun(name);
      return about;
    };
    let run = await described(id).catch(() => null);
    if (!run && place.params?.own) {
      const again = await board.own.again(place.params.own);
      run = again && (await described(again).catch(() => null));
    }
    if (!run) return null;
    if (place.params?.own) board.own.knows(run.id, place.params.own);
    this.own.push(run);
    board.runs = [...board.runs, run];
    return run;
  }

  // Another engine of the run that is open, or another life of it; null: its newest.
  async show(stream, life = null) {
    const { board, turn } = this;
    const newest = newestOf(board.lives, stream);
    const ended = life !== null && life !== newest;
    await this.#show({ stream, life: life ?? newest }, ended ? { step: 0 } : {}, true);
    if (turn === this.turn) board.resized();
  }

  async #show(at, place, again = false) {
    const { board } = this;
    const { run } = board;
    board.beginLife(at);
    board.wanted = place;
    if (run.kind === "live") {
      board.player.following = (place.step ?? null) === null;
      board.engine.channel.follow(run.id, at.stream, at.life, again);
    } else if (run.lives) {
      board.take(findLife(run.lives, at.stream, at.life)?.events ?? []);
      board.wholeStore.end();
      board.arrive(true);
    } else {
      await this.#fetchLife(run, at);
      if (board.at === at) board.wholeStore.end();
      if (again && board.at === at) board.arrive(true);
    }
  }

  async #lives(run) {
    if (run.lives) return run.lives;
    try {
      return (await loadRun(run.id)).lives;
    } catch (error) {
      const action = { text: "Try again", run: () => this.open(run.id) };
      this.board.fail("The run cannot be read.", error.message, false, action);
      return null;
    }
  }

  // A link with a client's request id leads to the engine, the request and the step it came in.
  // Answers [place, words for a request that is not there].
  async #found(run, place) {
    const id = place.request;
    if (!id) return [place, null];
    const nowhere = [`There is no request “${id}” here.`, "It never reached an engine, or what it did is no longer kept."];
    const unanswered = (error) => ({ refused: [`“${id}” cannot be looked for.`, error.message] });
    const found = run.lives ? findRequest(run.lives, id) : await askForRequest(run.id, id).catch(unanswered);
    if (!found || found.refused) return [{}, found?.refused ?? nowhere];
    const { stream, life, req, step } = found;
    return [{ engine: Number(stream.slice("engine".length)), life, req, step }, null];
  }

  // The life that an address names: that of the first engine, and the newest, where it names none.
  #choose({ engine = null, life = null }) {
    const { lives, front } = this.board;
    const streams = engineStreams(lives, front);
    const first = streams[0] ?? "engine0";
    const stream = engine === null ? first : `engine${engine}`;
    const newest = (name) => ({ stream: name, life: newestOf(lives, name) });
    if (engine !== null && !streams.includes(stream)) {
      const there = `There ${streams.length === 1 ? "is" : "are"} ${plural(streams.length, "engine")} in this run.`;
      return { at: newest(first), missing: [`There is no engine ${engine}.`, there] };
    }
    if (life === null || findLife(lives, stream, life)) return { at: life === null ? newest(stream) : { stream, life } };
    return { at: newest(stream), missing: [`There is no life ${life} of engine ${engine ?? 0}.`, "It is no longer kept, or never was."] };
  }

  #notThere(id) {
    const { board } = this;
    const [other] = board.runs;
    const action = other ? { text: `Open ${other.id}`, run: () => this.open(other.id) } : null;
    const known = `There ${board.runs.length === 1 ? "is" : "are"}: ${board.runs.map((item) => item.id).join(", ") || "none"}.`;
    if (OWN.test(id)) {
      const fill = { text: "Fill in a form", run: () => board.own.open() };
      return board.fail("This scenario of somebody’s own is not here.", board.own.notice || "The server keeps the newest of them, and this address has no form in it that could be run again.", false, fill);
    }
    if (id !== "live") return board.fail(`There is no run “${id}”.`, known, false, action);
    return board.fail("The engine is not there yet.", "The page goes there as soon as it is.", false, action);
  }

  // Another run beside the one that is open: its newest life of the same engine, as far as it is now.
  async loadSide(id) {
    const { board } = this;
    const run = board.runs.find((item) => item.id === id);
    if (!run) throw new Error(`There is no run “${id}”.`);
    const lives = run.lives ?? (await loadRun(run.id)).lives;
    const streams = engineStreams(lives);
    const stream = streams.includes(board.at.stream) ? board.at.stream : streams[0];
    const at = { stream, life: newestOf(lives, stream) };
    const { first = 1, head = 0, events } = findLife(lives, stream, at.life) ?? {};
    const store = new TraceStore();
    if (events) store.ingest(events);
    else await loadRange(run.id, at, first, head, (some) => store.ingest(some));
    if (run.kind !== "live") store.end();
    if (!store.config) throw new Error(`Nothing of ${run.id} can be read: no engine’s events are there.`);
    const [front, frontEvents] = [newFront(), []];
    const takeFront = (some) => {
      for (const event of some) applyToFront(front, event);
      frontEvents.push(...some);
    };
    for (const life of lives.filter((each) => each.stream === FRONT)) {
      if (life.events) takeFront(life.events);
      else await loadRange(run.id, life, life.first, life.head, takeFront);
    }
    return { run, lives, front, frontEvents, at, store };
  }

  // From the file chooser, or dropped on the page: a trace, arrays of its steps beside it; or arrays
  // alone, of the trace that is open. In Compare it becomes the other run.
  async openFiles(files) {
    const { board } = this;
    const arrays = files.filter(isArrays);
    const file = files.find((each) => !isArrays(each));
    if (!file) return this.#addArrays(arrays);
    try {
      const { header, lives } = parseTrace(await textOf(file));
      const taken = (id) => id === "live" || board.runs.some((run) => run.id === id);
      const name = nameOf(file.name);
      let id = name;
      for (let n = 2; taken(id); n += 1) id = `${name}-${n}`;
      this.own.push({ id, kind: "recorded", header, lives, arrays: new ArraysBeside(file.name, arrays) });
      board.runs = [...board.runs, this.own.at(-1)];
      if (board.frame.id === "compare" && board.run) await board.pair.load(id);
      else await this.open(id);
    } catch (error) {
      const action = { text: "Go on", run: () => board.settle() };
      board.fail(`${file.name} cannot be shown.`, error.message, false, action);
    }
    return undefined;
  }

  #addArrays(arrays) {
    const { board } = this;
    if (!(board.run?.arrays instanceof ArraysBeside)) {
      const action = { text: "Go on", run: () => board.settle() };
      return board.fail("These are arrays of a trace that is not open here.", "Choose the trace file and its .safetensors files together.", false, action);
    }
    board.run.arrays.add(arrays);
    return this.open(board.run.id, parseHash(board.place())); // anew: what was asked in vain is forgotten
  }

  // The first visit begins with the tour; a link to a certain place does not.
  async #offerTour(run, place) {
    const { board } = this;
    const script = run.script ?? (await loadTour(run.id).catch(() => null));
    if (!script || board.run?.id !== run.id) return;
    board.tour = new Tour(board, script);
    if ((place.step ?? null) === null && !board.recall("tour")) {
      const { wants, is } = board.classroom;
      board.tour.start(!wants && !is.led); // in a class, no page goes on by itself
    }
  }

  // The front end's events, of a run that has ended.
  async #fetchFront(run) {
    const { board } = this;
    if (run.kind === "live") return;
    for (const { stream, life, first, head, events } of board.lives) {
      if (stream !== FRONT) continue;
      if (events) board.takeFront(events);
      else await this.#fetch(run, { stream, life }, first, head, (some) => board.takeFront(some));
    }
  }

  #fetchLife(run, at) {
    const { board } = this;
    const { first = 1, head = 0 } = findLife(board.lives, at.stream, at.life) ?? {};
    return this.#fetch(run, at, first, head, (events) => {
      if (board.at === at) board.take(events);
      board.changed();
    });
  }

  async #fetch(run, at, first, head, take) {
    const { board, turn } = this;
    try {
      await loadRange(run.id, at, first, head, (events) => {
        if (turn !== this.turn) return false;
        take(events);
        return true;
      });
    } catch (error) {
      const action = { text: "Try again", run: () => this.open(run.id) };
      board.fail("The recording could not be fetched.", error.message, false, action);
    }
  }

  // A life that was joined late: fold its past apart, then put it before what is here.
  async #fetchPast(store, upto) {
    const { board } = this;
    const { run, at } = board;
    const older = new TraceStore();
    try {
      const { first } = findLife((await loadRun(run.id)).lives, at.stream, at.life);
      await loadRange(run.id, at, first, upto, (events) => {
        if (board.wholeStore !== store) return false;
        older.ingest(events);
        return true;
      });
    } catch {
      return; // the oldest events are no longer kept: the past begins at the snapshot
    }
    if (board.wholeStore === store && older.seq === upto) {
      store.prepend(older);
      board.arrive();
      board.changed();
    }
  }

  // --- what the live channel tells (net/live.js) -------------------------------------------------

  listeners() {
    const { board } = this;
    const { engine } = board;
    const set = (change) => (...message) => {
      change(...message);
      board.changed();
    };
    return {
      events: set((stream, events) => (stream === FRONT ? board.takeFront(events) : board.take(events))),
      reset: set(() => {
        this.#beginLive(null);
        board.fail("Another engine stands behind this run now.", "What the page had of the one before is gone; this one is shown from its beginning.", false, {
          text: "Go on",
          run: () => board.settle(),
        });
      }),
      lives: set((lives) => this.#told(lives)),
      // Somebody who reads the past is not moved: the missing events are fetched for them.
      mayJump: (stream) => stream === FRONT || board.player.following || board.lastStep === 0,
      late: set((stream, snapshot) => {
        if (stream === FRONT) return board.takeFront([], snapshot);
        this.#beginLive(snapshot);
        return this.#fetchPast(board.store, snapshot.seq);
      }),
      status: set((status) => (engine.status = status)),
      role: set(({ driver, join }) => {
        engine.driver = driver;
        board.classroom.join = join;
      }),
      ofClass: (name, message) => board.classroom.hear(name, message),
      gate: set((gates) => (engine.gates = gates)),
      goal: set((goal) => (engine.goal = goal)),
      runs: () => this.refresh(),
      link: set((up) => this.#link(up)),
      gone: set(() => {}), // board.lost tells it, until the run is there again
      refused: set((forGood) => (engine.refused = forGood)),
      lag: set((events) => (engine.lag = events)),
      problem: (text) => {
        const action = { text: "Open it anew", run: () => this.open(board.run.id) };
        board.fail("The run cannot be followed further.", text, false, action);
      },
    };
  }

  #beginLive(snapshot) {
    const { board } = this;
    if (board.pair.flipped) board.pair.flip();
    const { wanted } = board;
    if (!snapshot) board.forgetFront();
    const at = snapshot ? { ...board.at, life: snapshot.life } : { ...board.at, life: null };
    board.beginLife(at, snapshot);
    board.wanted = wanted;
    board.player.following = (wanted?.step ?? null) === null;
  }

  // The lives that there are now. Who stands at the head goes along to an engine's next life; who
  // reads the past stays, and is offered it where the old one ends.
  #told(lives) {
    const { board } = this;
    if (board.pair.growing) return void (board.pair.growing.lives = lives);
    board.lives = lives;
    const { stream, life } = board.at;
    const newest = newestOf(lives, stream);
    if (life === null) {
      board.at.life = newest;
      if (newest === null && board.engines.length && !board.engines.includes(stream)) this.show(board.engines[0]);
    } else if (newest > life && board.player.following) {
      const name = board.engineName;
      this.show(stream);
      board.fail(`${name} was started anew.`, `This is its life ${newest}.`, false, {
        text: `See how life ${life} ended`,
        run: () => this.show(stream, life),
      });
    }
  }

  #link(up) {
    const { board } = this;
    board.engine.linked = up;
    if (!up) return;
    board.engine.refused = false;
    board.classroom.linked();
  }
}
