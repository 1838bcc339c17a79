// Scenarios of one's own, by HTTP. A refusal has the fields that are wrong: error.fields.

import { ask } from "#net/home.js";

async function answered(response) {
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  throw Object.assign(new Error(body.error ?? `the server answered ${response.status}`), { fields: body.fields ?? {} });
}

const post = (path, type, body) => ask(path, { method: "POST", headers: { "Content-Type": type }, body });

export const ownOffers = async () => answered(await ask("/api/own"));
export const runOwn = async (form) => answered(await post("/api/own", "application/json", JSON.stringify(form)));
export const readOwnFile = async (text) => answered(await post("/api/own/file", "application/toml", text));
