// This browser's pictures: kept in IndexedDB with how they came to be, shown as a gallery.

import { $, button, element, hundredths, seconds, steps } from "./words.js";

const KEPT = 200; // pictures; the oldest go first
const SMALL = 160; // pixels: a picture up to this side is shown as it is, not smoothed

const shelf = new Promise((resolve, reject) => {
  const opening = indexedDB.open("difs", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("pictures", { keyPath: "key", autoIncrement: true });
  opening.onsuccess = () => resolve(opening.result);
  opening.onerror = () => reject(new Error("This browser keeps no pictures here: a private window, or a full disk."));
});
shelf.catch(() => {}); // told when it is used

const settled = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

const store = async (mode) => (await shelf).transaction("pictures", mode).objectStore("pictures");

export const kept = async () => settled((await store("readonly")).getAll());

/** Keep the pictures of a job that is done; `asked` is its request. Returns the records. */
export async function keep(told, asked) {
  const { plan, timings, images } = told.result;
  const records = [];
  for (const image of images) {
    const record = {
      prompt: asked.prompt, negative: asked.negative_prompt, lora: asked.overrides.adapters?.[0].name,
      blob: await (await fetch(image.url)).blob(), seed: image.seed, seconds: timings.total_s, predicted: plan.prediction.total_s,
      variant: plan.variant, steps: plan.steps, guidance: plan.guidance_scale, sampler: plan.sampler, device: plan.device,
      quality: plan.expected_quality, size: `${image.width}x${image.height}`, reason: plan.reason, notes: told.result.notes,
    };
    records.push(record);
    record.key = await settled((await store("readwrite")).add(record));
  }
  const keys = await settled((await store("readonly")).getAllKeys());
  for (const key of keys.slice(0, -KEPT)) (await store("readwrite")).delete(key);
  return records;
}

export function picture(record) {
  const image = element("img", undefined, { alt: record.prompt });
  record.url ??= URL.createObjectURL(record.blob);
  image.src = record.url;
  const [width, height] = record.size.split("x").map(Number);
  if (Math.max(width, height) <= SMALL) image.classList.add("small");
  return image;
}

function facts(record) {
  const good = record.quality === undefined ? "" : `, quality ${hundredths(record.quality)}`;
  const found = [
    `${seconds(record.seconds)}, ${seconds(record.predicted)} were predicted${good}.`,
    `${record.variant}, ${steps(record.steps)}, ${record.size}, seed ${record.seed}: ${record.reason}.`,
    ...(record.notes || []),
  ];
  return found.map((text) => element("p", text, { class: "facts" }));
}

function card(record) {
  return [...document.querySelectorAll("#gallery button")].find((made) => made.dataset.key === String(record.key));
}

/** Show pictures large, the last of them with its plan; `again(record)` makes it anew. */
export function show(records, again) {
  const record = records.at(-1);
  $("frame").replaceChildren(...records.map(picture));
  const link = element("a", "Download", { class: "button", href: record.url, download: fileName(record) });
  const actions = element("p", undefined, { class: "actions" });
  actions.append(link, button("Again with this seed", () => again(record)), button("Remove", () => remove(record)));
  $("shown").replaceChildren(element("strong", record.prompt), ...facts(record), actions);
  for (const made of document.querySelectorAll("#gallery button")) made.removeAttribute("aria-current");
  for (const one of records) card(one)?.setAttribute("aria-current", "true");
}

function fileName(record) {
  const name = record.prompt.normalize("NFKD").replace(/[^a-z0-9]+/gi, "-").replace(/^-|-$/g, "").slice(0, 40);
  return `${name || "picture"}-${record.seed}.png`;
}

/** Hang a picture first in the gallery. */
export function hang(record, again) {
  const item = element("li"), made = button("", () => { show([record], again); $("stage").scrollIntoView({ block: "nearest" }); });
  made.dataset.key = record.key;
  made.append(picture(record), element("span", record.prompt));
  item.append(made);
  $("gallery").prepend(item);
  $("empty").hidden = true;
}

async function remove(record) {
  await settled((await store("readwrite")).delete(record.key));
  card(record)?.parentElement.remove();
  URL.revokeObjectURL(record.url);
  $("frame").replaceChildren(element("p", "Removed.", { id: "blank" }));
  $("shown").replaceChildren();
  $("empty").hidden = $("gallery").children.length > 0;
  $("prompt").focus();
}
