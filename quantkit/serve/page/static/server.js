// Requests to the server that the page comes from.
import { say } from "./words.js";

const KEY = "quantkit.key";  // kept as long as the tab

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// A response that is no error. Addresses are relative: the server may stand behind a proxy's folder.
export async function call(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(say("unreachable"));
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Refused(response.status, body.error?.message ?? say("failed", { status: response.status }));
}

export async function post(path, body, options = {}) {
  return call(path, { method: "POST", body: JSON.stringify(body), ...options });
}

// The JSON of each server-sent event. Characters and lines may be split anywhere.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (held + value).split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: /, "");
        if (data !== "[DONE]") yield JSON.parse(data);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(say("answerLost"));
  } finally {
    reader.cancel().catch(() => {});  // it has already ended, or the rest is not wanted
  }
}
