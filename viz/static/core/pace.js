// How fast a live engine is, beside how fast it was asked to be: steps per second over its last few
// steps, of one stretch without a pause. Pure.

const STEPS = 8; // the rate of the last second or two, not of an hour
const ENDS = new Set(["run.idle", "gate.change"]); // the time from here to the next step is nobody's pace
const SLOWER = 0.8; // below this share of what was asked it is said

export class Pace {
  constructor() {
    this.begun = []; // when the last steps began, ns
  }

  take({ kind, t_ns }) {
    if (ENDS.has(kind)) this.begun = [];
    if (kind === "step.begin") this.begun = [...this.begun, t_ns].slice(-STEPS - 1);
  }

  // Null: not known yet.
  get rate() {
    const steps = this.begun.length - 1;
    return steps < 2 ? null : (steps * 1e9) / Math.max(this.begun[steps] - this.begun[0], 1);
  }
}

const short = (rate) => String(Math.round(rate * 10) / 10);

// “2”, or “0.8 of 2” for an engine that does not keep up.
export const paceWords = (asked, real) => (real !== null && real < asked * SLOWER ? `${short(real)} of ${short(asked)}` : short(asked));
