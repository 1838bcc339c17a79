// Reasons in words. The enum names come from minivllm/trace/events.py, and a test holds this list
// to that one.

export const REASONS = {
  no_budget: "the token budget of this step is used up",
  no_free_blocks: "too few KV blocks are free for the whole sequence",
  max_num_seqs: "as many requests run as may run at once",
  preempted_this_step: "somebody was preempted in this step, so nobody is admitted",
  chunking_off: "chunked prefill is off and the prompt is larger than the budget left",
  larger_than_pool: "the sequence needs more blocks than the whole pool has",
  long_prefill_threshold: "one prompt may run only so many tokens in a step",
  max_model_len: "the context window has no more room",
  preempted: "it was preempted in this step",
  static_batch: "batching is static: nobody joins until the whole batch has ended",
  fragmented: "enough blocks are free, but too few of them are neighbours",
  waiting_for_grammar: "its grammar is still being compiled; it blocks nobody",
  nothing_waits: "nothing waits",
  not_cached: "no block holds this content now",
  last_token: "the last token must run, to give logits, so its block is not reused",
  partial_block: "only full blocks are cached",
  prompt_logprobs: "logprobs of the whole prompt are wanted, so all of it must run",
  not_executed: "the tokens were scheduled but will not be run",
  draft_mismatch: "the model says something else there than was guessed",
  output_ended: "the output ended before it",
  client: "the caller cancelled it or went away",
  stop_string: "its text contains one of its stop strings",
  shutdown: "the engine shuts down",
  timeout: "it took longer than one request may",
  tensors_limit: "the arrays of one step may have only so many bytes",
  tensors_full: "the arrays of the whole run have all the bytes they may have",
  not_written: "the disk takes no more arrays",
  no_model: "no model runs, so there are no arrays",
  nothing_ran: "no token ran in that step",
  step_passed: "that step had begun before the wish for its arrays came",
};

// A reason in words; one that a later version added is shown as it is.
export function explain(reason) {
  return REASONS[reason] ?? `“${reason}”, a word of a later version`;
}

// As a sentence begins. A request's name stays as it is: r4 is no R4.
export function sentence(text) {
  return /^[a-z]+(?![\w-])/.test(text) ? `${text[0].toUpperCase()}${text.slice(1)}` : text;
}

export function plural(n, one, many = `${one}s`) {
  return `${n} ${n === 1 ? one : many}`;
}

const are = (n) => `${n} ${n === 1 ? "is" : "are"}`;

// "r1", "r1 and r2", "r1, r2 and r3"; a long list is cut to its first and a count.
export function listed(names, most = 6) {
  const list = names.map(String);
  if (list.length > most) return `${list.slice(0, most - 1).join(", ")} and ${list.length - most + 1} more`;
  return list.length < 2 ? list.join("") : `${list.slice(0, -1).join(", ")} and ${list[list.length - 1]}`;
}

// Why a waiting request waits, short, with its numbers: what stands under its chip.
export function waitText(req, wait, config, facts) {
  const victim = facts.preempted.get(req);
  if (victim) return `preempted for ${victim.for === req ? "itself" : victim.for} in this step`;
  if (!wait) return "not looked at yet";
  if (wait.behind) return `behind ${wait.behind} (${config.policy})`;
  switch (wait.reason) {
    case "no_budget":
      return `the budget of ${config.max_num_batched_tokens} is used up`;
    case "no_free_blocks":
      return `needs ${plural(wait.need, "block")}, ${are(wait.have)} free`;
    case "max_num_seqs":
      return `${plural(config.max_num_seqs, "request")} run, more may not`;
    case "preempted_this_step":
      return "nobody is admitted in a step that preempts";
    case "chunking_off":
      return `its ${wait.need} tokens exceed the ${wait.have} left; chunking is off`;
    case "static_batch":
      return `${plural(wait.need, "request")} of the batch must end first`;
    case "fragmented":
      return `needs ${plural(wait.need, "neighbouring block")}, at most ${are(wait.have)} free in a row`;
    case "waiting_for_grammar":
      return "its grammar is being compiled; it blocks nobody";
    default:
      return explain(wait.reason);
  }
}

// Why budget was left over.
export function unusedText(facts, config) {
  const { ledger, stop, skipped } = facts;
  if (!ledger || ledger.used >= ledger.budget) return "";
  const head = stop ? skipped.get(stop.head) : null;
  switch (ledger.unused_reason) {
    case "preempted_this_step":
      return `${listed([...facts.preempted.keys()])} was preempted in this step`;
    case "no_free_blocks":
      return head
        ? `${stop.head} needs ${plural(head.need, "block")}, ${are(head.have)} free`
        : REASONS.no_free_blocks;
    case "max_num_seqs":
      return `${plural(config.max_num_seqs, "request")} run, more may not`;
    default:
      return ledger.unused_reason ? explain(ledger.unused_reason) : "";
  }
}
