// One of a class: does this page lead, does it go along, has its reader let go? Pure; the Board's
// part is board/classroom.js, the server's viz/classroom.py.

const HAND_MS = 3000; // so long after a key or a press, a move is the reader's own

// A reader's move is a change of place soon after a key or a press; one without is none (an engine
// that was started anew, a step that has come at last).
export class Grip {
  constructor() {
    this.settled = null; // the place at which the leader's cursor has put this page
    this.handAt = -Infinity;
  }

  touched(now) {
    this.handAt = now;
  }

  settle(place) {
    this.settled = place;
    this.handAt = -Infinity;
  }

  // Is this page at another place, by its reader's hand?
  hasLetGo(place, now) {
    if (this.settled === null || place === this.settled) return false;
    if (now - this.handAt < HAND_MS) return true;
    this.settled = place;
    return false;
  }
}

export const nobody = () => ({ leads: false, led: false, gone: false, note: "", follows: true, missing: null, crowd: null });

// What the server says of who leads, taken in. A class that is over leaves nobody who has let go.
export function heardOfClass(now, { leads, led, gone, note }) {
  const over = !led && !gone;
  return {
    ...now,
    leads,
    led,
    gone,
    note,
    follows: over || leads ? true : now.follows,
    missing: led ? now.missing : null,
    crowd: leads ? now.crowd : null,
  };
}

// How a page stands in the class, in words: {text, follow}; null outside of any. `follow`: is there
// something to go along with again?
export function standing({ leads, led, gone, note, follows, missing, crowd }, linked = true) {
  if (!linked && leads) return { text: "You lead, but there is no connection to the class: nobody sees where you go.", follow: false };
  if (!linked && (led || gone)) return { text: "There is no connection to the class; this page stays where it is.", follow: false };
  const said = note ? `${note} ` : "";
  if (leads) {
    const { following = 0, free = 0 } = crowd ?? {};
    const pages = following + free === 1 ? "page" : "pages";
    const freed = free ? `, ${free} ${free === 1 ? "has" : "have"} let go` : "";
    return { text: `${said}You lead: ${following} of ${following + free} ${pages} ${following === 1 ? "follows" : "follow"}${freed}.`, follow: false };
  }
  if (gone) return { text: `${said}The teacher’s page is away; yours stays where it is.`, follow: false };
  if (!led) return note ? { text: note, follow: false } : null;
  if (!follows) return { text: `${said}You have let go of the teacher’s page.`, follow: true };
  if (missing) return { text: `${said}The teacher shows “${missing}”, which is not here.`, follow: false };
  return { text: `${said}This page follows the teacher’s. A key or a click that moves lets go.`, follow: false };
}

// The votes, most first, in words: "r4 19, r1 8".
export function tallyWords(choices, tally) {
  const counted = choices.map(({ id, text }) => ({ text, n: tally[id] ?? 0 }));
  return counted.sort((a, b) => b.n - a.n).map(({ text, n }) => `${text} ${n}`).join(", ");
}
