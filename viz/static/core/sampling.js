// How each token of a step was drawn, from the event `sample`: at trace level `sampling` with the
// likeliest before and after, and what each processor did to them. Pure: an event in, rows out.

const share = (candidate) => candidate.probability ?? (candidate.logprob === undefined || candidate.logprob === null ? null : Math.exp(candidate.logprob));

// [{req, token_id, text, logprob, rank, told, candidates, processors}]. A candidate: {token_id, text,
// before, after (0…1 or null), marks: per processor "masked" | "changed" | "", drawn}
export function samplingRows(events) {
  const rows = events.filter((event) => event.kind === "sample").flatMap((event) => event.data.rows);
  return rows.map((row) => {
    const { before = [], after = [], processors = [] } = row;
    const candidates = new Map();
    const see = (token_id, text) => {
      if (!candidates.has(token_id)) {
        candidates.set(token_id, { token_id, text, before: null, after: null, marks: [], drawn: token_id === row.token_id });
      }
      return candidates.get(token_id);
    };
    for (const each of before) see(each.token_id, each.text).before = share(each);
    for (const each of after) see(each.token_id, each.text).after = share(each);
    see(row.token_id, row.text);
    if (row.logprob !== null && row.logprob !== undefined) see(row.token_id, row.text).before ??= Math.exp(row.logprob);
    for (const each of candidates.values()) {
      each.marks = processors.map(({ token_ids, masked }) => (token_ids.includes(each.token_id) ? (masked ? "masked" : "changed") : ""));
    }
    return { ...row, told: before.length > 0, candidates: [...candidates.values()], processors };
  });
}

// Of a step whose arrays were captured, the ten likeliest are known without the level `sampling`:
// `top`: {rows, token_ids, logprobs} as recorded. Rows that tell their own are left as they are.
export function withTop(rows, batch, top, textOf) {
  const seen = new Map();
  return rows.map((row) => {
    const nth = seen.get(row.req) ?? 0;
    seen.set(row.req, nth + 1);
    if (row.told) return row;
    const i = batch.requests.indexOf(row.req);
    const own = [...top.rows.keys()].filter((at) => top.rows[at] >= batch.query_start_loc[i] && top.rows[at] < batch.query_start_loc[i + 1]);
    const at = own[nth];
    if (at === undefined) return row;
    const candidates = top.token_ids[at].map((token_id, k) => ({
      token_id, text: textOf(token_id), before: Math.exp(top.logprobs[at][k]), after: null, marks: [], drawn: token_id === row.token_id,
    }));
    if (!candidates.some(({ drawn }) => drawn)) candidates.push(...row.candidates);
    return { ...row, told: true, modelOnly: true, candidates };
  });
}

// The texts of token ids, as far as somebody said or asked them.
export function knownTexts(state) {
  const texts = new Map();
  for (const { tokens, texts: pieces } of Object.values(state.requests)) tokens.forEach((id, i) => pieces[i] && texts.set(id, pieces[i]));
  return (id) => texts.get(id) ?? "";
}

// A token of the batch in words: a draft that was not taken has no text of its own, but its id may
// have one elsewhere; else the id itself.
export function batchText(batch, i, textOf) {
  if (batch.slot_mapping[i] < 0) return "·"; // padding
  return batch.texts[i] || textOf(batch.input_ids[i]) || `#${batch.input_ids[i]}`;
}

export const PROCESSORS = {
  grammar: "tokens that the grammar does not allow here",
  allowed_token_ids: "only these tokens may be drawn",
  bad_words: "words that may not be completed",
  min_tokens: "the end may not come yet",
  logit_bias: "scores that the caller shifts",
  repetition_penalty: "what was said or asked already becomes less likely",
  frequency_penalty: "the more often it was said, the less likely",
  presence_penalty: "what was said once becomes less likely",
  temperature: "all scores divided: above 1 flatter, below 1 sharper",
  min_p: "at least this share of the likeliest one’s probability",
  top_k: "only the k likeliest",
  top_p: "the likeliest that together reach p",
};
