// The page: states what is wanted, shows what it would cost, and how the picture forms. All decisions are
// the service's: what the dials mean now is asked of /difs/v1/explain. Nothing comes from anywhere else.
"use strict";

const $ = (id) => document.getElementById(id);
const API = "/difs/v1";
const HIDDEN_S = 0.05, SLOWEST_S = 60; // the ends of the first dial, in seconds
const EXPLAIN_REST_MS = 150, STATUS_REST_MS = 3000, KEPT = 200;
let job = null; // the id of what is being made

// ---- words --------------------------------------------------------------------------------------

const seconds = (s) => (s < 0.1 ? s.toFixed(3) : s < 10 ? s.toFixed(1) : String(Math.round(s))) + " s";

function tell(error) {
  $("trouble").hidden = !error;
  $("trouble").textContent = error || "";
}

function words(error) {
  if (error.retry_after_s) return `${error.message} Try again in ${seconds(error.retry_after_s)}.`;
  return error.message;
}

async function ask(path, tree) {
  const options = tree === undefined ? {} : { method: "POST", body: JSON.stringify(tree) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The service does not answer. Is `difs serve --http` running?");
  }
  const told = await answer.json();
  if (!answer.ok) throw new Error(words(told.error));
  return told;
}

// ---- what is wanted -----------------------------------------------------------------------------

function latency() {
  const dial = Number($("soon").value);
  return dial >= 100 ? null : HIDDEN_S * (SLOWEST_S / HIDDEN_S) ** (dial / 99);
}

function quality() {
  const dial = Number($("good").value);
  return dial === 0 ? null : dial / 100;
}

function wanted() {
  const tree = { prompt: $("prompt").value.trim(), n: Number($("count").value) || 1, requirements: {}, overrides: {} };
  if (latency() !== null) tree.requirements.latency_s = latency();
  if (quality() !== null) tree.requirements.quality = quality();
  if ($("variant").value) tree.overrides.variant = $("variant").value;
  if ($("steps").value) tree.overrides.steps = Number($("steps").value);
  if ($("lora").value) tree.overrides.adapters = [{ name: $("lora").value }];
  if ($("negative").value.trim()) tree.negative_prompt = $("negative").value.trim();
  if ($("size").value) [tree.width, tree.height] = $("size").value.split("x").map(Number);
  return tree;
}

/** The body as JSON text: a seed has 64 bits and does not fit into a number of JavaScript. */
function bodyOf(tree, seed) {
  const text = JSON.stringify(tree);
  return seed ? text.replace(/}$/, `,"seed":${seed}}`) : text;
}

// ---- the dials ----------------------------------------------------------------------------------

let explaining = 0;

function moved() {
  const soon = latency(), good = quality();
  $("soon-says").textContent = soon === null ? "no hurry" : `in ${seconds(soon)}`;
  $("good-says").textContent = good === null ? "as DIFS sees fit" : `at least ${Math.round(good * 100)} of 100`;
  const mine = ++explaining;
  setTimeout(() => mine === explaining && explain(mine), EXPLAIN_REST_MS);
}

async function explain(mine) {
  try {
    const tree = { ...wanted(), survey: true };
    const told = await ask(`${API}/explain`, tree);
    if (mine !== explaining) return; // the dials have moved on
    draw(told.points || [], told.plan);
    $("plan").textContent = told.plan ? inWords(told.plan) : words(told.refusal);
  } catch (error) {
    $("plan").textContent = error.message;
  }
}

function inWords(plan) {
  const good = plan.expected_quality === undefined ? "" : `, quality ${Math.round(plan.expected_quality * 100)}`;
  const late = plan.keeps_latency === false ? " This is later than wanted." : "";
  return `${plan.variant} with ${plan.steps} steps on ${plan.device}: in ${seconds(plan.prediction.total_s)}${good}; ${plan.reason}.${late}`;
}

// ---- the plot: seconds (logarithmic) to the right, quality upwards ------------------------------

function node(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw(points, plan) {
  const plot = $("plot");
  plot.replaceChildren();
  const known = points.filter((p) => p.expected_quality !== undefined);
  const all = plan && plan.expected_quality !== undefined
    ? [...known, { total_s: plan.prediction.total_s, expected_quality: plan.expected_quality }] : known;
  if (!all.length) {
    plot.append(node("text", { x: 12, y: 84 }, "No quality is measured for what is registered."));
    return;
  }
  const times = all.map((p) => Math.max(p.total_s, 1e-3));
  const low = Math.log(Math.min(...times)), high = Math.max(Math.log(Math.max(...times)), low + 1);
  const x = (p) => 30 + 350 * (Math.log(Math.max(p.total_s, 1e-3)) - low) / (high - low);
  const y = (p) => 140 - 125 * p.expected_quality;
  let best = -1;
  const front = [...known].sort((a, b) => a.total_s - b.total_s)
    .filter((p) => p.expected_quality > best && ((best = p.expected_quality), true));
  plot.append(node("polyline", { class: "front", points: front.map((p) => `${x(p)},${y(p)}`).join(" ") }));
  for (const p of known) {
    const dot = node("circle", { class: "point", cx: x(p), cy: y(p), r: 3 });
    dot.append(node("title", {}, `${p.variant}, ${p.steps} steps: ${seconds(p.total_s)}, quality ${Math.round(p.expected_quality * 100)}`));
    plot.append(dot);
  }
  if (all.length > known.length) plot.append(node("circle", { class: "chosen", cx: x(all.at(-1)), cy: y(all.at(-1)), r: 6 }));
  plot.append(node("text", { x: 30, y: 156 }, seconds(Math.exp(low))));
  plot.append(node("text", { x: 380, y: 156, "text-anchor": "end" }, seconds(Math.exp(high))));
  plot.append(node("text", { x: 4, y: 20 }, "good"));
}

// ---- making -------------------------------------------------------------------------------------

async function make(event) {
  event.preventDefault();
  tell("");
  const tree = wanted();
  if (!tree.prompt) return tell("Write what should be in the picture.");
  tree.delivery = { preview_every: 2 };
  try {
    await follow(await begin(bodyOf(tree, $("seed").value)), tree.prompt);
  } catch (error) {
    tell(error.message);
  } finally {
    job = null;
    $("now").hidden = $("cancel").hidden = true;
    $("make").disabled = false;
    $("prompt").focus();
  }
}

async function begin(body) {
  $("make").disabled = true;
  let answer;
  try {
    answer = await fetch(`${API}/generate`, { method: "POST", body });
  } catch {
    throw new Error("The service does not answer. Is `difs serve --http` running?");
  }
  const told = await answer.json();
  if (!answer.ok) throw new Error(words(told.error));
  $("now").hidden = $("cancel").hidden = false;
  $("forming").hidden = true;
  job = told.id;
  return told;
}

function follow(told, prompt) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`${API}/requests/${told.id}/events`);
    const end = (settle, value) => { source.close(); settle(value); };
    const shown = (event) => show(JSON.parse(event.data));
    source.addEventListener("queued", shown);
    source.addEventListener("running", shown);
    source.addEventListener("cancelled", () => end(resolve));
    source.addEventListener("failed", (event) => end(reject, new Error(words(JSON.parse(event.data).error))));
    source.addEventListener("done", (event) => keep(JSON.parse(event.data), prompt).then(() => end(resolve), (e) => end(reject, e)));
    source.onerror = () => source.readyState === EventSource.CLOSED && end(reject, new Error("The connection was lost."));
  });
}

function show(told) {
  $("progress").value = told.share;
  const left = told.predicted_left_s === null ? "" : `, about ${seconds(told.predicted_left_s)} left`;
  const step = told.state === "queued" ? "waiting" : `step ${told.step} of ${told.steps}`;
  $("says").textContent = `${step}, ${seconds(told.elapsed_s)} so far${left}`;
  if (told.preview && told.preview.image === 0) {
    $("forming").src = `data:image/png;base64,${told.preview.b64_json}`;
    $("forming").hidden = false;
  }
}

// ---- the gallery, kept by this browser ----------------------------------------------------------

const shelf = new Promise((resolve, reject) => {
  const opening = indexedDB.open("difs", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("pictures", { keyPath: "key", autoIncrement: true });
  opening.onsuccess = () => resolve(opening.result);
  opening.onerror = () => reject(new Error("This browser keeps no pictures here."));
});

const settled = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

async function store(mode) {
  return (await shelf).transaction("pictures", mode).objectStore("pictures");
}

async function keep(told, prompt) {
  const result = told.result;
  for (const image of result.images) {
    const blob = await (await fetch(image.url)).blob();
    const record = {
      prompt, blob, seed: String(image.seed), seconds: result.timings.total_s, predicted: result.plan.prediction.total_s,
      variant: result.plan.variant, steps: result.plan.steps, size: `${image.width}x${image.height}`, reason: result.plan.reason,
    };
    record.key = await settled((await store("readwrite")).add(record));
    hang(record);
  }
  const keys = await settled((await store("readonly")).getAllKeys());
  for (const key of keys.slice(0, -KEPT)) (await store("readwrite")).delete(key);
}

function button(text, work) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", work);
  return made;
}

function hang(record) {
  const item = document.createElement("li"), image = document.createElement("img");
  image.src = URL.createObjectURL(record.blob);
  image.alt = record.prompt;
  const facts = document.createElement("p");
  facts.className = "facts";
  facts.textContent = `${record.prompt}. ${record.variant}, ${record.steps} steps, ${record.size}, seed ${record.seed};`
    + ` ${seconds(record.seconds)}, ${seconds(record.predicted)} predicted. ${record.reason}`;
  const link = document.createElement("a");
  link.href = image.src;
  link.download = `${record.prompt.replace(/[^a-z0-9]+/gi, "-").slice(0, 40)}-${record.seed}.png`;
  link.textContent = "Download";
  const actions = document.createElement("p");
  actions.className = "actions";
  actions.append(link, button("Again with this seed", () => again(record)), button("Remove", () => remove(record, item)));
  item.append(image, facts, actions);
  $("gallery").prepend(item);
  $("empty").hidden = true;
}

function again(record) {
  $("prompt").value = record.prompt;
  $("seed").value = record.seed;
  $("variant").value = record.variant;
  moved();
  $("form").requestSubmit();
}

async function remove(record, item) {
  await settled((await store("readwrite")).delete(record.key));
  item.remove();
  $("empty").hidden = $("gallery").children.length > 0;
}

// ---- the machine --------------------------------------------------------------------------------

const gigabytes = (n) => (n / 2 ** 30).toFixed(1);

async function look() {
  if (!document.hidden) {
    try {
      const told = await ask(`${API}/status`);
      const devices = told.devices.map((d) => {
        const memory = d.reading ? `, ${gigabytes(d.reading.memory_free_bytes)} of ${gigabytes(d.reading.memory_total_bytes)} GiB free` : "";
        return `${d.device} ${d.state}: ${d.residents.join(", ") || "nothing loaded"}${memory}`;
      });
      $("machine").textContent = `${devices.join("; ") || "no device yet"}; ${told.queued} waiting, ${told.running} running`;
    } catch (error) {
      $("machine").textContent = error.message;
    }
  }
  setTimeout(look, STATUS_REST_MS);
}

function choose(select, values) {
  for (const value of values) {
    const made = document.createElement("option");
    made.value = made.textContent = value;
    select.append(made);
  }
}

async function begun() {
  const told = await ask(`${API}/variants`);
  choose($("variant"), told.variants.map((v) => v.name));
  choose($("lora"), told.adapters.map((a) => a.name));
  choose($("size"), [...new Set(told.variants.flatMap((v) => v.native_sizes.map(([w, h]) => `${w}x${h}`)))]);
  choose($("captions"), [...new Set(told.variants.flatMap((v) => (v.captions || []).map((c) => c[0])))].slice(0, 500));
  for (const record of await settled((await store("readonly")).getAll())) hang(record);
  moved();
}

$("form").addEventListener("submit", make);
$("form").addEventListener("input", moved);
$("cancel").addEventListener("click", () => job && fetch(`${API}/requests/${job}`, { method: "DELETE" }));
document.addEventListener("keydown", (event) => event.key === "Escape" && job && $("cancel").click());
begun().catch((error) => tell(error.message));
look();
