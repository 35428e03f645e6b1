// The page: states what is wanted, shows what it would cost, and how the picture forms. All decisions are
// the service's: what the dials mean now is asked of /difs/v1/explain. Nothing comes from anywhere else.

import * as gallery from "./gallery.js";
import { watch } from "./machine.js";
import * as plot from "./plot.js";
import { $, API, ask, button, element, hundredths, read, seconds, steps, words, write } from "./words.js";

const SURVEY_MS = 3000; // so old may the plot's points be while a dial moves
const IDEAS = 5, MOST_CAPTIONS = 500;
let job = null; // the id of what is being made
let soon = null, good = null; // the wishes: seconds, and 0..1; null where there is none
let pins = {}; // what "again" pins besides what stands in the form

// ---- what is wanted -----------------------------------------------------------------------------

function wanted() {
  const tree = { prompt: $("prompt").value.trim(), n: Number($("count").value) || 1, requirements: {}, overrides: { ...pins } };
  if (soon !== null) tree.requirements.latency_s = soon;
  if (good !== null) tree.requirements.quality = good;
  if ($("variant").value) tree.overrides.variant = $("variant").value;
  if ($("steps").value) tree.overrides.steps = Number($("steps").value);
  if ($("lora").value) tree.overrides.adapters = [{ name: $("lora").value }];
  if ($("negative").value.trim()) tree.negative_prompt = $("negative").value.trim();
  if ($("size").value) [tree.width, tree.height] = $("size").value.split("x").map(Number);
  return tree;
}

function turned() {
  const late = Number($("soon").value), least = Number($("good").value);
  soon = late >= 100 ? null : plot.secondsAt(late / 100);
  good = least <= 0 ? null : least / 100;
  moved();
}

// ---- what it would cost -------------------------------------------------------------------------

let isAsking = false, isStale = false, told = { points: [], plan: null }, surveyed = { of: "", at: -Infinity };

function moved() {
  $("soon-says").textContent = soon === null ? "no hurry" : `within ${seconds(soon)}`;
  $("good-says").textContent = good === null ? "as DIFS sees fit" : `at least ${hundredths(good)} of 100`;
  $("soon").setAttribute("aria-valuetext", $("soon-says").textContent);
  $("good").setAttribute("aria-valuetext", $("good-says").textContent);
  plot.draw(told.points, told.plan, soon, good);
  explain();
}

/** Ask what this would cost, one question at a time: while a dial moves, as often as answers come. */
async function explain() {
  isStale = true;
  if (isAsking) return;
  isAsking = true;
  while (isStale) {
    isStale = false;
    try {
      await look(wanted());
    } catch (error) {
      cannot(error.message);
    }
  }
  isAsking = false;
}

async function look(tree) {
  const of = JSON.stringify({ ...tree, prompt: "", requirements: {} });
  const survey = surveyed.of !== of || performance.now() - surveyed.at > SURVEY_MS;
  const found = await ask("/explain", JSON.stringify({ ...tree, survey }));
  if (survey) {
    told.points = found.points || [];
    surveyed = { of, at: performance.now() };
    if (plot.fit(told.points) && soon !== null) $("soon").value = Math.round(plot.shareOf(soon) * 100);
  }
  told.plan = found.plan || null;
  plot.draw(told.points, told.plan, soon, good);
  if (found.plan) describe(found.plan);
  else cannot(words(found.refusal));
}

function describe(plan) {
  const quality = plan.expected_quality === undefined ? "" : `, quality ${hundredths(plan.expected_quality)} of 100`;
  const late = plan.keeps_latency === false ? " That is later than you wish." : "";
  $("plan").className = plan.keeps_latency === false ? "no" : "";
  $("plan").replaceChildren(
    element("strong", `In ${seconds(plan.prediction.total_s)}${quality}`),
    `${plan.variant}, ${steps(plan.steps)}, on ${plan.device}: ${plan.reason}.${late}`,
  );
}

function cannot(text) {
  $("plan").className = "no";
  $("plan").replaceChildren(element("strong", "Not like this"), text);
}

// ---- making -------------------------------------------------------------------------------------

function trouble(text) {
  $("trouble").hidden = !text;
  $("trouble").textContent = text || "";
}

async function make(event) {
  event.preventDefault();
  if (job !== null) return;
  trouble("");
  const asked = wanted();
  if (!asked.prompt) return trouble("Write what should be in the picture.");
  await until(async () => {
    const body = write({ ...asked, delivery: { preview_every: 2 } }, $("seed").value.trim());
    return { asked, begun: await ask("/generate", body) };
  });
}

/** Follow the job that `begin` begins to its end; the page shows that it is busy meanwhile. */
async function until(begin) {
  job = "";
  $("make").disabled = true;
  $("make").textContent = "Making it…";
  try {
    const { asked, begun } = await begin();
    job = begun.id;
    sessionStorage.setItem("job", JSON.stringify({ id: job, asked }));
    $("now").hidden = $("cancel").hidden = false;
    $("shown").replaceChildren();
    $("frame").replaceChildren(element("p", "Waiting for the first steps…", { id: "blank" }));
    $("stage").scrollIntoView({ block: "nearest" });
    progress(begun);
    const done = await follow(job);
    if (done) await present(done, asked);
    else $("frame").replaceChildren(element("p", "Cancelled.", { id: "blank" }));
  } catch (error) {
    trouble(error.message);
    if (job) $("frame").replaceChildren(element("p", "No picture came of it.", { id: "blank" }));
  } finally {
    job = null;
    $("now").hidden = $("cancel").hidden = true;
    $("make").disabled = false;
    $("make").textContent = "Make it";
    moved();
  }
}

async function present(done, asked) {
  const records = await gallery.keep(done, asked);
  for (const record of records) gallery.hang(record, again);
  gallery.show(records, again);
}

/** Resolve with the job when it is done, with null when it is cancelled; a lost one is looked for again. */
function follow(id) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`${API}/requests/${id}/events`);
    const end = (settle, value) => { source.close(); sessionStorage.removeItem("job"); settle(value); };
    const on = (name, work) => source.addEventListener(name, (event) => work(read(event.data)));
    on("queued", progress);
    on("running", progress);
    on("done", (found) => end(resolve, found));
    on("cancelled", () => end(resolve, null));
    on("failed", (found) => end(reject, new Error(words(found.error))));
    source.onerror = () => source.readyState === EventSource.CLOSED
      && reject(new Error("The connection to the service was lost. Reload this page to look for the picture."));
  });
}

function progress(found) {
  $("progress").value = found.share;
  const left = found.predicted_left_s;
  const whole = left === null ? "" : ` of about ${seconds(found.elapsed_s + left)}`;
  const place = found.position === null ? "waiting" : found.position === 1 ? "next in the queue" : `number ${found.position} in the queue`;
  $("says").textContent = `${found.state === "queued" ? place : `step ${found.step} of ${found.steps}`}, ${seconds(found.elapsed_s)}${whole}`;
  if (found.preview) {
    const image = element("img", undefined, { id: "forming", class: "forming", alt: "A preview of the picture" });
    image.src = `data:image/png;base64,${found.preview.b64_json}`;
    $("frame").replaceChildren(image);
  }
}

/** Make a picture anew: all that it was made of goes into the form, where it can be changed. */
function again(record) {
  if (job !== null) return;
  const [width, height] = record.size.split("x");
  choose($("size"), [`${width}x${height}`]);
  for (const [id, value] of Object.entries({
    prompt: record.prompt, seed: record.seed, variant: record.variant, steps: record.steps, size: record.size,
    lora: record.lora || "", negative: record.negative || "", count: 1,
  })) $(id).value = value;
  pins = {};
  if (record.guidance !== undefined) pins.guidance_scale = record.guidance;
  if (record.sampler) pins.sampler = record.sampler;
  $("more").open = true;
  $("form").requestSubmit();
}

/** A reload loses no picture that was begun: the service goes on with it. */
async function resume() {
  const left = sessionStorage.getItem("job");
  if (left === null) return;
  sessionStorage.removeItem("job");
  const { id, asked } = JSON.parse(left);
  await until(async () => ({ asked, begun: await ask(`/requests/${id}`) }));
}

// ---- the beginning ------------------------------------------------------------------------------

function choose(select, values) {
  const known = new Set([...select.children].map((option) => option.value));
  for (const value of values) if (!known.has(value)) select.append(element("option", value, { value }));
}

function suggest(captions) {
  choose($("captions"), captions.slice(0, MOST_CAPTIONS));
  const some = [...captions].sort(() => Math.random() - 0.5).slice(0, IDEAS);
  $("ideas").replaceChildren(...some.map((text) => button(text, () => { $("prompt").value = text; $("prompt").focus(); moved(); })));
}

async function begun() {
  const { variants, adapters } = await ask("/variants");
  choose($("variant"), variants.map((v) => v.name));
  choose($("lora"), adapters.map((a) => a.name));
  choose($("size"), [...new Set(variants.flatMap((v) => v.native_sizes.map(([w, h]) => `${w}x${h}`)))]);
  suggest([...new Set(variants.flatMap((v) => (v.captions || []).map((c) => c[0])))]);
  for (const record of await gallery.kept()) gallery.hang(record, again);
  await resume();
}

$("form").addEventListener("submit", make);
$("form").addEventListener("input", (event) => {
  if (event.target.type === "range") return turned();
  if (["variant", "steps", "lora"].includes(event.target.id)) pins = {};
  moved();
});
// a field that is wrong may stand in what is folded away
$("form").addEventListener("invalid", () => { $("more").open = true; }, true);
plot.draggable((x, y) => {
  $("soon").value = Math.round(x * 100);
  $("good").value = Math.round(y * 100);
  turned();
});
new ResizeObserver(() => plot.draw(told.points, told.plan, soon, good)).observe($("plot"));
$("cancel").addEventListener("click", () => job && fetch(`${API}/requests/${job}`, { method: "DELETE" }));
document.addEventListener("keydown", (event) => event.key === "Escape" && job && $("cancel").click());
moved();
watch();
begun().catch((error) => trouble(error.message));
