// The SVG document: text that is never markup, colours that every program reads, shared definitions.

import assert from "node:assert/strict";
import test from "node:test";

import { SvgDocument, attributes, escape, paintOf } from "../../viz/static/core/svg.js";

test("text is never markup, and always XML", () => {
  assert.equal(escape('<b a="1">&amp;</b>'), "&lt;b a=&quot;1&quot;&gt;&amp;amp;&lt;/b&gt;");
  assert.equal(escape("a\u0000b\u001bc\ud800d"), "a\ufffdb\ufffdc\ufffdd");
  assert.equal(escape("你好 🙂"), "你好 🙂");
});

test("numbers are short, and what is not given is left out", () => {
  assert.equal(attributes({ x: 1.23456, y: -0.001, fill: null, d: undefined, id: "a" }), ' x="1.23" y="0" id="a"');
});

test("a colour and its strength, whichever way the browser writes it", () => {
  assert.deepEqual(paintOf("#1a2b3c"), { colour: "#1a2b3c", alpha: 1 });
  assert.deepEqual(paintOf("rgb(255, 0, 16)"), { colour: "#ff0010", alpha: 1 });
  assert.deepEqual(paintOf("rgb(202 205 209)"), { colour: "#cacdd1", alpha: 1 });
  assert.deepEqual(paintOf("rgba(0, 0, 0, 0)"), { colour: "#000000", alpha: 0 });
  assert.deepEqual(paintOf("color(srgb 1 0.5 0 / 0.25)"), { colour: "#ff8000", alpha: 0.25 });
  assert.deepEqual(paintOf("transparent"), { colour: "#000000", alpha: 0 });
});

test("a hatch, a gradient and a clip are defined once; neighbours with one clip share a group", () => {
  const doc = new SvgDocument();
  const first = doc.hatch([[0, 8, 8, 0]], "#123456");
  assert.equal(doc.hatch([[0, 8, 8, 0]], "#123456"), first);
  assert.notEqual(doc.hatch([[0, 8, 8, 0]], "#654321"), first);
  const clip = doc.clip("M0 0h4v4h-4Z", [1, 0, 0, 1, 0, 0]);
  const inner = doc.clip("M0 0h2v2h-2Z", [1, 0, 0, 1, 0, 0], clip);
  for (const x of [1, 2]) doc.element("rect", { x }, { clip });
  doc.element("rect", { x: 3 }, { clip: inner });
  doc.element("text", { x: 4 }, { content: "&lt;" });
  const text = doc.toString({ width: 9.2, height: 3, background: "#fff", title: "a < b" });
  assert.equal(text.match(/<g /g).length, 2);
  assert.match(text, new RegExp(`<g clip-path="url\\(#${clip}\\)">\n<rect x="1"/>\n<rect x="2"/>\n</g>`));
  assert.match(text, new RegExp(`<clipPath id="${inner}" clip-path="url\\(#${clip}\\)">`));
  assert.match(text, /width="10" height="3" viewBox="0 0 10 3"/);
  assert.match(text, /<title>a &lt; b<\/title>/);
  assert.match(text, /<text x="4">&lt;<\/text>\n<\/svg>\n$/);
});
