// The file of a conversation, as /save of `quantkit chat` writes it and /load reads it (quantkit/run/transcript.py).
import { say } from "./words.js";

const SCHEMA = 1;
const LARGEST = 64 * 2 ** 20;
export const THOUGHT = "reasoning_content";

// The turns as the API and files have them: without what only the page knows.
export function plain(turns) {
  return turns.map(({ role, content, [THOUGHT]: thought }) => ({ role, content, ...(thought ? { [THOUGHT]: thought } : {}) }));
}

export function toFile({ system, turns }, model) {
  const opening = system ? [{ role: "system", content: system }] : [];
  return `${JSON.stringify({ schema: SCHEMA, model, messages: [...opening, ...plain(turns)] }, null, 1)}\n`;
}

// The system prompt and the turns of a file; throws an Error that says what is wrong with it.
export async function readFile(file) {
  const { name } = file;
  if (file.size > LARGEST) throw new Error(say("fileLarge", { name }));
  const utf8 = new TextDecoder("utf-8", { fatal: true });  // file.text() would put other characters for wrong bytes
  let text;
  try {
    text = utf8.decode(await file.arrayBuffer());
  } catch {
    throw new Error(say("fileNotJson", { name }));
  }
  return fromFile(text, name);
}

export function fromFile(text, name) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error(say("fileNotJson", { name }));
  }
  if (!Array.isArray(value?.messages)) throw new Error(say("fileNoList", { name }));
  if (value.schema !== SCHEMA) {
    const found = typeof value.schema === "object" ? "–" : String(value.schema ?? "–").slice(0, 40);
    throw new Error(say("fileSchema", { name, found, wanted: SCHEMA }));
  }
  const messages = value.messages;
  const opened = messages[0]?.role === "system";
  messages.forEach((message, index) => {
    const problem = wrong(message, index, opened);
    if (problem) throw new Error(say("fileMessage", { name, number: index + 1, problem }));
  });
  const turns = plain(opened ? messages.slice(1) : messages);
  if (turns.length % 2) throw new Error(say("fileMessage", { name, number: messages.length, problem: say("lastRole") }));
  return { system: opened ? messages[0].content : "", turns };
}

function wrong(message, index, opened) {
  const fields = message && typeof message === "object" && !Array.isArray(message) ? Object.keys(message) : [];
  const others = fields.filter((name) => name !== THOUGHT).sort();
  if (others.join() !== "content,role") return say("wrongFields");
  const { role, content, [THOUGHT]: thought = "" } = message;
  const wanted = ["user", "assistant"][(index - (opened ? 1 : 0)) % 2];
  if (!(opened && index === 0) && role !== wanted) return say("wrongRole", { role: wanted });
  if (typeof content !== "string") return say("wrongContent");
  if (typeof thought !== "string" || (thought && role !== "assistant")) return say("wrongThought");
  if (!content.isWellFormed() || !thought.isWellFormed()) return say("wrongUnicode");
  return "";
}
