// A text as the server's tree (viz/prose.py), drawn with templates of our own: whatever a text says,
// it is text.

import { html } from "lit-html";

export const prose = (nodes) => nodes.map(node);

const TEMPLATES = {
  h1: () => "",
  h2: (of) => html`<h3>${of}</h3>`,
  h3: (of) => html`<h4>${of}</h4>`,
  p: (of) => html`<p>${of}</p>`,
  ul: (of) => html`<ul>${of}</ul>`,
  ol: (of) => html`<ol>${of}</ol>`,
  li: (of) => html`<li>${of}</li>`,
  blockquote: (of) => html`<blockquote>${of}</blockquote>`,
  pre: (of, { info }) => html`<pre tabindex="0" aria-label=${info || "code"}><code>${of}</code></pre>`,
  code: (of) => html`<code>${of}</code>`,
  em: (of) => html`<em>${of}</em>`,
  strong: (of) => html`<strong>${of}</strong>`,
  hr: () => html`<hr>`,
  a: (of, { href }) => (/^https?:/.test(href) ? html`<a href=${href} target="_blank" rel="noopener noreferrer">${of}</a>` : html`<a href=${href}>${of}</a>`),
};

function node(each) {
  if (typeof each === "string") return each;
  if (each.tag === "table") return tableOf(each);
  const make = TEMPLATES[each.tag];
  return make ? make(prose(each.of), each) : prose(each.of);
}

// A rail is narrow: a row of a table is a card, each cell but the first under its column's name.
function tableOf({ of }) {
  const rows = (tag) => of.filter((part) => part.tag === tag).flatMap((part) => part.of);
  const head = rows("thead")[0]?.of ?? [];
  return html`<ul class="cards">${rows("tbody").map(({ of: cells }) => html`<li>${cells.map((cell, i) => i
    ? html`<p><small>${prose(head[i]?.of ?? [])}</small> ${prose(cell.of)}</p>`
    : html`<p><strong>${prose(cell.of)}</strong></p>`)}</li>`)}</ul>`;
}
