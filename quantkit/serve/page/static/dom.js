// Elements made by hand. Text goes in as text: nothing on this page parses HTML.

export const find = (id) => document.getElementById(id);

// An attribute that is a function listens to the event of its name; false and undefined leave an attribute out.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Without a secure context (a plain address on a network) there is no clipboard but the old one.
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not allowed: the old way may be
    }
  }
  const focused = document.activeElement;
  const area = make("textarea", { class: "unseen", readonly: "", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}
