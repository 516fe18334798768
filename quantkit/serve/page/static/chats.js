// The conversations of this browser, and the one on the screen.
import * as store from "./store.js";
import { complain, status } from "./view.js";
import { say } from "./words.js";

const CURRENT = "quantkit.current";  // of this tab
const TITLE = 60;                    // characters

export const records = new Map();    // id -> conversation
export const chat = { record: blank() };
let tell = () => {};

// id; title ("" for the first question); system prompt (null for the model's); turns; how many of them are forgotten;
// tokens used; when it changed.
function blank() {
  const id = `${Date.now().toString(36)}-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  return { id, title: "", system: null, turns: [], forgotten: 0, used: 0, changed: 0 };
}

export function titleOf(record) {
  const first = record.turns[0]?.content.trim().split("\n")[0] ?? "";
  return record.title || Array.from(first).slice(0, TITLE).join("") || say("newChat");
}

export const latestFirst = () => [...records.values()].sort((a, b) => b.changed - a.changed);

// *changed* is called when the list has changed, *reopened* when another tab has changed the one on the screen.
export async function start(changed, reopened) {
  tell = changed;
  try {
    for (const record of await store.all()) records.set(record.id, record);
  } catch {
    complain(say("storageNone"));
  }
  choose(records.get(sessionStorage.getItem(CURRENT)) ?? blank());
  store.onNews(async (id) => {
    const record = await store.get(id).catch(() => undefined);
    if (record) records.set(id, record);
    else records.delete(id);
    if (record && id === chat.record.id) reopened(record);
    tell();
  });
  tell();
}

export function choose(record) {
  chat.record = record;
  sessionStorage.setItem(CURRENT, record.id);
  tell();
}

export const chooseNew = () => choose(blank());

// Keep a conversation that has changed; one without turns is not kept.
export async function keep(record) {
  record.changed = Date.now();
  if (record.turns.length) records.set(record.id, record);
  else records.delete(record.id);
  tell();
  try {
    await (record.turns.length ? store.put(record) : store.remove(record.id));
  } catch (error) {
    complain(say(store.isFull(error) ? "storageFull" : "storageNone"));
  }
}

export async function forget(record, restored) {
  records.delete(record.id);
  tell();
  await store.remove(record.id).catch(() => complain(say("storageNone")));
  status(say("deletedChat", { title: titleOf(record) }), async () => {
    await keep(record);
    restored(record);
  });
}

// A conversation from a file.
export async function adopt({ system, turns }) {
  const record = { ...blank(), system, turns };
  await keep(record);
  return record;
}
