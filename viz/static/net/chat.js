// The OpenAI endpoint of the server that gave this page, as any client uses it: one streamed request.

import { FrameReader } from "#core/chat.js";
import { ask } from "#net/home.js";

export { loadWorkbench as loadOffers } from "#net/history.js";

export class Refused extends Error {
  constructor(status, body, headers) {
    super(body?.error?.message ?? `the server answered ${status}`);
    Object.assign(this, { status, body, headers });
  }
}

// Calls `on.begun(linkHeader)`, then `on.data(object)` for each frame; resolves with true once
// [DONE] has come, with false where the stream ended before it. Raises Refused; what `fetch` raises.
export async function streamChat(body, { key = "", signal, on }) {
  const authorization = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await ask("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    throw new Refused(response.status, told, { "retry-after": response.headers.get("Retry-After") });
  }
  on.begun(response.headers.get("Link"));
  const frames = new FrameReader();
  const text = new TextDecoder();
  const reader = response.body.getReader();
  let whole = false; // read on to the very end, or the server thinks that we have gone
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return whole;
    for (const data of frames.take(text.decode(value, { stream: true }))) {
      if (data === "[DONE]") whole = true;
      else on.data(JSON.parse(data));
    }
  }
}
