// What the page shows: the scene at rest, and in each beat of a step's motion.

import { REST } from "#core/clock.js";
import { stepFacts } from "#core/facts.js";
import { buildScene } from "#core/scene.js";

const BEAT_OF = { schedule: 1, blocks: 2, run: 3, output: 4 };

export class Scenes {
  constructor(board) {
    this.board = board;
  }

  // What the page shows now, built once for each place and beat.
  now() {
    const { board } = this;
    const { store, player } = board;
    if (!store?.config) return null;
    const { step, event, beat } = player;
    return board.memo("scene", () => (beat < REST ? this.#sceneAt(beat) : this.#sceneAtRest(step, event)), "");
  }

  #sceneAtRest(step, event) {
    const { board } = this;
    const events = board.store.eventsOf(step);
    const seen = event === null ? events : events.slice(0, event);
    return buildScene(board.state(), stepFacts(seen), board.hueOf);
  }

  // Before the output beat: the state in which nothing sampled has been taken in yet.
  #sceneAt(beat) {
    const { board } = this;
    const { step } = board.player;
    const events = board.store.eventsOf(step);
    if (beat >= BEAT_OF.output) return buildScene(board.store.stateAfter(step), stepFacts(events), board.hueOf, beat);
    const end = beat === 0 ? "step.begin" : "exec.forward";
    const at = events.findIndex((event) => event.kind === end) + 1 || events.length;
    const scene = buildScene(board.store.stateWithin(step, at), stepFacts(events.slice(0, at)), board.hueOf, beat);
    // The pool stands as it was until its own beat.
    if (beat < BEAT_OF.blocks) scene.pool = this.#poolBefore();
    return scene;
  }

  #poolBefore() {
    const { board } = this;
    return buildScene(board.store.stateAfter(board.step - 1), stepFacts([]), board.hueOf).pool;
  }

  // The pool as it stood before this beat, where the beat changes it.
  poolBeforeBeat() {
    const { board } = this;
    const { beat, motion } = board.player;
    if (!motion || motion.plan.kind === "tween" || board.step <= board.firstStep) return null;
    if (beat === BEAT_OF.blocks) return this.#poolBefore();
    return beat === BEAT_OF.output ? this.#sceneAt(BEAT_OF.run).pool : null;
  }

  // The faces that cross-fade into those of this beat.
  facesBefore() {
    return this.poolBeforeBeat()?.faces ?? null;
  }

  // 0…1 through a beat that a view animates: 0 before it, 1 after it.
  progressOf(beat) {
    const { motion, beat: now, progress } = this.board.player;
    if (!motion) return 1;
    if (motion.plan.kind === "tween") return progress;
    const at = BEAT_OF[beat];
    return now < at ? 0 : now > at ? 1 : progress;
  }
}
