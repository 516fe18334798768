// Starts the page.
import { chat, keep, start } from "./chats.js";
import { find } from "./dom.js";
import { prepareKeys } from "./keys.js";
import { openSettings, preparePanel, showDefaults } from "./panel.js";
import { call, key } from "./server.js";
import { importFiles, prepareSidebar, showList } from "./sidebar.js";
import { now, open, refresh, send, setEditing, stop } from "./talk.js";
import { complain, toEnd } from "./view.js";
import { say, translate } from "./words.js";

const DRAFT = "quantkit.draft";  // of this tab
const message = find("message");
let system = "";                 // the package's system prompt

async function look() {
  try {
    const { data: [served] } = await (await call("v1/models")).json();
    find("model").textContent = document.title = served.id;
    now.room = served.meta.n_ctx;
    system = served.meta.system;
    showDefaults(served.meta);
    find("locked").hidden = true;
    complain("");
  } catch (error) {
    find("locked").hidden = error.status !== 401;
    complain(error.message);
  }
}

function changed() {
  chat.record.system ??= find("locked").hidden ? system : null;
  showList();
}

function ready() {
  changed();
  refresh();
  toEnd();
  (find("locked").hidden ? message : find("key")).focus();
}

function listen() {
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.removeItem(DRAFT);
    send(message.value);
  });
  find("locked").addEventListener("submit", (event) => {
    event.preventDefault();
    key.set(find("key").value);
    look().then(ready);
  });
  message.addEventListener("input", () => sessionStorage.setItem(DRAFT, message.value));
  find("stop").addEventListener("click", stop);
  find("new").addEventListener("click", () => open(null).then(() => message.focus()));
  find("cancel-edit").addEventListener("click", () => setEditing(null));
  find("open-settings").addEventListener("click", openSettings);
  find("open-shortcuts").addEventListener("click", () => find("shortcuts").showModal());
  find("title").addEventListener("change", () => {
    chat.record.title = find("title").value.trim();
    if (chat.record.turns.length) keep(chat.record);
  });
  find("title").addEventListener("blur", showList);
  // A file dropped beside a field would replace the page.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    importFiles([...event.dataTransfer.files]);
  });
  matchMedia("(min-width: 56rem)").addEventListener("change", () => {
    if (find("chats").matches(":popover-open")) find("chats").hidePopover();
  });
}

translate();
if (matchMedia("(pointer: coarse)").matches) message.placeholder = say("message");
preparePanel();
prepareSidebar();
prepareKeys();
listen();
message.value = sessionStorage.getItem(DRAFT) ?? "";
await look();
await start(changed, (record) => {
  if (now.coming) return;
  chat.record = record;
  refresh();
});
ready();
