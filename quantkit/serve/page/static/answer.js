// One answer of the model, from the request to its last piece.
import { events, post } from "./server.js";
import { plain, THOUGHT } from "./transcript.js";
import { say } from "./words.js";

// Fill the last turn of *record* and call *on* with what comes: text, thought, forgotten, used. The answer's note is why
// it is not whole. Throws if it breaks off; what came until then stays. With *further* the answer is there, and goes on.
export async function receive(record, parameters, signal, on, further = false) {
  const answer = record.turns.at(-1);
  const before = further ? answer.stats?.tokens ?? 0 : 0;
  const turns = plain(record.turns.slice(record.forgotten, further ? undefined : -1));
  const messages = [{ role: "system", content: record.system ?? "" }, ...turns];
  const options = { stream: true, stream_options: { include_usage: true }, truncation: "auto" };
  if (further) options.continue_final_message = true;
  const response = await post("v1/chat/completions", { messages, ...options, ...parameters }, { signal });
  let why = null, since = null, timed = false;
  answer.note = "stopped";  // until the end is there
  for await (const { choices, error, usage, timings, truncated_messages: dropped } of events(response)) {
    if (error) throw new Error(error.message);
    const { content: piece, [THOUGHT]: thought } = choices[0]?.delta ?? {};
    if (piece || thought) since ??= performance.now();
    if (thought) {
      answer[THOUGHT] = (answer[THOUGHT] ?? "") + thought;
      on.thought(thought);
    }
    if (piece) {
      answer.content += piece;
      on.text(piece);
    }
    if (dropped) on.forgotten(dropped);
    if (timings) timed = true;
    if (timings) answer.stats = { tokens: before + timings.predicted_n, rate: timings.predicted_per_second };
    if (usage) {
      on.used(usage.total_tokens);
      // A server on a network gives no timings.
      const seconds = (performance.now() - since) / 1000;
      const rate = seconds > 0 ? usage.completion_tokens / seconds : 0;
      if (!timed) answer.stats = { tokens: before + usage.completion_tokens, rate };
    }
    why = choices[0]?.finish_reason ?? why;
  }
  if (why === null) throw new Error(say("answerLost"));
  if (!answer.content && !answer[THOUGHT]) throw new Error(say("answerEmpty"));
  answer.note = why === "length" ? "cutOff" : "";
}
