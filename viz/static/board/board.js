// The Board's state: the run, its store, the place in it, and the scene made of them. Views read
// it; keys, buttons and the network change it; each change ends in one render (`changed`).

import { Pace } from "#core/pace.js";
import { Player } from "#core/player.js";
import { plural } from "#core/reasons.js";
import { TraceStore } from "#core/store.js";
import { applyToFront, endOfLife, frontFrom, newFront } from "#core/front.js";
import { engineStreams, newestOf } from "#core/lives.js";
import { fromAddress, notHere, stepsOf } from "#core/selection.js";
import { passesOf } from "#core/tokens.js";
import { Address } from "#board/address.js";
import { Breaks } from "#board/breaks.js";
import { Chat } from "#board/chat.js";
import { EngineLink } from "#board/engine.js";
import { Classroom } from "#board/classroom.js";
import { Horizon } from "#board/horizon.js";
import { Knobs } from "#board/knobs.js";
import { Own } from "#board/own.js";
import { Lessons } from "#board/lessons.js";
import { Pair } from "#board/pair.js";
import { Printing } from "#board/printing.js";
import { Focus } from "#board/focus.js";
import { Predict } from "#board/predict.js";
import { Scenes } from "#board/scenes.js";
import { Travel } from "#board/travel.js";
import { Words } from "#board/words.js";
import { Frame } from "#views/frame.js";

const FRONT_KEPT = 100_000; // events

export class Board {
  constructor(clock) {
    this.clock = clock;
    this.player = new Player();
    this.focus = new Focus(this);
    this.travel = new Travel(this);
    this.frame = new Frame(this);
    this.engine = new EngineLink(this);
    this.knobs = new Knobs(this);
    this.breaks = new Breaks(this);
    this.pair = new Pair(this);
    this.chat = new Chat(this);
    this.horizon = new Horizon(this);
    this.predict = new Predict(this);
    this.classroom = new Classroom(this);
    this.own = new Own(this);
    this.printing = new Printing(this);
    this.lessons = new Lessons(this);
    this.address = new Address(this);
    this.scenes = new Scenes(this);
    this.words = new Words(this);
    this.runs = [];
    this.run = null; // its row in the list of runs
    this.lives = []; // of the run: {stream, life, first, head}
    this.front = newFront(); // its engines, and where its requests went
    this.frontEvents = []; // what the front end told, of a long run the latest
    this.at = { stream: "engine0", life: null }; // the engine that is shown, and which life of it
    this.store = null;
    this.tour = null; // a Tour, where the run has one
    this.wanted = null; // the place a link asks for, until its step is here
    this.panel = null; // help | find | knobs | tables | breaks | printing | own
    this.query = "";
    this.problem = null; // {what, cause, red, action}
    this.idle = false;
    this.pace = new Pace(); // of a live engine, as it is
    this.lastError = "";
    this.keysOff = false;
    this.fontScale = 1;
    this.narrow = false;
    this.sizes = { waiting: 7, rows: 640, rowsHeight: 440, poolWidth: 440, pool: 400 };
    this.memos = new Map();
    // Set by the page.
    this.changed = () => {};
    this.say = () => {};
    this.cutBack = () => {};
    this.openRun = async () => {};
    this.loadSide = async () => null;
    this.showEngine = async () => {};
    this.refreshRuns = async () => {};
    this.remember = () => {};
    this.recall = () => null;
    this.resized = () => {};
    this.focusChat = () => {};
    this.scaleFont = () => {};
    this.focusRail = () => {};
    this.chooseFile = () => {};
    this.savePicture = async () => {};
  }

  // --- the run ---------------------------------------------------------------------------------

  // Open a run; what is known of its engines comes by `takeFront`.
  begin(run) {
    this.pair.aOpened(run);
    this.run = run;
    this.lives = [];
    this.forgetFront();
    this.tour = null;
    this.beginLife({ stream: "engine0", life: null });
  }

  // Begin one life of one engine with an empty store; the events come by `take`.
  beginLife(at, base = null) {
    if (this.pair.flipped) this.pair.flip();
    this.predict.forget();
    this.horizon.forget();
    this.at = at;
    this.store = new TraceStore(base);
    this.player.open(this.store, this.store.firstStep);
    this.focus.clear();
    this.memos.clear();
    this.problem = null;
    this.engine.notice = "";
    this.idle = false;
    this.pace = new Pace();
  }

  forgetFront() {
    this.front = newFront();
    this.frontEvents = [];
  }

  // A snapshot of the front end's state, or its next events.
  takeFront(events, snapshot = null) {
    const side = this.pair.growing ?? this;
    if (snapshot) side.front = frontFrom(snapshot.state);
    for (const event of events) applyToFront(side.front, event);
    if (side === this && this.horizon.on) return void this.horizon.takeFront(events);
    if (side.frontEvents.length + events.length > FRONT_KEPT) side.frontEvents = side.frontEvents.slice(FRONT_KEPT / 2);
    side.frontEvents = [...side.frontEvents, ...events];
  }

  take(events) {
    if (this.pair.growing) return void this.pair.growing.store.ingest(events);
    const whole = this.wholeStore;
    try {
      whole.ingest(events);
    } catch (error) {
      const action = { text: "Read the run anew", run: () => this.openRun(this.run.id) };
      this.fail("This trace cannot be read further.", error.message, false, action);
      this.problem.stale = true; // what is shown is the last that was good
      return;
    }
    for (const event of events) {
      const { kind, data } = event;
      this.pace.take(event);
      if (kind === "run.idle") this.idle = true;
      if (kind === "step.begin") this.idle = false;
      if (kind === "run.error") this.lastError = `${data.error}: ${data.message}`;
      if (kind === "run.end" && this.isLive) this.#ended(data.steps);
    }
    if (this.horizon.on) return void this.predict.grown();
    const [broken] = this.store.violated;
    if (broken && !this.problem?.red) {
      // What only this page sees may lie in what came to it: read it anew, and it heals or is true.
      const there = { text: `Go to step ${broken.step}`, run: () => this.travel.seek(broken.step) };
      const anew = { text: "Read the run anew", run: () => this.openRun(this.run.id, { step: this.isLive ? null : this.step }) };
      const action = broken.told ? there : anew;
      this.fail(`Step ${broken.step} breaks an invariant:`, `${broken.message}.`, true, action);
    }
    if (this.step < this.firstStep) this.player.place(this.firstStep); // of a run that was cut
    this.arrive();
    this.player.grown(this.clock.now());
  }

  #ended(steps) {
    const cause = this.lastError ? `Its loop failed: ${this.lastError}.` : "It was shut down.";
    this.fail(`${this.engines.length > 1 ? this.engineName : "The engine"} has ended after ${plural(steps, "step")}.`, `${cause} What ran can still be read.`, false, {
      text: "Look for a new one",
      run: () => this.openRun(this.run.id),
    });
  }

  // One sentence, the cause, at most one button; red for a broken invariant or a lost connection.
  fail(what, cause, red = false, action = null) {
    this.problem = { what, cause, red, action };
    this.changed();
  }

  // The problem has been read; what was open goes on.
  settle() {
    this.problem = null;
    this.changed();
  }

  // --- the engines -----------------------------------------------------------------------------

  // Their streams, in order.
  get engines() {
    return engineStreams(this.lives, this.front);
  }

  get engineName() {
    return `Engine ${this.at.stream.slice("engine".length)}`;
  }

  nextEngine() {
    const { engines } = this;
    if (engines.length > 1) this.showEngine(engines[(engines.indexOf(this.at.stream) + 1) % engines.length]);
  }

  // How it stands now, in a run that goes on: ready | draining | dead | starting, or "".
  stateOf(stream) {
    return this.isLive ? (this.front.engines[stream.slice("engine".length)]?.state ?? "") : "";
  }

  // What the reader of its last step must know of the engine: {what, cause, action}, or null.
  get news() {
    const { stream, life } = this.at;
    if (!this.store || life === null || this.step < this.lastStep) return null;
    const newest = newestOf(this.lives, stream);
    const end = endOfLife(this.front, stream, life, newest);
    if (end) {
      const action = newest > life ? { text: `Go to life ${newest}`, run: () => this.showEngine(stream, newest) } : null;
      return { ...end, action };
    }
    if (this.stateOf(stream) !== "draining") return null;
    return { what: `${this.engineName} is drained: it gets no new requests.`, cause: "" };
  }

  // --- the place -------------------------------------------------------------------------------

  get step() {
    return this.player.step;
  }

  get firstStep() {
    return this.store?.firstStep ?? 0;
  }

  get lastStep() {
    return this.store?.lastStep ?? 0;
  }

  // The store with all that is known, where the one that is shown ends earlier.
  get wholeStore() {
    return this.horizon.whole ?? this.store;
  }

  get isLive() {
    return this.run?.kind === "live";
  }

  get growing() {
    return this.isLive && !this.idle && this.engine.gate?.mode === "run" && !this.engine.lost;
  }

  // Go where a link asked to, as soon as that step is here; not if the reader has moved meanwhile.
  arrive(complete = false) {
    const { wanted, player } = this;
    if (!wanted || !this.store?.config) return;
    const { step, event } = wanted;
    const chosen = fromAddress(wanted);
    const missing = this.isLive || this.horizon.on ? null : notHere(this.store, step, chosen);
    if (missing && !complete) return; // it may come yet
    if (step !== null && step !== undefined) {
      if (step > this.lastStep && !complete) return;
      if (!this.isLive || step <= this.lastStep) {
        player.following = false;
        player.place(step, event ?? null);
      }
    }
    if (chosen && (this.isLive || !notHere(this.store, 0, chosen))) this.focus.chosen = chosen;
    this.wanted = null;
    if (missing) this.frame.astray(...missing);
  }

  // The state that is shown: at the head of a live run, with those who have come in since the step.
  state() {
    const { player, store } = this;
    if (player.event !== null) return store.stateWithin(player.step, player.event);
    const inputsOnly = !store.pending.some((event) => event.kind === "step.begin");
    if (this.isLive && player.atHead && inputsOnly) return store.head;
    return store.stateAfter(player.step);
  }

  place() {
    return this.address.here;
  }

  linkTo(step, chosen = this.focus.chosen, view = undefined) {
    return this.address.of(step, chosen, view);
  }

  isAt(place) {
    return this.address.isHere(place);
  }

  // --- the picture -----------------------------------------------------------------------------

  scene = () => this.scenes.now();

  progressOf = (beat) => this.scenes.progressOf(beat);

  // The same object as before while nothing it was made of has changed, so that canvases rest.
  memo(name, make, about = this.focus.key) {
    const { step, event, beat } = this.player;
    const { rows, pool, poolWidth } = this.sizes;
    const size = `${rows} ${pool} ${poolWidth}`;
    const key = `${about} ${step} ${event} ${beat} ${this.isLive ? this.store?.seq : this.lastStep} ${size}`;
    const old = this.memos.get(name);
    if (old?.key === key) return old.value;
    const value = make();
    this.memos.set(name, { key, value });
    return value;
  }

  // The steps that the selection is about: marked in the scrubber and the timelines. Null: none.
  get marked() {
    return this.store?.config ? this.memo("marked", () => stepsOf(this.store, this.focus.chosen, passesOf)) : null;
  }

  hueOf = (req) => (this.pair.on ? this.pair.hueOf(req) : (this.store.hues.of[req] ?? -1));

  knows(req) {
    return req in (this.store?.head.requests ?? {});
  }

  // --- words -----------------------------------------------------------------------------------

  told = () => this.words.told();

  headlineOf = (step) => this.words.headlineOf(step);

  get pill() {
    return this.words.pill;
  }

  get placeholders() {
    return this.words.placeholders;
  }

  // --- panels ----------------------------------------------------------------------------------

  open(panel) {
    this.panel = panel;
    this.changed();
  }

  close() {
    this.open(null);
  }

  search(query) {
    this.query = query;
    this.changed();
  }
}
