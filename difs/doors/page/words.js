// What all parts of the page share: asking the service, and numbers in words.

export const API = "/difs/v1";
export const $ = (id) => document.getElementById(id);

export function seconds(s) {
  if (s >= 90) return `${Math.round(s / 60)} min`;
  return `${s < 0.095 ? s.toFixed(2) : s < 9.95 ? s.toFixed(1) : Math.round(s)} s`;
}

export const steps = (n) => (n === 1 ? "1 step" : `${n} steps`);
export const hundredths = (quality) => Math.round(quality * 100);

/** An error of the service as a sentence with what to do. */
export function words(error) {
  const again = error.retry_after_s ? ` Try again in ${seconds(Math.max(1, error.retry_after_s))}.` : "";
  const limit = error.limit && !error.message.includes(error.limit) ? ` Possible: ${error.limit}.` : "";
  return `${error.message[0].toUpperCase()}${error.message.slice(1)}.${limit}${again}`;
}

/** JSON to a tree. Seeds have 64 bits and do not fit into a number of JavaScript: they become text. */
export function read(text) {
  return JSON.parse(text.replace(/"seed":(\d+)/g, '"seed":"$1"'));
}

/** A tree to JSON, with the digits of a seed as a number. */
export function write(tree, seed) {
  const text = JSON.stringify(tree);
  return seed ? text.replace(/}$/, `,"seed":${seed}}`) : text;
}

export async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(API + path, body === undefined ? {} : { method: "POST", body });
  } catch {
    throw new Error("The service does not answer. Is it running (difs serve --http)?");
  }
  const told = read(await answer.text());
  if (!answer.ok) throw new Error(words(told.error));
  return told;
}

/** An element with text and attributes; never from HTML. */
export function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function button(text, work) {
  const made = element("button", text, { type: "button" });
  made.addEventListener("click", work);
  return made;
}

export function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
