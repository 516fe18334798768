// The list of conversations: search, open, delete, import, export.
import { adopt, chat, latestFirst, titleOf } from "./chats.js";
import { find, make } from "./dom.js";
import { now, open, remove } from "./talk.js";
import { readFile, toFile } from "./transcript.js";
import { complain, status } from "./view.js";
import { say } from "./words.js";

const list = find("list"), search = find("search");

export function showList() {
  const wanted = search.value.trim().toLowerCase();
  const found = latestFirst().filter((record) => contains(record, wanted));
  list.replaceChildren(...found.map(item));
  find("none").textContent = found.length ? "" : say(wanted ? "searchNone" : "noChats");
  if (document.activeElement !== find("title")) find("title").value = titleOf(chat.record);
}

function contains(record, wanted) {
  return !wanted || [titleOf(record), ...record.turns.map((turn) => turn.content)].some((text) => text.toLowerCase().includes(wanted));
}

function item(record) {
  const title = titleOf(record);
  const current = record.id === chat.record.id && "true";
  const leave = () => find("chats").matches(":popover-open") && find("chats").hidePopover();
  return make("li", {},
    make("button", { type: "button", class: "chat", "aria-current": current, dir: "auto", click: () => { leave(); open(record); } }, title),
    make("button", { type: "button", class: "small", "aria-label": say("deleteChat", { title }), click: () => remove(record) }, "×"),
  );
}

// Open the conversation that stands so many places further down the list.
export function step(places) {
  const order = latestFirst();
  const at = order.findIndex((record) => record.id === chat.record.id);
  const next = order[at < 0 ? 0 : at + places];
  if (next) open(next);
}

export async function importFiles(files) {
  for (const file of files) {
    try {
      await open(await adopt(await readFile(file)));
      status(say("fileRead", { name: file.name }));
    } catch (error) {
      complain(error.message);
      return;
    }
  }
}

function exportFile() {
  if (!chat.record.turns.length || now.coming) return status(say("exportNothing"));
  const name = titleOf(chat.record).replace(/[^\p{L}\p{N}-]+/gu, "-").slice(0, 40).replace(/^-|-$/g, "") || "conversation";
  const url = URL.createObjectURL(new Blob([toFile(chat.record, find("model").textContent)], { type: "application/json" }));
  make("a", { href: url, download: `${name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

export function prepareSidebar() {
  search.addEventListener("input", showList);
  find("export").addEventListener("click", exportFile);
  find("import").addEventListener("click", () => find("file").click());
  find("file").addEventListener("change", async () => {
    await importFiles([...find("file").files]);
    find("file").value = "";
  });
}
