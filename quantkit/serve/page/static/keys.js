// The keyboard: what a key does, and the list that tells so.
import { chat } from "./chats.js";
import { find, make } from "./dom.js";
import { openSettings } from "./panel.js";
import { step } from "./sidebar.js";
import { now, open, regenerate, remove, setEditing, stop } from "./talk.js";
import { say } from "./words.js";

// Keys, what they do in words, and the function; without one, the message box or the browser does it.
const SHORTCUTS = [
  ["Enter", "keySend"],
  ["Shift+Enter", "keyLine"],
  ["Escape", "keyStop", () => (now.coming ? stop() : now.editing && setEditing(null))],
  ["ArrowUp", "keyEdit"],
  ["Ctrl+Shift+O", "keyNew", () => open(null)],
  ["Ctrl+Shift+G", "keyRegenerate", () => regenerate()],
  ["Ctrl+K", "keySearch", () => {
    if (find("search").checkVisibility() === false) find("chats").showPopover();
    find("search").focus();
  }],
  ["Alt+ArrowDown", "keyChats", () => step(1)],
  ["Alt+ArrowUp", "keyChats", () => step(-1)],
  ["Ctrl+Shift+Backspace", "keyDelete", () => chat.record.turns.length && remove(chat.record)],
  ["Ctrl+,", "keySettings", () => openSettings()],
  ["Ctrl+/", "keyShortcuts", () => find("shortcuts").showModal()],
];
const LETTERS = /^[A-Z]$/;

function pressed(event) {
  const key = LETTERS.test(event.key.toUpperCase()) ? event.key.toUpperCase() : event.key;
  const shift = event.shiftKey && (key.length > 1 || LETTERS.test(key));  // "/" needs Shift on many keyboards
  return [(event.ctrlKey || event.metaKey) && "Ctrl", event.altKey && "Alt", shift && "Shift", key].filter(Boolean).join("+");
}

function onKey(event) {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  const [, , act] = SHORTCUTS.find(([keys]) => keys === pressed(event)) ?? [];
  if (!act || (event.key === "Escape" && document.querySelector(":popover-open"))) return;
  event.preventDefault();
  act();
}

// In the message box: send, and edit the last question.
function onMessageKey(event) {
  // Enter also ends the composition of a Chinese word; some browsers show that only by the code 229.
  if (event.isComposing || event.keyCode === 229 || event.ctrlKey || event.altKey || event.metaKey) return;
  const touch = matchMedia("(pointer: coarse)").matches;  // no Shift there, so Enter is a new line
  if (event.key === "Enter" && !event.shiftKey && !touch) {
    event.preventDefault();
    find("form").requestSubmit();
  }
  const last = chat.record.turns.at(-2);
  if (event.key === "ArrowUp" && !event.target.value && last && !now.coming) {
    event.preventDefault();
    setEditing(last);
  }
}

export function prepareKeys() {
  document.addEventListener("keydown", onKey);
  find("message").addEventListener("keydown", onMessageKey);
  for (const [keys, what] of SHORTCUTS) {
    const shown = keys.replace("ArrowUp", "↑").replace("ArrowDown", "↓").replace("Escape", "Esc").split("+");
    const caps = shown.flatMap((name, index) => [index ? "+" : "", make("kbd", {}, name)]);
    find("keys").append(make("dt", {}, ...caps), make("dd", {}, say(what)));
  }
}
