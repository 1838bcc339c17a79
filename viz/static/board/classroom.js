// This page as one of a class. Where it leads, each move of its cursor is told; where it follows,
// the leader's cursor is this page's, until its reader moves. Every place goes as an address.

import { Grip, heardOfClass, nobody } from "#core/following.js";
import { answerOf, grade } from "#core/tour.js";
import { parseHash } from "#core/url.js";

const OWN = /^own-[0-9a-f]{8}$/; // stands in nobody's list: its address makes it again

const TELL_MS = 100; // the server hands on no more

export class Classroom {
  constructor(board) {
    this.board = board;
    this.is = nobody();
    this.join = null; // {url, code}, for the driver to show
    this.wants = false; // the address says to take the lead
    this.grip = new Grip();
    this.cursor = null; // the leader's, as it came last
    this.ready = false; // has the page opened what its own address says?
    this.applying = false;
    this.lesson = null; // the one that the leader has opened here
    this.touring = null; // {tour, at}: the stop of the leader's tour that asks the class
    this.question = null; // {id, ask, choices, yours}, as the leader asks all
    this.result = null; // {ask, choices, answer, told, tally, yours}: of the last one
    this.told = "";
    this.toldAt = -Infinity;
    this.timer = null;
    // Set by the page: words that last as long as this tab.
    this.keep = () => {};
    this.kept = () => null;
  }

  get follows() {
    return this.is.led && !this.is.leads && this.is.follows;
  }

  tell(message) {
    this.board.engine.channel?.tell?.("class", message);
  }

  // The page has opened; what the leader shows comes now.
  begin() {
    this.ready = true;
    if (this.cursor) this.#follow(this.cursor);
  }

  // The connection stands (again).
  linked() {
    this.told = "";
    this.tell({ op: "hello", ticket: this.kept("lead") || null });
    if (!this.is.follows) this.tell({ op: "follow", on: false });
  }

  lead() {
    this.tell({ op: "take" });
  }

  drop() {
    this.tell({ op: "drop" });
  }

  follow() {
    if (!this.is.led || this.is.leads) return;
    if (this.board.predict.on) this.board.predict.end();
    this.board.tour?.finish();
    this.grip.settle(this.#place); // the key or press that asks for it moves nobody
    this.#set({ follows: true });
    this.tell({ op: "follow", on: true });
  }

  touched() {
    this.grip.touched(performance.now());
  }

  #set(fields) {
    this.is = { ...this.is, ...fields };
    this.board.changed();
  }

  // --- what comes --------------------------------------------------------------------------------

  hear(name, message) {
    if (name === "class") this.#heardOfClass(message);
    if (name === "crowd") this.#set({ crowd: message });
    if (name === "cursor") this.#follow(message);
    if (name === "question") this.#asked(message);
    if (name === "reveal") this.#revealed(message);
    this.board.changed();
  }

  #heardOfClass(message) {
    const before = this.is;
    this.is = heardOfClass(before, message);
    this.keep("lead", message.leads ? message.ticket : "");
    if (!message.led && !message.gone) {
      if (!this.board.predict.on && !this.board.tour?.hides) this.board.horizon.lift();
      [this.question, this.result, this.cursor] = [null, null, null];
      if (!before.follows) this.tell({ op: "follow", on: true });
    }
    if (message.led) this.board.tour?.touched(); // a page in a class goes nowhere by itself
    if (message.leads && !before.leads) this.told = "";
    if (message.leads && !message.asked) this.board.predict.askAll(); // of a server that was started anew
    if (this.wants && !message.leads && !message.note) this.lead();
    this.wants = false;
  }

  #asked(question) {
    [this.question, this.result] = [question, question ? null : this.result];
    // This page was reloaded while it asked: what is right went with it.
    if (question && this.is.leads && !this.board.predict.on && !this.touring) this.tell({ op: "close" });
  }

  #revealed({ id, answer, told, tally }) {
    if (this.question?.id !== id) return;
    const { ask, choices, yours, place } = this.question;
    this.result = { ask, choices, answer, told, tally, yours, asked: parseHash(place).step };
    this.question = null;
  }

  // What was answered stands at the step that answered it, until the class goes on from there.
  #goneOn(step, open) {
    const { result } = this;
    if (!result || step === result.asked) return;
    result.upto ??= step;
    result.open ??= open;
    if (result.upto !== step || result.open !== open) this.result = null;
  }

  // The teacher's page is away, and its question with it: this reader does not wait.
  showAll() {
    [this.question, this.result] = [null, null];
    this.board.horizon.lift();
  }

  vote(choice) {
    if (!this.board.engine.linked) return;
    this.question = { ...this.question, yours: choice };
    this.tell({ op: "vote", id: this.question.id, choice });
    this.board.changed();
  }

  // --- leading and following -----------------------------------------------------------------------

  // After each drawing.
  drawn() {
    if (this.is.leads) {
      if (this.result) {
        this.#goneOn(this.board.step, !this.board.predict.on);
        if (!this.result) this.board.changed();
      }
      this.#tellTour();
      this.#tellCursor();
    } else if (this.follows && !this.applying && this.grip.hasLetGo(this.#place, performance.now())) {
      this.#set({ follows: false });
      this.tell({ op: "follow", on: false });
      this.board.say("You have let go of the teacher’s page. F follows again.");
    }
  }

  get votes() {
    const { votes = 0, following = 0, free = 0 } = this.is.crowd ?? {};
    return `${votes} of ${following + free} have answered`;
  }

  get #place() {
    const { board } = this;
    return `${board.place()} ${board.player.playing}`;
  }

  // A question of the leader's tour is asked of all, and answered to all when the leader goes on.
  #tellTour() {
    const { tour } = this.board;
    const asks = tour?.asking && tour.question.choices ? { tour, at: tour.at } : null;
    const { touring } = this;
    if (touring?.tour === asks?.tour && touring?.at === asks?.at) return;
    this.touring = asks;
    if (touring) this.#endTour(touring);
    if (asks) {
      const { words, choices } = tour.question;
      this.tell({ op: "ask", ask: words, choices: choices.map((text) => ({ id: text, text })), place: this.board.place() });
    }
  }

  #endTour({ tour, at }) {
    if (!tour.asked.has(at) || !this.board.store?.config) return this.tell({ op: "close" }); // it was left
    const { ask } = tour.script.stops[at];
    const truth = answerOf(this.board.wholeStore.eventsOf(ask.of.step), ask.of);
    const answer = ask.choices.filter((choice) => grade(ask, choice, truth).right);
    return this.tell({ op: "reveal", answer, told: grade(ask, null, truth).words });
  }

  #tellCursor() {
    const { board } = this;
    if (board.wanted || !board.run || board.pair.wanted) return;
    const { moving, pace } = board.travel;
    const cursor = { place: board.place(), playing: moving, speed: pace, upto: board.horizon.step ?? (this.touring ? board.step : null) };
    const words = JSON.stringify(cursor);
    if (words === this.told || this.timer) return;
    const wait = this.toldAt + TELL_MS - performance.now();
    if (wait > 0) {
      this.timer = setTimeout(() => {
        this.timer = null;
        if (this.is.leads) this.#tellCursor();
      }, wait);
      return;
    }
    [this.told, this.toldAt] = [words, performance.now()];
    this.tell({ op: "cursor", ...cursor });
  }

  async #follow(cursor) {
    this.cursor = cursor;
    this.#goneOn(cursor.upto ?? parseHash(cursor.place).step, cursor.upto === null);
    if (!this.ready) return;
    if (this.applying) return; // whoever is on the way goes on to this one
    this.applying = true;
    try {
      await this.#goToNewest();
    } finally {
      this.applying = false;
      this.grip.settle(this.#place);
      this.board.changed();
    }
  }

  // One at a time: a run that is being opened would put a later cursor back to where it was asked for.
  async #goToNewest() {
    let cursor;
    while (this.cursor && this.cursor !== cursor) {
      cursor = this.cursor;
      if (this.follows && this.board.predict.on) this.board.predict.end();
      if (this.follows) await this.#go(cursor);
      if (this.cursor === cursor) this.#hide(cursor);
    }
  }

  async #go(cursor) {
    const { board } = this;
    const place = parseHash(cursor.place);
    const here = () => board.runs.some((run) => run.id === place.run);
    if (!here() && !OWN.test(place.run)) await board.refreshRuns();
    if (!here() && OWN.test(place.run)) await board.openRun(place.run, place);
    if (this.cursor !== cursor) return; // a later one is on its way
    await this.#goLesson(place.params?.lesson ?? null);
    if (this.cursor !== cursor) return;
    const missing = here() ? null : place.run;
    if (missing !== this.is.missing) this.#set({ missing });
    if (missing) return;
    board.tour?.finish();
    board.player.playing = false;
    board.frame.take(place);
    if (!board.isAt(place)) {
      await board.openRun(place.run, place);
      await board.pair.take(place.params ?? {});
      return;
    }
    await board.pair.take(place.params ?? {});
    if (this.cursor === cursor) this.#move(place, cursor);
  }

  // The lesson that the leader has open, in this page's rail; one that the reader has opened stays.
  async #goLesson(slug) {
    const { lessons } = this.board;
    const { lesson } = lessons.params;
    if (slug && slug !== lesson) {
      this.lesson = slug;
      await lessons.open(slug);
    } else if (!slug && lesson && lesson === this.lesson) {
      this.lesson = null;
      lessons.close();
    }
  }

  #move(place, { speed, upto }) {
    const { board } = this;
    const { player, horizon } = board;
    const { step, event } = place;
    if (speed > 0) player.speed = speed;
    if (horizon.on && upto !== horizon.step && (upto === null || upto > horizon.step)) this.#hide({ upto, place: this.cursor.place });
    board.focus.chosen = null;
    board.wanted = { ...place, step: null };
    board.arrive(); // the selection; the step goes with its beats
    if (step === null) {
      player.following = board.isLive;
      player.place(board.isLive ? board.lastStep : board.firstStep);
    } else if (step > board.lastStep) {
      board.wanted = place; // of a live run: as soon as it is here
    } else if (step !== player.step || event !== player.event) {
      player.following = false;
      const next = step === player.step + 1 && event === null && player.event === null;
      if (next) player.advance(board.clock.now());
      else player.place(step, event);
    }
  }

  // What lies ahead of the leader's question is hidden from who has let go, too.
  #hide({ upto, place }) {
    const { horizon } = this.board;
    if (this.is.leads || this.board.predict.on || this.board.tour?.hides) return;
    if (upto === null || !this.board.isAt(parseHash(place))) {
      horizon.lift();
    } else if (horizon.step !== upto) horizon.cut(upto);
  }
}
