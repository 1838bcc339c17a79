// The Board's state: the run, its store, the place in it, and the scene made of them. Views read
// it; keys, buttons and the network change it; each change ends in one render (`changed`).

import { REST } from "#core/clock.js";
import { stepFacts } from "#core/facts.js";
import { Player } from "#core/player.js";
import { plural } from "#core/reasons.js";
import { NO_MODEL } from "#core/say.js";
import { buildScene } from "#core/scene.js";
import { TraceStore } from "#core/store.js";
import { story } from "#core/story.js";
import { applyToFront, endOfLife, frontFrom, newFront } from "#core/front.js";
import { engineStreams, livesOf, newestOf } from "#core/lives.js";
import { fromAddress, notHere, stepsOf, toAddress } from "#core/selection.js";
import { passesOf } from "#core/tokens.js";
import { formatHash } from "#core/url.js";
import { eventWords, subjectOf } from "#core/words.js";
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
import { Travel } from "#board/travel.js";
import { Frame } from "#views/frame.js";

const TITLES = { "smollm2-135m": "SmolLM2-135M" }; // the alias, as its makers write it
const PLACEHOLDER = "·"; // the text of a token that nobody said
const FRONT_KEPT = 100_000; // events
const BEAT_OF = { schedule: 1, blocks: 2, run: 3, output: 4 };

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
    this.lastError = "";
    this.keysOff = false;
    this.fontScale = 1;
    this.narrow = false;
    this.low = ""; // low or lowest: the Board has little height
    this.sizes = { rows: 640, rowsHeight: 440, poolWidth: 440, pool: 400 };
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
    for (const { kind, data } of events) {
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

  // Of a run out of an exported file: which file it was, and when and by what it was recorded.
  get origin() {
    if (!this.run?.file) return "";
    const { name, made, version } = this.run.file;
    return `${name} · ${made.slice(0, 10)} · minivllm ${version}`;
  }

  get pill() {
    if (!this.isLive) {
      const { model, device, fidelity } = this.run.header ?? {};
      const known = (name) => name && name !== "none";
      if (this.placeholders) return { live: false, text: NO_MODEL, origin: this.origin, behind: 0 };
      const who = known(model) ? (TITLES[model] ?? model) : "no model";
      const how = fidelity === "given" ? " · given tokens" : known(device) ? ` · ${device.toUpperCase()}` : "";
      return { live: false, text: `RECORDED · ${who}${how}`, origin: this.origin, behind: 0 };
    }
    const { gate } = this.engine;
    if (this.engine.lost) return { live: true, text: `LIVE · lost at step ${this.lastStep}`, behind: 0 };
    const rate = gate?.rate ? `${Math.round(gate.rate * 10) / 10} steps/s` : "full speed";
    const how = gate?.mode === "pause" ? "paused" : this.idle ? "idle" : rate;
    if (this.engine.lag) return { live: true, text: `LIVE · catching up, ${this.engine.lag} events`, behind: 0 };
    return { live: true, text: `LIVE · ${how}`, behind: this.player.following ? 0 : this.lastStep - this.step };
  }

  // Did no model and no file say anything: are all its texts made up?
  get placeholders() {
    if (this.isLive || this.run?.header?.fidelity !== "given" || !this.store) return false;
    const { seq } = this.store.head;
    if (this.#made?.store !== this.store || this.#made.seq !== seq) {
      const requests = Object.values(this.store.head.requests);
      const madeUp = requests.length > 0 && requests.every(({ texts }) => texts.every((text) => text === PLACEHOLDER));
      this.#made = { store: this.store, seq, madeUp };
    }
    return this.#made.madeUp;
  }

  #made = null;

  place() {
    if (!this.run) return "";
    const { step, event, following } = this.player;
    return this.#address({ step: this.isLive && following ? null : step, event, ...toAddress(this.focus.chosen) });
  }

  // `view`: another than the one that is shown, by its id.
  linkTo(step, chosen = this.focus.chosen, view = undefined) {
    const there = view === undefined ? {} : { view: view === "board" ? null : view, params: {} };
    return this.#address({ step, ...toAddress(chosen), ...there });
  }

  // Engine and life stand in it where there is a choice.
  #address(place) {
    const { run, at, lives, front } = this.pair.a; // B stands beside it
    const { stream, life } = at;
    const engine = engineStreams(lives, front).length > 1 ? Number(stream.slice("engine".length)) : null;
    const numbers = livesOf(lives, stream);
    const which = numbers.length > 1 && life !== null && life !== numbers.at(-1) ? life : null;
    const whole = { run: run.id, engine, life: which, ...this.frame.place, ...place };
    const { with: _with, side: _side, by: _by, own: _own, lesson: _lesson, ...rest } = whole.params ?? {}; // these are known better
    const params = { ...rest, ...this.own.paramsOf(run), ...this.pair.params, ...this.lessons.params };
    return formatHash({ ...whole, params });
  }

  // Is this address one of the life that is shown?
  isAt({ run, engine, life, request }) {
    const { run: own, at, lives, front } = this.pair.a;
    if (request || (run && run !== own?.id)) return false;
    const stream = engine === null ? engineStreams(lives, front)[0] : `engine${engine}`;
    return (stream ?? at.stream) === at.stream && (life ?? newestOf(lives, at.stream) ?? at.life) === at.life;
  }

  // --- the picture -----------------------------------------------------------------------------

  // What the page shows now, built once for each place and beat.
  scene() {
    if (!this.store?.config) return null;
    const { step, event, beat } = this.player;
    return this.memo("scene", () => (beat < REST ? this.#sceneAt(beat) : this.#sceneAtRest(step, event)), "");
  }

  #sceneAtRest(step, event) {
    const events = this.store.eventsOf(step);
    const seen = event === null ? events : events.slice(0, event);
    return buildScene(this.state(), stepFacts(seen), this.hueOf);
  }

  // Before the output beat: the state in which nothing sampled has been taken in yet.
  #sceneAt(beat) {
    const { step } = this.player;
    const events = this.store.eventsOf(step);
    if (beat >= BEAT_OF.output) return buildScene(this.store.stateAfter(step), stepFacts(events), this.hueOf, beat);
    const end = beat === 0 ? "step.begin" : "exec.forward";
    const at = events.findIndex((event) => event.kind === end) + 1 || events.length;
    const scene = buildScene(this.store.stateWithin(step, at), stepFacts(events.slice(0, at)), this.hueOf, beat);
    // The pool stands as it was until its own beat.
    if (beat < BEAT_OF.blocks) scene.pool = this.#poolBefore();
    return scene;
  }

  #poolBefore() {
    return buildScene(this.store.stateAfter(this.step - 1), stepFacts([]), this.hueOf).pool;
  }

  // The pool as it stood before this beat, where the beat changes it.
  poolBeforeBeat() {
    const { beat, motion } = this.player;
    if (!motion || motion.plan.kind === "tween" || this.step <= this.firstStep) return null;
    if (beat === BEAT_OF.blocks) return this.#poolBefore();
    return beat === BEAT_OF.output ? this.#sceneAt(BEAT_OF.run).pool : null;
  }

  // The faces that cross-fade into those of this beat.
  facesBefore() {
    return this.poolBeforeBeat()?.faces ?? null;
  }

  // 0…1 through a beat that a view animates: 0 before it, 1 after it.
  progressOf(beat) {
    const { motion, beat: now, progress } = this.player;
    if (!motion) return 1;
    if (motion.plan.kind === "tween") return progress;
    const at = BEAT_OF[beat];
    return now < at ? 0 : now > at ? 1 : progress;
  }

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

  // Headline and second line of the step, and whom the Why button is about.
  told() {
    const { step, event } = this.player;
    if (!this.store?.config) return { headline: this.#emptyWords(), also: "", subject: null };
    if (step <= this.firstStep) return { headline: this.#openingWords(), also: "", subject: null };
    return this.memo("told", () => {
      const events = this.store.eventsOf(step);
      const told = story(this.store.stateAfter(step - 1), events);
      const at = event === null ? "" : eventWords(events[event - 1], event, events.length);
      const walked = event === null ? null : { stream: events[event - 1].stream, seq: events[event - 1].seq };
      return { ...told, subject: walked ? { event: walked } : subjectOf(told.headline, (req) => this.knows(req)), event: at, at: walked };
    }, "");
  }

  headlineOf(step) {
    if (step <= this.firstStep) return "";
    return story(this.store.stateAfter(step - 1), this.store.eventsOf(step)).headline;
  }

  #emptyWords() {
    if (this.problem) return this.problem.what;
    if (!this.run) return this.runs.length ? "Opening the run …" : "No run is open.";
    return this.isLive ? "The engine is up; nothing has run yet." : "Opening the run …";
  }

  #openingWords() {
    if (this.firstStep > 0 && !this.store.base) return "The trace begins here; earlier steps were not kept.";
    if (this.firstStep > 0) return `The steps up to ${this.firstStep} are being fetched.`;
    const { num_kv_blocks: blocks, block_size: size, max_num_batched_tokens: budget } = this.store.config;
    return (
      this.tour?.script.intro ??
      `The pool has ${plural(blocks - 1, "block")} of ${plural(size, "token")}. A step may run ${plural(budget, "token")}.`
    );
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
