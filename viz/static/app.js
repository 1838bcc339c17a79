// The page: loads the palette and the runs, connects, and renders what is shown whenever it changes.

import { render } from "lit-html";

import { Board } from "#board/board.js";
import { listenToKeys } from "#board/keys.js";
import { Runs } from "#board/runs.js";
import { Clock, FADE_MS } from "#core/clock.js";
import { parseHash } from "#core/url.js";
import { hasServer, resource, startHash } from "#net/home.js";
import { keepFocus } from "#view/modal.js";
import { chipPlaces, fade, slideChips } from "#view/motion.js";
import { drawLinks, page } from "#view/page.js";
import { picture } from "#view/picture/compose.js";
import { printsPictures, savePng, saveSvg } from "#view/picture/save.js";
import { poolProgress } from "#view/poolregion.js";
import { FONT_SCALES, THEMES, applyTheme, fitBar, measure, nextScale } from "#view/sizes.js";
import "#views/all.js";

const PLACE_MS = 200;

const root = document.getElementById("app");
const clock = new Clock((callback) => requestAnimationFrame(callback), () => performance.now());
const board = new Board(clock);
const runs = new Runs(board);

// --- rendering ---------------------------------------------------------------------------------

let asked = false;

board.changed = () => {
  if (asked) return;
  asked = true;
  queueMicrotask(() => {
    asked = false;
    draw();
  });
};

function draw() {
  const sliding = board.player.motion && board.player.beat === 1 && !clock.manual;
  const before = sliding ? chipPlaces(root) : null;
  render(page(board), root);
  fitBar(root);
  board.frame.update();
  if (before) slideChips(root, before);
  drawLinks(board, root);
  pointOut();
  watchCard();
  keepFocus(root);
  speak();
  tellPlace();
  focusTour();
  board.classroom.drawn();
  if (board.player.moving || board.tour?.on) clock.next(frame);
}

// The part of the page that a tour's stop is about.
function pointOut() {
  const { on, stop } = board.tour ?? {};
  const pointed = on && stop?.point ? root.querySelector(stop.point) : null;
  for (const element of root.querySelectorAll(".pointed")) if (element !== pointed) element.classList.remove("pointed");
  pointed?.classList.add("pointed");
}

// The height of the Why card, for the views that lie behind it. The observer tells it: to ask while
// drawing would cost a layout each time.
const cardSize = new ResizeObserver(([{ target }]) => root.style.setProperty("--card", `${target.offsetHeight}px`));
let card = null;

function watchCard() {
  const now = root.querySelector(".why");
  if (now === card) return;
  cardSize.disconnect();
  card = now;
  if (card) cardSize.observe(card);
  else root.style.setProperty("--card", "0px");
}

// The address follows, but not each step of a fast run: browsers refuse that. A view that the
// reader went to is an entry of its own, to which the browser's "back" leads.
let placeTold = 0;
let placeTimer = 0;
let toldHash = "";
let hashThere = location.hash; // another one has been typed: it will be followed, and is not written over

function tellPlace() {
  clearTimeout(placeTimer);
  if (!board.run || board.wanted || location.hash !== hashThere) return;
  const hash = board.place();
  if (hash === toldHash) return;
  const wait = placeTold + PLACE_MS - performance.now();
  if (wait > 0 && !board.frame.moved) {
    placeTimer = setTimeout(tellPlace, wait);
    return;
  }
  placeTold = performance.now();
  toldHash = hash;
  const tell = board.frame.moved ? "pushState" : "replaceState";
  board.frame.moved = false;
  history[tell](null, "", withoutLesson() + hash);
  hashThere = location.hash;
}

// While the tour is on, its button has the focus, unless the reader put it elsewhere.
function focusTour() {
  const state = board.tour?.state ?? "off";
  if (state === tourState) return;
  tourState = state;
  const { activeElement } = document;
  const free = activeElement === document.body || activeElement.closest(".tour, .end-card, .choices");
  if (board.tour?.isLesson) {
    if (state === "asking") root.querySelector(".choices input, .choices button")?.focus();
  } else if (free && state !== "off") root.querySelector("[data-tour=next]")?.focus();
}

let tourState = "off";

function frame(now) {
  const { beat, step, event, playing } = board.player;
  let more = board.player.frame(now);
  if (board.tour?.on) {
    more = board.tour.frame(now) || more;
    root.querySelector(".ring")?.style.setProperty("--left", board.tour.left(now));
  }
  const { player } = board; // at rest once more: what was done is told, the button says play
  if (player.beat !== beat || player.step !== step || player.event !== event || player.playing !== playing) return draw();
  for (const element of root.querySelectorAll("vz-pool, vz-queue, vz-budget, vz-strip")) {
    const { tagName } = element;
    if (tagName === "VZ-POOL" || tagName === "VZ-QUEUE") element.progress = poolProgress(board);
    else element.progress = board.progressOf(tagName === "VZ-STRIP" ? "run" : "schedule");
  }
  if (more) clock.next(frame);
}

// The polite region tells the step when the cursor rests on it, not each one that flies by.
let spoken = "";

function speak() {
  const { player } = board;
  if (player.playing || player.following || player.motion || !board.store?.config) return;
  const stopped = board.breaks.here;
  const words = `${stopped ? `Stopped at ${stopped}. ` : ""}Step ${board.step}. ${board.told().headline}`;
  if (words === spoken) return;
  spoken = words;
  board.say(`${words} ${board.frame.view.says?.(board) ?? ""}`.trim());
}

board.say = (words) => {
  document.getElementById("say").textContent = words;
};

// --- what the Board asks of its page --------------------------------------------------------------

// Some browsers keep nothing for a page that was opened from disk; then nothing is remembered.
board.remember = (key, value) => {
  try {
    localStorage.setItem(`minivllm.${key}`, value);
  } catch {
    // as above
  }
};

board.recall = (key) => {
  try {
    return localStorage.getItem(`minivllm.${key}`);
  } catch {
    return null;
  }
};

board.classroom.keep = (key, value) => {
  try {
    sessionStorage.setItem(`minivllm.${key}`, value);
  } catch {
    // as above
  }
};

board.classroom.kept = (key) => {
  try {
    return sessionStorage.getItem(`minivllm.${key}`);
  } catch {
    return null;
  }
};

board.refreshRuns = () => runs.refresh();

board.openRun = (id, place) => runs.open(id, place);

board.loadSide = (id) => runs.loadSide(id);

board.showEngine = (stream, life) => runs.show(stream, life);

// The files are read here; nothing of them is sent anywhere.
const chooser = document.getElementById("file");
board.chooseFile = () => chooser.click();
chooser.addEventListener("change", () => {
  if (chooser.files.length) runs.openFiles([...chooser.files]);
  chooser.value = ""; // or the same file could not be chosen again
});

function takeDropped(event) {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault(); // else the browser leaves the page for the file
  if (event.type === "drop") runs.openFiles([...event.dataTransfer.files]);
}

// Once the view is drawn.
board.focusChat = () => {
  board.frame.show("play");
  queueMicrotask(() => queueMicrotask(() => root.querySelector(".composer textarea")?.focus()));
};

board.focusRail = () => queueMicrotask(() => queueMicrotask(() => root.querySelector(".rail h2")?.focus()));

board.cutBack = () => {
  if (clock.manual || board.player.reducedMotion) return;
  const main = root.querySelector("main");
  if (main) fade(main, FADE_MS);
};

board.resized = () => measure(board, root, draw);

board.setKeys = (on) => {
  board.keysOff = !on;
  board.remember("keys", on ? "on" : "off");
  board.changed();
};

let palette = null;
let themeAt = 0;

board.nextTheme = () => {
  themeAt = (themeAt + 1) % THEMES.length;
  board.remember("theme", themeAt);
  themed();
};

board.scaleFont = (direction) => {
  board.fontScale = nextScale(board.fontScale, direction, THEMES[themeAt]);
  board.remember("font", board.fontScale);
  themed();
};

function themed() {
  applyTheme(palette, THEMES[themeAt], board.fontScale);
  board.resized();
}

// A picture of what is shown, on white paper or as it is here.
board.savePicture = (kind, paper) => (kind === "png" ? savePng : saveSvg)(board, root, paper ? palette : null);

// --- start -------------------------------------------------------------------------------------

async function start() {
  palette = await resource("palette.json");
  themeAt = Number(board.recall("theme") ?? 0) % THEMES.length || 0;
  board.fontScale = FONT_SCALES.find((scale) => scale === Number(board.recall("font"))) ?? 1;
  board.keysOff = board.recall("keys") === "off";
  const quiet = matchMedia("(prefers-reduced-motion: reduce)");
  board.player.reducedMotion = quiet.matches;
  quiet.addEventListener("change", () => (board.player.reducedMotion = quiet.matches));
  board.classroom.wants = new URLSearchParams(location.search).has("lead");
  const transport = new URLSearchParams(location.search).get("transport");
  const { LiveChannel } = await (hasServer ? import("#net/live.js") : import("#net/absent.js"));
  board.engine.channel = new LiveChannel(runs.listeners(), transport ? [transport] : undefined);
  themed();
  listenToKeys(board, root);
  printsPictures(board, root, () => (board.printing.paper ? palette : null));
  addEventListener("resize", themed);
  addEventListener("hashchange", followHash);
  for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"]) {
    addEventListener(kind, touched, { capture: true, passive: true });
  }
  addEventListener("dragover", takeDropped);
  addEventListener("drop", takeDropped);
  root.addEventListener("pointerover", pointAt);
  root.addEventListener("focusin", pointAt);
  root.addEventListener("pointerleave", () => board.focus.point(null));
  await runs.refresh();
  const place = parseHash(location.hash || startHash);
  board.frame.take(place);
  const lesson = wantedLesson(place);
  if (lesson) await board.lessons.open(lesson);
  const own = board.lessons.lesson?.run;
  const first = place.run ?? own ?? board.runs.find((run) => !run.lesson)?.id;
  if (first) await runs.open(first, place);
  if (first) await board.pair.take(place.params ?? {});
  else if (!board.problem) board.fail("There is no run to show.", "Start with a trace file, or wait for the engine.");
  board.classroom.begin();
}

// A link to a lesson: ?lesson=00-…, before the '#' or behind it; where a run is open, behind it.
const wantedLesson = ({ params }) => params?.lesson ?? new URLSearchParams(location.search).get("lesson");

function withoutLesson() {
  const query = new URLSearchParams(location.search);
  query.delete("lesson");
  return query.size ? `?${query}` : location.pathname;
}

function followHash() {
  toldHash = hashThere = location.hash;
  board.classroom.touched();
  const place = parseHash(location.hash);
  const { lesson } = place.params ?? {};
  if (lesson && lesson !== board.lessons.params.lesson) board.lessons.open(lesson);
  board.frame.take(place);
  if (!board.isAt(place)) return runs.open(place.run ?? board.run.id, place).then(() => board.pair.take(place.params));
  board.pair.take(place.params);
  board.focus.chosen = null;
  board.wanted = place;
  board.arrive(true);
  return board.changed();
}

// Somebody is there. (A pointer that lies still under a page that changes is nobody.)
function touched(event) {
  if (event.type === "pointermove" && !event.movementX && !event.movementY) return;
  board.tour?.touched();
  if (event.type === "keydown" || event.type === "pointerdown") board.classroom.touched();
}

// What is under the pointer, or has the focus, is shown everywhere.
function pointAt(event) {
  const element = event.target.closest("[data-req], [data-block]");
  if (event.target.closest("vz-strip, vz-pool, vz-budget, vz-tables, vz-queue, vz-prefixes")) return;
  if (event.type === "focusin" && !event.target.matches(":focus-visible")) return;
  if (!element) return board.focus.point(null);
  const { req, block, position } = element.dataset;
  const token = position === undefined ? {} : { position: Number(position), block: block === undefined ? undefined : Number(block) };
  board.focus.point(req ? { req, ...token } : { block: Number(block) });
}

// For tests: the state at a step, the scene, and time by hand.
window.__viz = {
  board,
  clock,
  state: (step = board.step) => structuredClone(board.store.stateAfter(step)),
  scene: () => board.scene(),
  picture: (paper = true) => picture(board, root, paper ? palette : null),
  draw,
};

start();
