// The machine: devices, what is loaded, memory, queues, and what the autoscaler decided and why.

import { $, ask, element, seconds, svg } from "./words.js";

const REST_MS = 2500;
const MOST_DECISIONS = 12;
const gigabytes = (n) => (n / 2 ** 30).toFixed(1);

export async function watch() {
  if (!document.hidden) {
    try {
      tell(await ask("/status"));
    } catch (error) {
      $("pulse").className = "gone";
      $("pulse").textContent = error.message;
    }
  }
  setTimeout(watch, REST_MS);
}

function tell(status) {
  const state = status.draining ? "is shutting down" : status.ready ? "ready" : "no device is ready yet";
  $("pulse").className = status.ready && !status.draining ? "ready" : "";
  $("pulse").textContent = `${state}, ${status.running} running, ${status.queued} waiting`;
  $("machine-says").textContent = `DIFS ${status.version}, policy ${status.policy}, up for ${seconds(status.uptime_s)}.`;
  $("devices").replaceChildren(...status.devices.map(device));
  const decisions = status.decisions || [];
  $("scaler-says").textContent = status.planner === "off" ? "Nobody plans what is loaded: autoscaler.planner is off."
    : decisions.length ? `The planner ${status.planner} loads and parks variants by what it expects to be asked.`
    : `The planner ${status.planner} has had nothing to decide yet.`;
  $("decisions").replaceChildren(...decisions.slice(0, MOST_DECISIONS).map((d) =>
    element("li", `${seconds(d.age_s)} ago: ${d.action.replace("_", " ")} ${d.variant} on ${d.device}${d.memory_mode ? ` (${d.memory_mode})` : ""}: ${d.reason}`)));
}

function device(found) {
  const item = element("li");
  const waits = found.queued ? `, ${found.queued} waiting` : "";
  item.append(element("strong", found.device), ` ${found.state}: ${found.running} running${waits}`);
  if (found.backlog_s > 0.05) item.append(`, about ${seconds(found.backlog_s)} of work`);
  if (found.reading) item.append(...memory(found.reading));
  const chips = element("p", undefined, { class: "chips" });
  const chip = (name, more, kind = "") => chips.append(element("span", more ? `${name}: ${more}` : name, { class: `chip ${kind}` }));
  for (const name of found.residents) {
    const mode = found.memory_modes?.[name];
    const how = [mode === "full" ? "" : mode, found.pinned?.includes(name) ? "pinned" : "", inWords(found.states?.[name])];
    chip(name, how.filter(Boolean).join(", "));
  }
  for (const name of found.loading || []) chip(name, "loading", "away");
  for (const name of found.parked || []) chip(name, "parked in memory", "away");
  if (!chips.children.length) chip("nothing is loaded", "", "away");
  item.append(chips);
  return item;
}

/** INFaaS's state of a variant; the usual one needs no word. */
const inWords = (state) => (state === "active" ? "" : state);

function memory(reading) {
  const total = reading.memory_total_bytes, own = reading.memory_own_bytes / total, used = reading.memory_used_bytes / total;
  const bar = svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" });
  bar.append(svg("rect", { class: "own", width: 100 * own, height: 4 }));
  bar.append(svg("rect", { class: "others", x: 100 * own, width: 100 * Math.max(0, used - own), height: 4 }));
  const found = [`memory: ${gigabytes(reading.memory_own_bytes)} GiB own, ${gigabytes(reading.memory_free_bytes)} of ${gigabytes(total)} GiB free`];
  if (reading.utilisation !== undefined) found.push(`${Math.round(reading.utilisation * 100)} % busy`);
  if (reading.temperature_c !== undefined) found.push(`${Math.round(reading.temperature_c)} °C`);
  if (reading.power_w !== undefined) found.push(`${Math.round(reading.power_w)} W`);
  if (reading.throttled?.length) found.push(`slowed down: ${reading.throttled.join(", ")}`);
  return [bar, element("p", found.join(", "), { class: "facts" })];
}
