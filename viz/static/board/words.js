// What the Board says of itself: the step's sentence, and the pill that tells live from recorded.

import { paceWords } from "#core/pace.js";
import { plural } from "#core/reasons.js";
import { NO_MODEL } from "#core/say.js";
import { story } from "#core/story.js";
import { eventWords, subjectOf } from "#core/words.js";

const TITLES = { "smollm2-135m": "SmolLM2-135M" }; // the alias, as its makers write it
const PLACEHOLDER = "·"; // the text of a token that nobody said

export class Words {
  constructor(board) {
    this.board = board;
  }

  // Of a run out of an exported file: which file it was, and when and by what it was recorded.
  get origin() {
    const { board } = this;
    if (!board.run?.file) return "";
    const { name, made, version } = board.run.file;
    return `${name} · ${made.slice(0, 10)} · minivllm ${version}`;
  }

  get pill() {
    const { board } = this;
    if (!board.isLive) {
      const { model, device, fidelity } = board.run.header ?? {};
      const known = (name) => name && name !== "none";
      if (this.placeholders) return { live: false, text: `RECORDED · ${NO_MODEL}`, short: NO_MODEL.split(" · ")[0], origin: this.origin, behind: 0 };
      const who = known(model) ? (TITLES[model] ?? model) : "no model";
      const how = fidelity === "given" ? " · given tokens" : known(device) ? ` · ${device.toUpperCase()}` : "";
      return { live: false, text: `RECORDED · ${who}${how}`, origin: this.origin, behind: 0 };
    }
    const { gate } = board.engine;
    if (board.engine.lost) return { live: true, text: `LIVE · lost at step ${board.lastStep}`, behind: 0 };
    const rate = gate?.rate ? `${paceWords(gate.rate, board.pace.rate)} steps/s` : "full speed";
    const how = gate?.mode === "pause" ? "paused" : board.idle ? "idle" : rate;
    if (board.engine.lag) return { live: true, text: `LIVE · catching up, ${board.engine.lag} events`, behind: 0 };
    return { live: true, text: `LIVE · ${how}`, behind: board.player.following ? 0 : board.lastStep - board.step };
  }

  // Did no model and no file say anything: are all its texts made up?
  get placeholders() {
    const { board } = this;
    if (board.isLive || board.run?.header?.fidelity !== "given" || !board.store) return false;
    const { seq } = board.store.head;
    if (this.#made?.store !== board.store || this.#made.seq !== seq) {
      const requests = Object.values(board.store.head.requests);
      const madeUp = requests.length > 0 && requests.every(({ texts }) => texts.every((text) => text === PLACEHOLDER));
      this.#made = { store: board.store, seq, madeUp };
    }
    return this.#made.madeUp;
  }

  #made = null;

  // Headline and second line of the step, and whom the Why button is about.
  told() {
    const { board } = this;
    const { step, event } = board.player;
    if (!board.store?.config) return { headline: this.#emptyWords(), also: "", subject: null };
    if (step <= board.firstStep) return { headline: this.#openingWords(), also: "", subject: null };
    return board.memo("told", () => {
      const events = board.store.eventsOf(step);
      const told = story(board.store.stateAfter(step - 1), events);
      const at = event === null ? "" : eventWords(events[event - 1], event, events.length);
      const walked = event === null ? null : { stream: events[event - 1].stream, seq: events[event - 1].seq };
      return { ...told, subject: walked ? { event: walked } : subjectOf(told.headline, (req) => board.knows(req)), event: at, at: walked };
    }, "");
  }

  headlineOf(step) {
    const { board } = this;
    if (step <= board.firstStep) return "";
    return story(board.store.stateAfter(step - 1), board.store.eventsOf(step)).headline;
  }

  #emptyWords() {
    const { board } = this;
    if (board.problem) return board.problem.what;
    if (!board.run) return board.runs.length ? "Opening the run …" : "No run is open.";
    return board.isLive ? "The engine is up; nothing has run yet." : "Opening the run …";
  }

  #openingWords() {
    const { board } = this;
    if (board.firstStep > 0 && !board.store.base) return "The trace begins here; earlier steps were not kept.";
    if (board.firstStep > 0) return `The steps up to ${board.firstStep} are being fetched.`;
    const { num_kv_blocks: blocks, block_size: size, max_num_batched_tokens: budget } = board.store.config;
    return (
      board.tour?.script.intro ??
      `The pool has ${plural(blocks - 1, "block")} of ${plural(size, "token")}. A step may run ${plural(budget, "token")}.`
    );
  }
}
