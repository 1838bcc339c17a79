// A conversation as data: parameters, the stream, times, errors, keeping it.

import assert from "node:assert/strict";
import test from "node:test";

const chat = await import(new URL("../../viz/static/core/chat.js", import.meta.url));

const chunk = (index, content, more = {}) => ({ id: "chatcmpl-1", choices: [{ index, delta: { content }, ...more }] });
const row = (token, logprob, top = []) => ({ token, logprob, bytes: [], top_logprobs: top });

test("frames come whole, wherever the stream is cut; keep-alives are passed over", () => {
  const text = ': keep-alive\n\ndata: {"a": "日本 😀"}\n\ndata: x\ndata: y\r\n\r\ndata: [DONE]\n\n';
  for (let size = 1; size < text.length; size += 1) {
    const reader = new chat.FrameReader();
    const frames = [];
    for (let at = 0; at < text.length; at += size) frames.push(...reader.take(text.slice(at, at + size)));
    assert.deepEqual(frames, ['{"a": "日本 😀"}', "x\ny", "[DONE]"], `cut every ${size}`);
  }
});

test("what is typed becomes parameters, nothing becomes none, and what is wrong says what is allowed", () => {
  const { values, errors } = chat.readParams({ temperature: "0,5", top_k: " −1 ", stop: "a\n\nb", n: "", seed: "7", system: " Be brief. " });
  assert.deepEqual(values, { temperature: 0.5, top_k: -1, stop: ["a", "b"], seed: 7, system: " Be brief. " });
  assert.deepEqual(errors, {});
  const wrong = chat.readParams({ temperature: "3", top_k: "1.5", max_tokens: "many", min_p: "NaN" }).errors;
  assert.deepEqual(Object.keys(wrong), ["temperature", "top_k", "min_p", "max_tokens"]);
  assert.match(wrong.top_k, /allowed: a whole number from -1 to 1000, or nothing/);
  for (const { says, name } of chat.PARAMS) assert.ok(says.endsWith("."), name);
});

test("a turn is asked with the turns before it that were answered, and with the answer that was chosen", () => {
  const turn = (ask, texts, state = "done", chosen = 0) => ({ ask, state, chosen, answers: texts.map((text) => ({ text })) });
  const turns = [turn("a", ["A", "B"], "done", 1), turn("b", [], "failed"), turn("c", ["C"], "stopped"), turn("d", ["D"], "failed")];
  const body = chat.requestBody(turns, "e", { system: "S", temperature: 0, top_logprobs: 0 });
  assert.deepEqual(body.messages.map(({ role, content }) => role[0] + content), ["sS", "ua", "aB", "uc", "aC", "ue"]);
  assert.equal(body.temperature, 0);
  assert.ok(body.stream && body.logprobs && body.top_logprobs === 0);
  assert.ok(!("system" in body) && !("logprobs" in chat.requestBody([], "x", {})));
  assert.deepEqual(chat.withoutFirst(turns).map(({ ask }) => ask), ["b", "c", "d"]);
});

test("chunks add up to answers, and the page's own clock to TTFT and TPOT", () => {
  const turn = chat.newTurn("x", 1000);
  chat.takeChunk(turn, { id: "chatcmpl-1", choices: [{ index: 0, delta: { role: "assistant", content: "" } }] }, 1010);
  assert.deepEqual(chat.timesOf(turn), { ttft: null, tpot: null });
  const logprobs = { content: [row("Hi", -0.1, [row("Hi", -0.1), row("", -3)])] };
  chat.takeChunk(turn, chunk(0, "Hi", { logprobs }), 1100);
  chat.takeChunk(turn, chunk(1, "Yo"), 1150);
  chat.takeChunk(turn, chunk(0, " you"), 1300);
  chat.takeChunk(turn, { choices: [{ index: 0, delta: {}, finish_reason: "stop", stop_reason: "." }] }, 1300);
  chat.takeChunk(turn, { choices: [], usage: { prompt_tokens: 9, completion_tokens: 6, prompt_tokens_details: { cached_tokens: 8 } } }, 1310);
  assert.deepEqual(turn.answers.map(({ text }) => text), ["Hi you", "Yo"]);
  assert.deepEqual(turn.answers[0].tokens, [{ text: "Hi", logprob: -0.1, top: [{ text: "Hi", logprob: -0.1 }, { text: "", logprob: -3 }] }]);
  assert.equal(chat.endWords(turn.answers[0]), 'it came to the stop "."');
  assert.deepEqual(turn.usage, { prompt: 9, completion: 6, cached: 8 });
  assert.deepEqual(chat.timesOf(turn), { ttft: 100, tpot: 100 });
});

test("a token is shown as it is, and how likely it was", () => {
  assert.deepEqual(["", " a", "\n", "<b>"].map(chat.shown), ["∅", "␣a", "⏎", "<b>"]);
  assert.deepEqual([0, -0.1, -3, -12].map(chat.percent), ["100 %", "90 %", "5.0 %", "< 0.1 %"]);
  assert.deepEqual([0, -0.5, -1.5, -5].map(chat.sureness), [3, 2, 1, 0]);
  const tokens = ["a", "b", "<|im_end|>"].map((text) => ({ text }));
  assert.equal(chat.inText({ text: "ab", tokens }), 2);
  assert.equal(chat.inText({ text: "ab<|im_end|>", tokens }), 3);
});

test("an error says what, why and what can be done", () => {
  const of = (status, code, headers) => chat.refusal(status, { error: { message: "M.", code } }, headers);
  assert.equal(of(401, "invalid_api_key").todo, "key");
  assert.equal(of(400, "context_length_exceeded").todo, "shorten");
  assert.deepEqual(of(503, "queue_full", { "retry-after": "2" }), { what: "The server cannot take this now.", cause: "M.", todo: "again", again: 2 });
  assert.equal(of(429).again, null);
  assert.equal(of(500, "engine_dead").what, "The engine has died.");
  assert.equal(of(400).cause, "M.");
  assert.match(chat.refusal(404, null).cause, /minivllm serve/);
  assert.equal(chat.refusal(400, null).cause, "It answered 400.");
});

test("the link of an answer leads to its life, and to nowhere else", () => {
  const header = '</#/run/live?view=life&request=chatcmpl-1>; rel="describedby"';
  assert.deepEqual(chat.lifeLink(header), { href: "#/run/live?view=life&request=chatcmpl-1", request: "chatcmpl-1" });
  for (const other of [null, "", '<javascript:alert(1)>; rel="describedby"', '</#/run/live>; rel="next"', "</x>"]) {
    assert.equal(chat.lifeLink(other), null);
  }
});

test("a conversation is kept; what was under way is cut, and what cannot be read is nothing", () => {
  const turn = { ...chat.newTurn("x", 0), state: "streaming" };
  assert.deepEqual(chat.unpack(chat.pack([turn], { n: "2" })), { turns: [{ ...turn, state: "cut" }], typed: { n: "2" } });
  for (const text of ["", "null", "{}", '{"version":2,"turns":[]}', "["]) assert.equal(chat.unpack(text), null);
});
