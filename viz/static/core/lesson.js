// A lesson's questions and knobs, apart from the page.

import { grade } from "#core/tour.js";

// The questions of a walk, with what was predicted: [{words, choice, truth, right, told}].
export function questionsOf(tour, answers) {
  return (tour?.stops ?? []).flatMap(({ ask }, i) => {
    if (!ask) return [];
    const { choice = null, truth = null } = answers[i] ?? {};
    const { right, words: told } = truth === null ? { right: false, words: "" } : grade(ask, choice, truth);
    return [{ stop: i, words: ask.words, choice, truth, right, told }];
  });
}

export function score(questions) {
  const done = questions.filter(({ truth }) => truth !== null);
  return `${done.filter(({ right }) => right).length} of ${questions.length} predicted${done.length < questions.length ? `, ${questions.length - done.length} not yet asked` : ""}`;
}

// The knobs that a lesson lets one turn, of those that there are.
export const offered = (knobs, names) => names.map((name) => knobs.find((knob) => knob.name === name)).filter(Boolean);

// What is told of a check that was run on the command line.
export function checkWords(number, { check = null, state = "" } = {}) {
  const command = `minivllm learn check ${number}`;
  if (!check) return { command, words: state === "skipped" ? "This lesson was skipped." : "Nothing has been checked yet.", passed: null };
  return { command, words: check.message, passed: check.passed, at: check.at, step: check.step ?? null };
}
