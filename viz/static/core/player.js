// Where the reader stands, and how the picture gets there. Pure state, driven by `frame(now)`; it
// knows the store and nothing of the page.

import { REST, beatAt, planBeats } from "#core/clock.js";
import { stepFacts } from "#core/facts.js";

export class Player {
  constructor() {
    this.store = null;
    this.step = 0;
    this.event = null; // within the step: how many of its events are shown; null = all
    this.playing = false;
    this.following = false; // stay at the head of a live run
    this.speed = 0.5; // steps per second
    this.reducedMotion = false;
    this.motion = null; // {plan, began} while a step's beats are shown
    this.beat = REST;
    this.progress = 1;
    this.nextAt = null; // when playing: the time of the next step
    this.stops = () => 0; // (step, shown) → the event of that step at which play stops, 0: none
  }

  open(store, step) {
    this.store = store;
    this.settle();
    this.playing = false;
    this.place(step);
  }

  // At the latest step, whole.
  get atHead() {
    return this.event === null && this.step >= (this.store?.lastStep ?? 0);
  }

  get moving() {
    return this.playing || this.motion !== null;
  }

  // Show a step as it stands, at once. Every key lands here first: nothing queues.
  place(step, event = null) {
    this.settle();
    this.step = Math.min(Math.max(step, this.store?.firstStep ?? 0), this.store?.lastStep ?? 0);
    this.event = event;
  }

  settle() {
    this.motion = null;
    this.beat = REST;
    this.progress = 1;
  }

  // One step on, with its beats.
  advance(now) {
    if (!this.store || this.step >= this.store.lastStep) return false;
    this.place(this.step + 1);
    const facts = stepFacts(this.store.eventsOf(this.step));
    const plan = planBeats(facts, this.speed, this.reducedMotion);
    if (plan.beats.length) {
      this.motion = { plan, began: now };
      this.frame(now);
    }
    return true;
  }

  // One event on (+1) or back (−1), inside the step and over its borders.
  walk(direction) {
    this.playing = this.following = false;
    const count = this.store.eventsOf(this.step).length;
    const at = (this.event ?? count) + direction;
    if (at > count) {
      if (this.step < this.store.lastStep) this.place(this.step + 1, 1);
    } else if (at < 1) {
      if (this.step > this.store.firstStep) this.place(this.step - 1);
    } else {
      this.place(this.step, at === count ? null : at);
    }
  }

  play(now) {
    this.following = false;
    if (this.atHead) this.place(this.store.firstStep);
    this.playing = true;
    this.nextAt = now;
  }

  pause() {
    this.playing = false;
    this.settle();
  }

  // Take time into account. True while there is more to come.
  frame(now) {
    if (this.motion) {
      const { beat, progress } = beatAt(this.motion.plan, now - this.motion.began);
      [this.beat, this.progress] = [beat, progress];
      if (beat === REST) this.settle();
    }
    while (this.playing && now >= this.nextAt) {
      this.nextAt = Math.max(this.nextAt + 1000 / this.speed, now - 1000 / this.speed);
      if (!this.#playOn(now)) {
        this.playing = false;
        break;
      }
    }
    return this.moving;
  }

  // The next step; from a stop inside one, first the rest of it. False: play ends here.
  #playOn(now) {
    const inside = this.event !== null;
    const step = inside ? this.step : this.step + 1;
    const stop = step <= this.store.lastStep ? this.stops(step, this.event ?? 0) : 0;
    if (stop) return void this.place(step, stop);
    if (!inside) return this.advance(now);
    this.place(step);
    return true;
  }

  // The live run has grown: go along if the reader stands at its head, and only then.
  grown(now) {
    if (!this.following || this.step >= this.store.lastStep) return;
    if (this.store.lastStep === this.step + 1) this.advance(now);
    else this.place(this.store.lastStep);
  }
}
