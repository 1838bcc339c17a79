// Where the page is, as an address; and whether an address is of what is shown (core/url.js reads it).

import { engineStreams, livesOf, newestOf } from "#core/lives.js";
import { toAddress } from "#core/selection.js";
import { formatHash } from "#core/url.js";

export class Address {
  constructor(board) {
    this.board = board;
  }

  get here() {
    const { run, isLive, player, focus } = this.board;
    if (!run) return "";
    const { step, event, following } = player;
    return this.#whole({ step: isLive && following ? null : step, event, ...toAddress(focus.chosen) });
  }

  // `view`: another than the one that is shown, by its id.
  of(step, chosen, view) {
    const there = view === undefined ? {} : { view: view === "board" ? null : view, params: {} };
    return this.#whole({ step, ...toAddress(chosen), ...there });
  }

  // Engine and life stand in it where there is a choice.
  #whole(place) {
    const { pair, frame, own, lessons } = this.board;
    const { run, at, lives, front } = pair.a; // B stands beside it
    const { stream, life } = at;
    const engine = engineStreams(lives, front).length > 1 ? Number(stream.slice("engine".length)) : null;
    const numbers = livesOf(lives, stream);
    const which = numbers.length > 1 && life !== null && life !== numbers.at(-1) ? life : null;
    const whole = { run: run.id, engine, life: which, ...frame.place, ...place };
    const { with: _with, side: _side, by: _by, own: _own, lesson: _lesson, ...rest } = whole.params ?? {}; // these are known better
    return formatHash({ ...whole, params: { ...rest, ...own.paramsOf(run), ...pair.params, ...lessons.params } });
  }

  // Is this address one of the life that is shown?
  isHere({ run, engine, life, request }) {
    const { run: own, at, lives, front } = this.board.pair.a;
    if (request || (run && run !== own?.id)) return false;
    const stream = engine === null ? engineStreams(lives, front)[0] : `engine${engine}`;
    return (stream ?? at.stream) === at.stream && (life ?? newestOf(lives, at.stream) ?? at.life) === at.life;
  }
}
