// What the server makes of Markdown, as elements. The server allows few; the page allows no others whatever it says.
import { copyText, make } from "./dom.js";
import { post } from "./server.js";
import { say } from "./words.js";

const PLAIN = new Set(
  "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul".split(" "),
);
const CLASSES = new Set(
  ("left center right tex attribute builtin comment deleted function heading inserted keyword number string").split(" "),
);
const SCHEMES = new Set(["http:", "https:", "mailto:"]);

export async function rendered(text, told) {
  const { nodes } = await (await post("render", { content: text })).json();
  return build(nodes, told);
}

// *told* hears what happened to a copy.
export function build(nodes, told) {
  return nodes.map((node) => (typeof node === "string" ? node : element(node, told)));
}

function element([tag, attributes, children], told) {
  const inside = build(children, told);
  if (!PLAIN.has(tag)) return make("span", {}, ...inside);
  if (tag === "pre") return codeBlock(String(attributes.lang ?? ""), inside, told);
  const made = make(tag, {}, ...inside);
  if (CLASSES.has(attributes.class)) made.className = attributes.class;
  if (tag === "ol" && Number.isInteger(attributes.start)) made.start = attributes.start;
  if (tag === "a") link(made, String(attributes.href));
  // Wide tables and long lines scroll by themselves; the keyboard can reach them.
  return tag === "table" ? make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": say("table") }, made) : made;
}

function link(made, href) {
  if (!URL.canParse(href) || !SCHEMES.has(new URL(href).protocol)) return;
  made.href = href;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
}

function codeBlock(language, inside, told) {
  const code = make("code", {}, ...inside);
  const copy = make("button", {
    type: "button",
    class: "small",
    click: async () => told(say((await copyText(code.textContent)) ? "copied" : "copyFailed")),
  }, say("copy"));
  const head = make("div", { class: "code-head" }, make("span", {}, language), copy);
  return make("div", { class: "code" }, head, make("pre", { tabindex: "0" }, code));
}
