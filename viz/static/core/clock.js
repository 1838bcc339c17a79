// Time for the page: one source of frames, which a test can turn by hand, and the rules of motion.
//
// A step is five beats: arrive, schedule, blocks, run, output; empty ones are left out. Nothing
// queues: a key during a beat ends it at once.

export const BEATS = ["arrive", "schedule", "blocks", "run", "output"];
export const REST = BEATS.length; // the beat after the last: everything stands
export const BEAT_MS = 140;
export const TWEEN_MS = 120;
export const FADE_MS = 100; // going back is a cut with this cross-fade

export const SPEEDS = [0.125, 0.25, 0.5, 1, 2, 5, 10, 20, 50]; // steps per second

export function speedName(speed) {
  const name = { 0.125: "⅛", 0.25: "¼", 0.5: "½" }[speed] ?? `${Math.round(speed * 10) / 10}`;
  return speed === 0 ? "full speed" : `${name} ${speed > 1 ? "steps" : "step"}/s`;
}

// The next faster (+1) or slower (−1) speed of the scale.
export function nextSpeed(speed, direction) {
  const faster = SPEEDS.filter((s) => (direction > 0 ? s > speed : s < speed));
  return faster.length ? faster[direction > 0 ? 0 : faster.length - 1] : speed;
}

// Which beats a step has, from its facts, and how long each lasts (ms) at a speed.
export function planBeats(facts, speed, reducedMotion = false) {
  if (reducedMotion || speed > 5) return { kind: "cut", beats: [], each: 0 };
  if (speed > 2) return { kind: "tween", beats: [REST - 1], each: TWEEN_MS };
  const scheduled = facts.grants.length || facts.preempted.size || facts.stop;
  const present = [
    facts.input,
    scheduled,
    facts.marks.size,
    facts.grants.length,
    facts.tokens.size || facts.finished.size,
  ];
  const beats = BEATS.map((_, i) => i).filter((i) => present[i]);
  const room = (0.9 * 1000) / Math.max(speed, 0.1) / Math.max(beats.length, 1);
  return { kind: "beats", beats, each: Math.min(BEAT_MS, room) };
}

// Where a plan stands `elapsed` ms after it began: {beat, progress 0…1}; beat REST when over.
export function beatAt(plan, elapsed) {
  const index = plan.each ? Math.floor(elapsed / plan.each) : plan.beats.length;
  if (index >= plan.beats.length) return { beat: REST, progress: 1 };
  const t = elapsed / plan.each - index;
  return { beat: plan.beats[index], progress: t * t * (3 - 2 * t) };
}

// Frames. `turn` is for tests: after `byHand`, time passes only when it is called.
export class Clock {
  constructor(requestFrame, now) {
    this.requestFrame = requestFrame;
    this.realNow = now;
    this.listeners = new Set();
    this.manual = false;
    this.handNow = 0;
    this.asked = false;
  }

  now() {
    return this.manual ? this.handNow : this.realNow();
  }

  // Call `listener(now)` once, at the next frame.
  next(listener) {
    this.listeners.add(listener);
    if (!this.asked && !this.manual) {
      this.asked = true;
      this.requestFrame(() => {
        this.asked = false;
        if (!this.manual) this.#fire();
      });
    }
  }

  #fire() {
    const due = [...this.listeners];
    this.listeners.clear();
    for (const listener of due) listener(this.now());
  }

  byHand() {
    this.handNow = this.now();
    this.manual = true;
  }

  turn(ms, frame = 10) {
    for (let left = ms; left > 0; left -= frame) {
      this.handNow += Math.min(frame, left);
      this.#fire();
    }
  }
}
