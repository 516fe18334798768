// What can be done with a conversation: ask, stop, regenerate, edit, delete, and undo that.
import { receive } from "./answer.js";
import { chat, choose, chooseNew, forget, keep } from "./chats.js";
import { find } from "./dom.js";
import { parameters } from "./panel.js";
import { THOUGHT } from "./transcript.js";
import * as view from "./view.js";
import { say } from "./words.js";

const SAVED_EVERY = 1000;  // milliseconds between two copies of an answer that is coming

const message = find("message");
export const now = { coming: null, editing: null, room: 0 };

function setComing(coming) {
  now.coming = coming;
  find("send").hidden = coming !== null;
  find("stop").hidden = coming === null;
  find("log").setAttribute("aria-busy", String(coming !== null));
}

export function refresh() {
  view.show(chat.record, act);
  const { used } = chat.record;
  find("used").textContent = used && now.room ? say("used", { used, room: now.room }) : "";
}

export function setEditing(turn) {
  now.editing = turn;
  view.mark(turn);
  find("editing").hidden = turn === null;
  message.value = turn ? turn.content : "";
  message.focus();
}

export async function stop() {
  now.coming?.controller.abort();
  await now.coming?.done;
}

// Open another conversation; the answer that is coming ends.
export async function open(record) {
  await stop();
  if (record) choose(record);
  else chooseNew();
  if (now.editing) setEditing(null);
  view.complain("");
  view.status("");
  refresh();
  view.toEnd();
}

export async function remove(record) {
  const shown = record === chat.record;
  if (shown) await open(null);
  await forget(record, open);
}

// What was typed: a new question, or another instead of the one that is edited.
export async function send(text) {
  if (now.coming || !text.trim()) return;
  const at = now.editing ? chat.record.turns.indexOf(now.editing) : -1;
  setEditing(null);
  if (at < 0) await ask(text, chat.record.turns.length);
  else await ask(text, at, "replaced");
}

export async function regenerate(turn = chat.record.turns.at(-1)) {
  await stop();
  const at = chat.record.turns.indexOf(turn);
  if (at > 0) await ask(chat.record.turns[at - 1].content, at - 1, "regenerated");
}

// Go on with the last answer, which was stopped or cut off.
export async function goOn(turn) {
  const at = chat.record.turns.indexOf(turn);
  if (at < 1 || at < chat.record.turns.length - 1 || !turn.note) return;
  await ask(chat.record.turns[at - 1].content, at - 1, "", turn);
}

async function act(name, turn) {
  await stop();
  const at = chat.record.turns.indexOf(turn);
  if (at < 0) return;
  if (name === "continue") await goOn(turn);
  if (name === "regenerate") await regenerate(turn);
  if (name === "edit") setEditing(turn);
  if (name === "delete") {
    const undo = undoing(chat.record);
    if (turn === now.editing) setEditing(null);
    chat.record.turns = chat.record.turns.toSpliced(at, 2);
    if (at < chat.record.forgotten) chat.record.forgotten -= 2;
    chat.record.used = 0;  // not known until the next answer
    await keep(chat.record);
    refresh();
    view.status(say("deletedTurn"), undo);
  }
}

// A function that brings the conversation back as it is now.
function undoing(record) {
  const { turns, forgotten, used } = record;
  return async () => {
    await stop();
    Object.assign(record, { turns, forgotten, used });
    await keep(record);
    if (record === chat.record) refresh();
  };
}

// A cut answer as it goes on: half a character at its end is made anew.
function resumed(cut) {
  const whole = (text) => text.replace(/\ufffd+$/, "");
  const inThought = !cut.content && cut[THOUGHT];
  return { ...cut, content: whole(cut.content), ...(inThought ? { [THOUGHT]: whole(cut[THOUGHT]) } : {}) };
}

// Ask in place of everything from *at* on; *done* says what that replaced, *cut* is an answer that goes on.
async function ask(text, at, done = "", cut = null) {
  const coming = { controller: new AbortController() };
  setComing(coming);
  coming.done = answered(text, at, done, coming.controller, cut);
  await coming.done;
}

async function answered(text, at, done, controller, cut) {
  const record = chat.record;
  const { turns, forgotten, used } = record;
  const undo = undoing(record);
  const answer = cut ? resumed(cut) : { role: "assistant", content: "" };
  record.turns = [...turns.slice(0, at), cut ? turns[at] : { role: "user", content: text }, answer];
  record.forgotten = Math.min(forgotten, at);
  view.complain("");
  view.status("");
  const live = view.begin(answer, act);
  refresh();
  view.toEnd();
  let saved = 0;
  const came = (show) => (piece) => {
    show(piece);
    if (Date.now() - saved < SAVED_EVERY) return;
    saved = Date.now();
    keep(record);
  };
  try {
    await receive(record, parameters(), controller.signal, {
      text: came(live.text),
      thought: came(live.thought),
      forgotten: (count) => { record.forgotten += count; },
      used: (tokens) => { record.used = tokens; },
    }, cut !== null);
  } catch (reason) {
    if (!controller.signal.aborted) {
      answer.note = "answerLost";
      view.complain(reason.message);
    }
  }
  live.end();
  if (answer.content || answer[THOUGHT]) {
    view.finish(answer);
    if (done) view.status(say(done), undo);
    else view.status(answer.note === "stopped" ? say("stopped") : "");
  } else {
    // A question without an answer would be followed by another question, which templates reject.
    Object.assign(record, { turns, forgotten, used });
    if (done !== "regenerated") message.value ||= text;
  }
  await keep(record);
  setComing(null);
  refresh();
  if (document.activeElement === document.body || document.activeElement === find("stop")) message.focus();
}
