// A tour's script, read: which stop comes next, and what the trace answers to a question.
//
// A script is a tour.json: {intro, stops, alone_until?, end?}. A stop is
//     {step,            where it stands
//      say?,            what there is to see, in the lesson's rail
//      view?, drawer?,  what it is seen in (null closes a drawer); left out: as the reader has it
//      select?,         {req} | {block} | null
//      point?,          a part of the page that gets a ring, as a CSS selector
//      ask?}            {words, choices?, of: {step, kind, req?, read}, right, wrong}
// A question is graded by the first event of that kind (and request) in step `of.step`: `read` is
// "req", or the name of a field of its data. In `right` and `wrong` {} stands for the answer.

// The place in `stops` of the next one, from where the reader stands; null: there is none. A
// question that was asked is not asked again.
export function nextStop(stops, step, at, asked) {
  const open = (i) => !(stops[i].ask && asked.has(i));
  const onStop = stops[at]?.step === step;
  for (let i = onStop ? at + 1 : 0; i < stops.length; i += 1) {
    const ahead = onStop || stops[i].step > step || (stops[i].step === step && stops[i].ask);
    if (ahead && open(i)) return i;
  }
  return null;
}

// The stop before this one, for the way back.
export function stopBefore(stops, step, at) {
  if (stops[at]?.step === step) return at > 0 ? at - 1 : null;
  const before = stops.findLastIndex((stop) => stop.step < step);
  return before < 0 ? null : before;
}

// What the events of its step answer; null where none does.
export function answerOf(events, { kind, req = null, read }) {
  const event = events.find((each) => each.kind === kind && (req === null || each.req === req));
  const value = read === "req" ? event?.req : event?.data[read];
  return value === undefined || value === null ? null : String(value);
}

// Predicted and true: {right, words}. Nothing was predicted: only what was.
export function grade({ right, wrong }, choice, truth) {
  const said = String(choice ?? "").trim().toLowerCase();
  const isRight = said === String(truth).toLowerCase();
  return { right: isRight, words: (isRight ? right : wrong).replaceAll("{}", truth) };
}
