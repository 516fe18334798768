// Conversations in the browser's own database, and news of them to other tabs. What fails is said, never hidden.

const TABLE = "conversations";
const channel = new BroadcastChannel("quantkit");

let opening = null;

function database() {
  opening ??= new Promise((done, failed) => {
    const request = indexedDB.open("quantkit", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
  return opening;
}

async function transaction(mode, work) {
  const opened = await database();
  return new Promise((done, failed) => {
    const running = opened.transaction(TABLE, mode);
    const request = work(running.objectStore(TABLE));
    running.oncomplete = () => done(request.result);
    running.onabort = running.onerror = () => failed(running.error ?? request.error);
  });
}

export const all = () => transaction("readonly", (table) => table.getAll());
export const get = (id) => transaction("readonly", (table) => table.get(id));

export async function put(conversation) {
  const copy = structuredClone(conversation);
  await transaction("readwrite", (table) => table.put(copy));
  channel.postMessage(conversation.id);
}

export async function remove(id) {
  await transaction("readwrite", (table) => table.delete(id));
  channel.postMessage(id);
}

// Another tab has changed the conversation with this id.
export function onNews(tell) {
  channel.addEventListener("message", (event) => tell(event.data));
}

export const isFull = (error) => error?.name === "QuotaExceededError";
