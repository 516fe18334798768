// The page's words in the browser's language.
import { STRINGS } from "./strings.js";

const wanted = navigator.languages.map((name) => name.toLowerCase().split("-")[0]);
const language = wanted.find((name) => Object.hasOwn(STRINGS, name)) ?? "en";

export function say(key, values = {}) {
  return STRINGS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// Fill in what the HTML names: text, labels for screen readers, placeholders.
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : language;
  for (const [name, put] of [
    ["say", (element, text) => { element.textContent = text; }],
    ["label", (element, text) => { element.setAttribute("aria-label", text); }],
    ["tip", (element, text) => { element.title = text; }],
    ["placeholder", (element, text) => { element.placeholder = text; }],
  ]) {
    for (const element of document.querySelectorAll(`[data-${name}]`)) put(element, say(element.dataset[name]));
  }
}
