// The conversation on the screen. A turn keeps its element, so nothing flickers when the list is shown again.
import { copyText, find, make } from "./dom.js";
import { rendered } from "./markdown.js";
import { THOUGHT } from "./transcript.js";
import { say } from "./words.js";

const log = find("log");
const scroller = find("scroller");
const articles = new WeakMap();  // turn -> its element
const waiting = new WeakSet();   // turns that are being rendered
let queue = Promise.resolve();   // one text after another

export function status(text, undo = null) {
  find("status").textContent = text;
  const button = find("undo");
  button.hidden = undo === null;
  button.onclick = undo && (() => { status(""); undo(); });
  if (undo && document.activeElement === document.body) button.focus();  // the button that was pressed is gone
}

export function complain(text) {
  const end = isAtEnd();
  find("error").textContent = text;
  if (end) toEnd();
}

const isAtEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
export const toEnd = () => { scroller.scrollTop = scroller.scrollHeight; };

// Change something without moving what is read: who is at the end stays there.
function keeping(change) {
  const end = isAtEnd();
  change();
  if (end) toEnd();
}

// Show the turns; *act* is called with the name of a button and its turn.
export function show({ turns, forgotten }, act) {
  const elements = turns.map((turn) => article(turn, act));
  for (const [at, turn] of turns.entries()) {
    const button = elements[at].querySelector(".continue");
    if (button) button.hidden = !turn.note || at < turns.length - 1;
  }
  if (forgotten && elements[forgotten]) {
    elements.splice(forgotten, 0, make("p", { class: "left-out" }, say("forgotten")));
  }
  log.replaceChildren(...elements);
}

function article(turn, act, coming = false) {
  const there = articles.get(turn);
  if (there) {
    if (there.classList.contains("raw") && !there.classList.contains("coming")) finish(turn);
    return there;
  }
  const mine = turn.role === "user";
  const made = make("article", { class: `turn ${turn.role}`, "aria-label": say(mine ? "you" : "model"), dir: "auto" });
  made.append(make("div", { class: "said" }, turn.content));
  const button = (name, click) => make("button", { type: "button", class: `small ${name}`, click }, say(name));
  const copy = async () => status(say((await copyText(turn.content)) ? "copied" : "copyFailed"));
  const others = mine ? ["edit", "delete"] : ["regenerate", "continue"];
  made.append(
    make("p", { class: "note" }),
    make("div", { class: "actions" }, button("copy", copy), ...others.map((name) => button(name, () => act(name, turn)))),
  );
  articles.set(turn, made);
  if (!mine) {
    made.classList.add("raw");
    if (!coming) finish(turn);
  }
  return made;
}

// The answer is complete: say how it ended, and let the server render it. Until then, and if it cannot, it stays text.
export function finish(turn) {
  const made = articles.get(turn);
  if (!turn.content && !turn[THOUGHT]) return;
  made.classList.remove("coming");
  const { tokens, rate } = turn.stats ?? {};
  const facts = [turn.note && say(turn.note), tokens && say("speed", { tokens, rate: rate.toFixed(1) })];
  made.querySelector(".note").textContent = facts.filter(Boolean).join(" ");
  if (turn[THOUGHT]) thoughts(made, say("thought")).textContent = turn[THOUGHT];
  if (waiting.has(turn)) return;
  waiting.add(turn);
  queue = queue.then(() => rendered(turn.content, status)).then((nodes) => {
    keeping(() => made.querySelector(".said").replaceChildren(...nodes));
    made.classList.remove("raw");
  }).catch(() => {}).then(() => waiting.delete(turn));
}

// The element of an answer that is coming.
export function begin(turn, act) {
  const made = article(turn, act, true);
  made.classList.add("coming");
  if (turn[THOUGHT]) thoughts(made, say("thoughtNow")).textContent = turn[THOUGHT];
  const said = made.querySelector(".said"), note = made.querySelector(".note");
  const since = Date.now();
  const wait = () => {
    const seconds = Math.round((Date.now() - since) / 1000);
    if (seconds > 0) note.textContent = say("waiting", { seconds });
  };
  const clock = setInterval(wait, 1000);
  // Once per frame: a fast model says more pieces than the browser can lay out one by one.
  let held = { text: "", thought: "" }, frame = 0;
  const flush = () => keeping(() => {
    frame = 0;
    clearInterval(clock);
    note.textContent = "";
    if (held.thought) thoughts(made, say("thoughtNow")).append(held.thought);
    if (held.text) said.append(held.text);
    held = { text: "", thought: "" };
  });
  const add = (kind) => (piece) => {
    held[kind] += piece;
    frame ||= requestAnimationFrame(flush);
  };
  const end = () => {
    cancelAnimationFrame(frame);
    flush();
  };
  return { text: add("text"), thought: add("thought"), end };
}

// The folded thoughts above an answer.
function thoughts(made, title) {
  let folded = made.querySelector(".thought");
  if (!folded) {
    folded = make("details", { class: "thought" }, make("summary"), make("div"));
    made.prepend(folded);
  }
  folded.querySelector("summary").textContent = title;
  return folded.querySelector("div");
}

export function mark(turn) {
  log.querySelector(".edited")?.classList.remove("edited");
  if (turn) articles.get(turn)?.classList.add("edited");
}
