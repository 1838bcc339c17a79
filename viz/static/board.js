// The Board's state and what can be done with it. Views read it; keys, buttons and the network
// change it; each change ends in one render.

import { REST } from "#core/clock.js";
import { nextSpeed } from "#core/clock.js";
import { stepFacts } from "#core/facts.js";
import { Player } from "#core/player.js";
import { plural } from "#core/reasons.js";
import { GLOSSARY, sayBlock, sayState } from "#core/say.js";
import { buildScene } from "#core/scene.js";
import { TraceStore } from "#core/store.js";
import { story } from "#core/story.js";
import { formatHash } from "#core/url.js";
import { blockWords, whyCard } from "#core/why.js";

export class Board {
  constructor(clock) {
    this.clock = clock;
    this.player = new Player();
    this.runs = [];
    this.run = null; // its row in the list of runs
    this.store = null;
    this.chosen = null; // {req} | {block} | {unused: true}
    this.hover = null;
    this.panel = null; // help | find | tables
    this.query = "";
    this.status = null;
    this.driver = false;
    this.gate = null; // {mode, rate} of the live engine
    this.linked = true;
    this.problem = null;
    this.notice = "";
    this.term = null;
    this.enlarged = false;
    this.cellMode = false;
    this.cellCursor = null;
    this.keysOff = false;
    this.idle = false;
    this.sizes = { rows: 640, rowsHeight: 440, poolWidth: 440, pool: 400 };
    this.narrow = false;
    this.memos = new Map();
    this.tour = null;
    this.channel = null;
    this.changed = () => {};
  }

  // --- the run ---------------------------------------------------------------------------------

  // Begin with an empty store for a run; its events are fed in by `take`.
  begin(run, base = null) {
    this.run = run;
    this.store = new TraceStore(base);
    this.player.open(this.store, this.store.firstStep);
    this.memos.clear();
    this.hover = this.chosen = this.term = null;
    this.problem = null;
    this.notice = "";
    this.idle = false;
  }

  take(events) {
    try {
      this.store.ingest(events);
    } catch (error) {
      this.fail("This trace cannot be read further.", error.message);
      return;
    }
    for (const event of events) {
      if (event.kind === "run.idle") this.idle = true;
      if (event.kind === "step.begin") this.idle = false;
    }
    if (this.store.violated.length && !this.problem) {
      const { step, message } = this.store.violated[0];
      this.fail(`Step ${step} breaks an invariant:`, `${message}.`, true, {
        text: `Go to step ${step}`,
        run: () => this.seek(step),
      });
    }
    this.player.grown(this.clock.now());
  }

  fail(what, cause, red = false, action = null) {
    this.problem = { what, cause, red, action };
    this.changed();
  }

  // --- where we are ----------------------------------------------------------------------------

  get step() {
    return this.player.step;
  }

  get firstStep() {
    return this.store?.firstStep ?? 0;
  }

  get lastStep() {
    return this.store?.lastStep ?? 0;
  }

  get isLive() {
    return this.run?.kind === "live";
  }

  get growing() {
    return this.isLive && !this.idle && this.gate?.mode === "run";
  }

  get moving() {
    return this.isLive && this.player.following ? this.gate?.mode === "run" && !this.idle : this.player.playing;
  }

  get pace() {
    return this.isLive && this.player.following && this.gate ? this.gate.rate : this.player.speed;
  }

  get pill() {
    const { header } = this.run;
    if (this.isLive) {
      const behind = this.player.following ? 0 : this.lastStep - this.step;
      const rate = this.gate?.rate ? `${Math.round(this.gate.rate * 10) / 10} steps/s` : "full speed";
      const how = this.gate?.mode === "pause" ? "paused" : this.idle ? "idle" : rate;
      return { live: true, text: `LIVE · ${how}`, behind };
    }
    const model = header?.model && header.model !== "none" ? header.model : "no model";
    const device = header?.device && header.device !== "none" ? ` · ${header.device.toUpperCase()}` : "";
    return { live: false, text: `RECORDED · ${model}${device}`, behind: 0 };
  }

  // What the page shows now, built once for each place and beat.
  scene() {
    if (!this.store?.config) return null;
    const { step, event, beat } = this.player;
    return this.memo("scene", () => {
      const events = this.store.eventsOf(step);
      if (event !== null) {
        return buildScene(this.store.stateWithin(step, event), stepFacts(events.slice(0, event)), this.hueOf);
      }
      if (beat >= REST - 1) return buildScene(this.store.stateAfter(step), stepFacts(events), this.hueOf);
      // Before the output beat: the state in which nothing sampled has been taken in yet.
      const cut = beat === 0 ? (e) => e.kind === "step.begin" : (e) => e.phase === "update";
      const at = events.findIndex(cut);
      const state = this.store.stateWithin(step, at < 0 ? events.length : at);
      return buildScene(state, stepFacts(events.slice(0, at)), this.hueOf, beat);
    }, `${step} ${event} ${beat}`);
  }

  facesBefore() {
    const { beat, step, motion } = this.player;
    if (!motion || (beat !== 2 && beat !== 4) || step <= this.firstStep) return null;
    const [state, facts] = [this.store.stateAfter(step - 1), stepFacts([])];
    if (beat === 2) return buildScene(state, facts, this.hueOf).pool.faces;
    return null;
  }

  // Progress of a beat that a view animates; 1 once it is over.
  progressOf(beat) {
    const { player } = this;
    if (!player.motion) return 1;
    const at = { schedule: 1, blocks: 2, run: 3 }[beat];
    if (player.motion.plan.kind === "tween") return 1;
    return player.beat < at ? (beat === "run" ? 0 : player.beat === 0 && beat === "schedule" ? 0 : 1) : player.beat === at ? player.progress : 1;
  }

  // The same object as before while nothing it was made of has changed, so that canvases rest.
  memo(name, make, key = this.focusKey()) {
    const { step, event, beat } = this.player;
    const full = `${key} ${step} ${event} ${beat} ${this.store?.seq === 0} ${this.sizes.rows} ${this.narrow}`;
    const old = this.memos.get(name);
    if (old?.key === full) return old.value;
    const value = make();
    this.memos.set(name, { key: full, value });
    return value;
  }

  focusKey() {
    const key = (f) => (f ? `${f.req ?? ""}/${f.block ?? ""}` : "");
    return `${key(this.hover)} ${key(this.chosen)} ${this.cellCursor} ${this.lastStep}`;
  }

  hueOf = (req) => this.store.hues.of[req] ?? -1;

  knows(req) {
    return req in (this.store?.head.requests ?? {});
  }

  told() {
    if (this.problem?.red) return { headline: this.problem.what, also: this.problem.cause, subject: null };
    const { step, event } = this.player;
    if (!this.store?.config) return { headline: this.emptyWords(), also: "", subject: null };
    if (step <= this.firstStep) return { headline: this.openingWords(), also: "", subject: null };
    return this.memo("told", () => {
      const events = this.store.eventsOf(step);
      const told = story(this.store.stateAfter(step - 1), events);
      const subject = subjectOf(told.headline, this);
      if (event === null) return { ...told, subject };
      return { ...told, subject, event: eventWords(events[event - 1], event, events.length) };
    }, `${step} ${event}`);
  }

  headlineOf(step) {
    return step > this.firstStep ? story(this.store.stateAfter(step - 1), this.store.eventsOf(step)).headline : "";
  }

  emptyWords() {
    if (this.problem) return this.problem.what;
    if (!this.run) return this.runs.length ? "Opening the run …" : "No run is open.";
    return this.isLive ? "The engine is up; nothing has run yet." : "Opening the run …";
  }

  openingWords() {
    const { config } = this.store;
    if (this.firstStep > 0) return `The steps up to ${this.firstStep} are being fetched.`;
    return (
      this.tour?.intro ??
      `The pool has ${plural(config.num_kv_blocks - 1, "block")} of ${plural(config.block_size, "token")}. ` +
        `A step may run ${plural(config.max_num_batched_tokens, "token")}.`
    );
  }

  // --- moving ----------------------------------------------------------------------------------

  // The reader moves the cursor: from here on it is theirs, not the engine's.
  #move(action) {
    if (!this.store?.config) return;
    this.player.playing = false;
    action();
    this.player.following = this.isLive && this.player.following && this.step >= this.lastStep && this.player.event === null;
    this.clearTerm();
    this.changed();
  }

  on() {
    const atHead = this.step >= this.lastStep && this.player.event === null;
    if (atHead && this.isLive && this.driver && this.gate?.mode === "pause") return this.control("step", 1);
    return this.#move(() => {
      if (this.player.motion) this.player.settle();
      if (this.player.event !== null) this.player.place(this.step);
      else this.player.advance(this.clock.now());
    });
  }

  back() {
    this.#move(() => {
      this.player.following = false;
      this.player.place(this.player.event !== null ? this.step : this.step - 1);
      this.cutBack?.();
    });
  }

  walk(direction) {
    this.#move(() => this.player.walk(direction));
  }

  seek(step) {
    this.#move(() => {
      this.player.following = this.isLive && step >= this.lastStep;
      this.player.place(step);
    });
  }

  home() {
    this.seek(this.firstStep);
  }

  end() {
    this.seek(this.lastStep);
  }

  toggle() {
    if (!this.store?.config) return;
    if (this.isLive && this.player.following) {
      if (this.driver) this.control(this.gate?.mode === "run" ? "pause" : "resume");
      else this.#move(() => (this.player.following = false));
      return;
    }
    if (this.player.playing) this.player.pause();
    else if (this.isLive && this.step >= this.lastStep) this.player.following = true;
    else this.player.play(this.clock.now());
    this.clearTerm();
    this.changed();
  }

  faster(direction) {
    if (this.isLive && this.player.following && this.driver) {
      const rate = this.gate?.rate || 50;
      const faster = nextSpeed(rate, direction);
      return this.control("rate", direction > 0 && rate >= 50 ? 0 : faster);
    }
    this.player.speed = nextSpeed(this.player.speed, direction);
    return this.changed();
  }

  // The next or previous step in which something happened to the chosen request.
  jump(direction) {
    const steps = this.store?.index.get(this.chosen?.req) ?? [];
    const target = direction > 0 ? steps.find((k) => k > this.step) : steps.filter((k) => k < this.step).pop();
    if (target !== undefined) this.seek(target);
  }

  // --- looking ---------------------------------------------------------------------------------

  choose(what) {
    const same = what && this.chosen && what.req === this.chosen.req && what.block === this.chosen.block;
    this.chosen = same ? null : what;
    this.clearTerm();
    this.changed();
  }

  point(what) {
    const block = what?.position !== undefined ? this.blockOf(what) : what?.block;
    const next = what ? { req: what.req, block, position: what.position } : null;
    if (JSON.stringify(next) === JSON.stringify(this.hover)) return;
    this.hover = next;
    this.clearTerm();
    this.changed();
  }

  blockOf({ req, position }) {
    const scene = this.scene();
    const row = scene?.running.find((item) => item.req === req);
    return row?.table[Math.floor(position / scene.config.block_size)];
  }

  get anyFocus() {
    return Boolean(this.hover ?? (this.chosen?.unused ? null : this.chosen));
  }

  // How strong what is not looked at stays: firm under the pointer, gentle while something is chosen.
  get faded() {
    return this.hover ? 0.35 : 0.6;
  }

  // Is this to step back behind what is pointed at, or chosen?
  dims({ req, face }) {
    const focus = this.hover ?? (this.chosen?.unused ? null : this.chosen);
    if (!focus) return false;
    const owners = (block) => this.scene().pool.faces[block - 1]?.owners.map((o) => o.row.req) ?? [];
    if (req) return focus.req ? focus.req !== req : !owners(focus.block).includes(req);
    if (focus.req && !focus.block) {
      return !face.owners.some((owner) => owner.row.req === focus.req) && face.held?.req !== focus.req;
    }
    if (focus.block === face.id) return false;
    return focus.req ? !face.owners.some((owner) => owner.row.req === focus.req) : true;
  }

  explain(word) {
    this.term = `${word}: ${GLOSSARY[word]}`;
    this.say(this.term);
    this.changed();
  }

  clearTerm() {
    this.term = null;
  }

  get detail() {
    if (this.term) return this.term;
    const scene = this.scene();
    const focus = this.hover;
    if (!scene || !focus) return "";
    if (focus.block) {
      const face = scene.pool.faces[focus.block - 1];
      const state = this.store.stateAfter(this.step);
      const words = blockWords(state, focus.block);
      const hash = state.blocks[focus.block]?.hash;
      const before = /[✕−]/.test(face.marks) && face.marks !== "−" ? this.heldBefore(focus.block) : "";
      return [sayBlock(face), words, before, hash ? `hash ${hash}` : ""].filter(Boolean).join(" · ");
    }
    const row = [...scene.running, ...scene.waiting].find((item) => item.req === focus.req);
    const r = this.store.stateAfter(this.step).requests[focus.req];
    if (!r) return "";
    const text = r.texts.slice(r.num_prompt_tokens).join("") || r.texts.join("");
    const count = row ? `${row.computed} of ${plural(row.known, "token")} computed` : r.status;
    return `${focus.req}: ${row?.why ?? r.status} · ${count} · “${text.slice(-90)}”`;
  }

  heldBefore(block) {
    if (this.step <= this.firstStep) return "";
    const words = blockWords(this.store.stateAfter(this.step - 1), block);
    return words ? `before: ${words.replace("It holds ", "").replace("It still holds ", "")}` : "";
  }

  card() {
    if (!this.chosen || !this.store?.config) return null;
    return whyCard(this.store, this.step, this.chosen, this.hueOf);
  }

  pickBudget(what) {
    if (!what) return;
    if (what.req) this.choose({ req: what.req });
    else this.choose({ unused: true });
  }

  // --- panels, words, places -------------------------------------------------------------------

  open(panel) {
    this.panel = panel;
    this.changed();
  }

  close() {
    this.panel = null;
    this.changed();
  }

  search(query) {
    this.query = query;
    this.changed();
  }

  readOut() {
    const scene = this.scene();
    if (!scene) return;
    this.term = sayState(scene).join(" ");
    this.say(this.term);
    this.changed();
  }

  linkTo(step) {
    return formatHash({ run: this.run.id, step, ...this.chosen });
  }

  follow(event, step) {
    event.preventDefault();
    this.seek(step);
  }

  place() {
    if (!this.run) return "";
    const { req, block } = this.chosen ?? {};
    const { step, event } = this.player;
    return formatHash({ run: this.run.id, step: this.isLive && this.player.following ? null : step, event, req, block });
  }

  scrubData() {
    return {
      steps: Math.max(this.lastStep, 1),
      step: this.step,
      summaries: (step) => this.store?.steps.get(step)?.summary ?? null,
    };
  }

  submitGoto(event) {
    event.preventDefault();
    const field = event.target.elements.step;
    const step = Number.parseInt(field.value, 10);
    if (Number.isFinite(step)) this.seek(step);
    field.value = String(this.step);
    field.blur();
  }

  // --- the engine ------------------------------------------------------------------------------

  get canSend() {
    const live = this.runs.some((run) => run.kind === "live");
    if (live && this.driver && this.linked) return { ready: true, reason: "" };
    if (live && this.linked) return { ready: false, reason: "only the driver may send prompts" };
    if (!this.linked) return { ready: false, reason: "no connection to the server" };
    return { ready: false, reason: this.status ? `engine: ${this.status.text}` : "no engine here" };
  }

  // Ask the engine; what goes wrong is said beside the prompt box.
  async control(op, value) {
    try {
      const answer = await this.channel.command(op, value);
      this.notice = "";
      return answer;
    } catch (error) {
      this.notice = error.message;
      return null;
    } finally {
      this.changed();
    }
  }

  async sendPrompt(event) {
    event.preventDefault();
    const form = event.target.closest("form");
    const field = form.elements.prompt;
    const prompt = field.value;
    if (!prompt.trim()) return;
    const sent = await this.control("submit", prompt);
    if (sent === null) return;
    field.value = "";
    this.notice = this.gate?.mode === "pause" ? "sent; it enters at the next step" : "";
    await this.goLive();
  }

  async runWorkload() {
    if ((await this.control("workload", "shared-prefix")) !== null) await this.goLive();
  }

  async goLive() {
    if (!this.isLive) await this.openRun("live");
    this.end();
  }
}

// The first request the headline names, or the budget.
function subjectOf(headline, board) {
  const req = /\br\d+\b/.exec(headline)?.[0];
  if (req && board.knows(req)) return { req };
  const block = /\b[Bb]lock (\d+)/.exec(headline);
  return block ? { block: Number(block[1]) } : { unused: true };
}

const plain = (value) => (Array.isArray(value) ? `[${value.slice(0, 8).join(" ")}${value.length > 8 ? " …" : ""}]` : String(value));

// One event as a line: its place in the step, kind, request, and what it carries.
function eventWords(event, at, count) {
  if (!event) return "";
  const fields = Object.entries(event.data)
    .filter(([name, value]) => value !== null && typeof value !== "object" ? !name.endsWith("ns") && name !== "text" : Array.isArray(value) && typeof value[0] !== "object")
    .slice(0, 7)
    .map(([name, value]) => `${name} ${plain(value)}`);
  return `event ${at} of ${count}: ${event.kind}${event.req ? ` ${event.req}` : ""}${fields.length ? ` · ${fields.join(", ")}` : ""}`;
}
