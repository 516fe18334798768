// The settings: the system prompt of this conversation, and how answers are sampled.
import { chat, keep } from "./chats.js";
import { find, make } from "./dom.js";
import { say } from "./words.js";

const STORED = "quantkit.parameters";

// Name -> limits of its field. The server has the last word.
const FIELDS = {
  temperature: { min: 0, step: "any" },
  top_k: { min: 0, step: 1 },
  top_p: { min: 0, max: 1, step: "any" },
  min_p: { min: 0, max: 1, step: "any" },
  typical_p: { min: 0, max: 1, step: "any" },
  repeat_penalty: { min: 0.01, step: "any" },
  repeat_last_n: { min: -1, step: 1 },
  frequency_penalty: { min: -2, max: 2, step: "any" },
  presence_penalty: { min: -2, max: 2, step: "any" },
  seed: { min: -1, max: 4294967294, step: 1 },
  max_tokens: { min: -1, step: 1 },
};
const UNLIMITED = { seed: "random", max_tokens: "noLimit" };  // what -1 means

const thinking = find("thinking");
let switches = [];  // variables of the chat template

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {};
  }
}

// What a request says besides the conversation.
export function parameters() {
  const { thinking: thinks, ...values } = stored();
  const told = Object.fromEntries(switches.map((name) => [name, thinks === "on"]));
  return thinks && switches.length ? { ...values, chat_template_kwargs: told } : values;
}

function store(name, value) {
  const { [name]: before, ...others } = stored();
  try {
    localStorage.setItem(STORED, JSON.stringify(value === "" ? others : { ...others, [name]: value }));
  } catch {
    find("settings-error").textContent = say("storageNone");
  }
  mark();
}

// A dot on the button says that something differs from the package.
function mark() {
  const differs = Object.keys(stored()).length > 0;
  find("open-settings").classList.toggle("changed", differs);
  find("open-settings").setAttribute("aria-label", differs ? `${say("settings")} (${say("changed")})` : say("settings"));
}

function fill() {
  const values = stored();
  for (const name of Object.keys(FIELDS)) find(name).value = values[name] ?? "";
  thinking.value = values.thinking ?? "";
  find("system").value = chat.record.system ?? "";
  find("settings-error").textContent = "";
}

export function openSettings() {
  fill();
  find("settings").showModal();
}

// The fields, before the server is known.
export function preparePanel() {
  for (const [name, limits] of Object.entries(FIELDS)) {
    const field = make("input", { id: name, type: "number", inputmode: "decimal", ...limits });
    field.addEventListener("change", () => {
      const { min, max = Infinity, step } = limits;
      const value = field.valueAsNumber;
      const wrong = field.validity.badInput || value < min || value > max || (step === 1 && !Number.isInteger(value));
      if (field.value !== "" && wrong) field.value = stored()[name] ?? "";
      find("settings-error").textContent = field.validity.badInput || wrong ? say("invalid", { name: say(name) }) : "";
      if (!wrong) store(name, field.value === "" ? "" : value);
    });
    find("fields").append(make("label", {}, make("span", {}, say(name)), field));
  }
  thinking.addEventListener("change", () => store("thinking", thinking.value));
  find("system").addEventListener("input", (event) => { chat.record.system = event.target.value; });
  find("system").addEventListener("change", () => chat.record.turns.length && keep(chat.record));
  find("defaults").addEventListener("click", () => {
    localStorage.removeItem(STORED);
    fill();
    mark();
  });
  mark();
}

// What the served model has: the package's values stand in the empty fields.
export function showDefaults({ defaults, thinking: variables }) {
  for (const name of Object.keys(FIELDS)) {
    const value = defaults[name];
    find(name).placeholder = value === -1 && UNLIMITED[name] ? say(UNLIMITED[name]) : String(Number(value.toPrecision(6)));
  }
  switches = Object.keys(variables);
  find("thinks").hidden = switches.length === 0;
  const chosen = Object.values(variables).find((value) => value !== null);
  const said = chosen === undefined ? "" : ` (${say(chosen ? "thinkingOn" : "thinkingOff")})`;
  thinking.options[0].textContent = say("thinkingDefault") + said;
}
