// The form as an address and as a file.

import assert from "node:assert/strict";
import test from "node:test";

import { addressOf, formAt, namesOf, tomlOf } from "../../viz/static/core/own.js";

const row = (arrives, prefix, own, outputs, priority = 0) => ({ arrives, prefix, own, outputs, priority });
const FORM = {
  request: [row(2, 8, 3, 4), row(1, 17, 0, 10, -2)],
  engine: { policy: "priority", enable_prefix_caching: false, num_kv_blocks: 16, watermark: 0.05 },
};

test("a form comes back from its address, which needs no escapes", () => {
  const text = addressOf(FORM);
  assert.equal(text, "2.8.3.4_1.17.0.10.-2*enable_prefix_caching-false*num_kv_blocks-16*policy-priority*watermark-0.05");
  assert.equal(new URLSearchParams({ own: text }).toString(), `own=${text}`);
  assert.deepEqual(formAt(text), FORM);
});

test("what is no form is none", () => {
  for (const text of ["", null, "x", "1.2.3", "1.2.3.4.5.6", "1.2.3.4*", "1.2.3.4*a b-1", "1.2.3.4*Ä-1", "1.2.3.4_", `${"1.2.3.4_".repeat(500)}1.2.3.4`]) {
    assert.equal(formAt(text), null, text);
  }
});

test("as a file it has one table for each request", () => {
  const text = tomlOf(FORM, 'my "own"');
  assert.match(text, /^name = "my \\"own\\""\n/);
  assert.equal(text.match(/\[\[request\]\]/g).length, 2);
  assert.match(text, /arrives = 2\nprompt_tokens = 11\nshared_prefix = 8\noutput_tokens = 4\n\n/);
  assert.match(text, /policy = "priority"\nenable_prefix_caching = false\n/);
});

test("requests are called by their arrival", () => {
  assert.deepEqual(namesOf(FORM.request), ["r2", "r1"]);
  assert.deepEqual(namesOf([row(1, 0, 1, 1), row(1, 0, 1, 1)]), ["r1", "r2"]);
});
