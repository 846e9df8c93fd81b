// Tiles, alerts, engines, starts and hardware.

import { at, cell, el, missing, say, show } from "./dom.js";
import { count, duration, gib, moment, NOTHING, number } from "./words.js";

const MARKS = { good: "●", moving: "◐", resting: "○", bad: "▲" };
const PHASE_MARKS = { done: "✓", now: "◐", failed: "▲", "to come": "○" };

export function showTables(page) {
  show(at("tiles"), tiles(page));
  say(at("note"), page.note);
  show(at("alerts"), alerts(page));
  at("engines-caption").textContent = `Engines over the last ${duration(page.window_s)}`;
  show(at("engines"), engines(page));
  at("starts-section").hidden = page.starts.length === 0;
  show(at("starts"), page.starts.map(start));
  at("gpus-region").hidden = page.gpus.length === 0;
  show(at("gpus"), page.gpus.map(gpu));
  show(at("host"), host(page.host));
}

function tiles({ total, engines, alerts }) {
  const serving = engines.filter((one) => one.level === "good").length;
  return [
    tile("Engines serving", number(serving), engines.length === serving ? "" : `of ${engines.length}`),
    tile("Requests running", number(total?.requests.running), waiting(total)),
    tile("Generated", number(total?.throughput.generation_tokens_per_second), "tokens/s"),
    tile("First token, p99", number(total?.latency.ttft.p99_ms), "ms"),
    tile("Whole answer, p99", number(seconds(total?.latency.e2e.p99_ms)), "s"),
    tile("Active alerts", number(alerts.length), "", alerts.length ? "bad" : null),
  ];
}

const waiting = (total) => (total?.requests.waiting ? `${number(total.requests.waiting)} waiting` : "");

function tile(name, value, unit, level = null) {
  const shown = value === NOTHING ? [missing()] : [value, unit && el("span", { class: "unit" }, ` ${unit}`)];
  return el("div", { "data-level": level }, el("dt", {}, name), el("dd", {}, ...shown));
}

const seconds = (milliseconds) =>
  milliseconds === null || milliseconds === undefined ? null : milliseconds / 1000;

function alerts({ alerts: active, at_s }) {
  if (active.length === 0) return [el("p", { class: "quiet" }, "Nothing is wrong.")];
  return [el("ul", { class: "alerts" }, active.map((one) => alert(one, at_s)))];
}

function alert(one, now_s) {
  return el(
    "li",
    { "data-severity": one.severity },
    el("p", {}, el("strong", { class: "severity" }, one.severity), " ", one.message),
    el("p", { class: "more" }, since(one, now_s)),
    one.suggestion ? el("p", { class: "more" }, el("strong", {}, "Next step: "), one.suggestion) : null,
  );
}

function since({ rule, since: text }, now_s) {
  const since_s = Date.parse(text) / 1000;
  return `${rule}, since ${moment(since_s)}, for ${duration(Math.max(0, now_s - since_s))}`;
}

function engines({ engines: rows }) {
  if (rows.length === 0) {
    return [el("tr", {}, el("td", { colspan: 17, class: "quiet" }, "No engine runs. load-model starts one."))];
  }
  return rows.flatMap((one) => [engine(one), trouble(one)]);
}

function engine(one) {
  const told = one.figures;
  const latency = (stage, scale = 1) => ["p50_ms", "p99_ms"].map((part) => scaled(told?.latency[stage][part], scale));
  return el(
    "tr",
    { "data-level": one.level },
    el("th", { scope: "row" }, one.name, " ", el("span", { class: "id" }, one.engine_id)),
    el("td", { class: "state" }, mark(MARKS[one.level]), one.state),
    el("td", {}, one.devices.length ? one.devices.join(", ") : missing()),
    ...[
      told?.requests.running,
      told?.requests.waiting,
      told?.throughput.generation_tokens_per_second,
      told?.throughput.prompt_tokens_per_second,
      ...latency("ttft"),
      ...latency("inter_token"),
      ...latency("e2e", 1000),
    ].map(figure),
    measure(told?.cache.kv_usage_percent, 100),
    ...[told?.cache.prefix_hit_rate_percent, told?.requests.error_rate_percent].map(figure),
    cell(gib(one.memory_bytes)),
  );
}

const scaled = (value, scale) => (value === null || value === undefined ? null : value / scale);

function trouble(one) {
  if (!one.trouble) return null;
  const step = one.suggestion ? el("p", {}, el("strong", {}, "Next step: "), one.suggestion) : null;
  return el("tr", { class: "trouble" }, el("td", { colspan: 17 }, el("p", {}, one.trouble), step));
}

const mark = (sign) => el("span", { class: "mark", "aria-hidden": "true" }, `${sign} `);
const figure = (value) => cell(number(value));

/** A number of at most `most`, with a bar behind it. */
function measure(value, most, text = number(value)) {
  const made = cell(text);
  if (value !== null && value !== undefined && most) {
    made.classList.add("measure");
    made.style.setProperty("--share", `${Math.min(100, (100 * value) / most).toFixed(1)}%`);
  }
  return made;
}

const START_WORDS = {
  waits: (one) => `waits for its turn, for ${duration(one.elapsed_s)}`,
  runs: (one) => `loading for ${duration(one.elapsed_s)}${one.estimated_s ? `, estimated ${duration(one.estimated_s)}` : ""}`,
  failed: () => "did not start",
  done: (one) => (one.elapsed_s === null ? "started" : `started in ${duration(one.elapsed_s)}`),
};

function start(one) {
  const words = START_WORDS[one.state](one);
  return el(
    "li",
    { "data-state": one.state },
    el("p", {}, el("strong", {}, one.name), " ", el("span", { class: "id" }, one.engine_id), ` ${words}`),
    one.state === "runs" && one.estimated_s
      ? el("progress", { max: 1, value: Math.min(0.99, one.elapsed_s / one.estimated_s).toFixed(2), "aria-label": `Start of ${one.name}` })
      : null,
    el("ol", { class: "phases" }, one.phases.map((phase) => phaseItem(phase, one))),
  );
}

function phaseItem(phase, { detail }) {
  const more = { done: duration(phase.seconds), now: detail || "under way", failed: "failed here", "to come": "" };
  const unseen = phase.state === "done" ? "done, " : phase.state === "to come" ? ", to come" : "";
  return el(
    "li",
    { "data-state": phase.state },
    mark(PHASE_MARKS[phase.state]),
    phase.phase,
    " ",
    unseen && el("span", { class: "unseen" }, unseen),
    el("span", { class: "more" }, more[phase.state]),
  );
}

function gpu(one) {
  const state = one.lost ? "lost" : one.throttled_by ? `slowed down by ${one.throttled_by}` : "well";
  const level = one.lost ? "bad" : one.throttled_by ? "moving" : "good";
  const total = one.memory_total_bytes;
  const limit = one.power_limit_watts;
  const used = one.memory_used_bytes === null ? NOTHING : `${gib(one.memory_used_bytes)} of ${gib(total)}`;
  const power = one.power_watts === null ? NOTHING : number(one.power_watts) + (limit ? ` of ${number(limit)}` : "");
  return el(
    "tr",
    { "data-level": level },
    el("th", { scope: "row" }, one.id, " ", el("span", { class: "id" }, one.name)),
    el("td", { class: "state" }, mark(MARKS[level]), state),
    measure(one.utilization_percent, 100),
    measure(one.memory_used_bytes, total, used),
    figure(one.temperature_celsius),
    measure(one.power_watts, limit, power),
    el("td", {}, one.engines.length ? one.engines.join(", ") : "none"),
  );
}

function host(one) {
  if (one === null) return [];
  const of = (part, whole) => (part === null ? missing() : `${gib(part)} of ${gib(whole)} GiB`);
  return [
    tile("Host processors", number(one.cpu_percent), "% busy"),
    el("div", {}, el("dt", {}, "Host memory"), el("dd", {}, of(one.memory_used_bytes, one.memory_total_bytes))),
    el("div", {}, el("dt", {}, "Free on the disk"), el("dd", {}, of(one.disk_free_bytes, one.disk_total_bytes))),
  ];
}

/** What is to be said aloud: which alerts came and went since `before` (null: nothing was known). */
export function newsOf(before, active) {
  if (before === null) return active.length ? `${count(active.length, "active alert")}.` : "";
  const key = (one) => `${one.rule} ${one.engine} ${one.since}`;
  const had = new Set(before.map(key));
  const has = new Set(active.map(key));
  const came = active.filter((one) => !had.has(key(one))).map((one) => `New alert, ${one.severity}: ${one.message}`);
  const went = before.filter((one) => !has.has(key(one))).map((one) => `Over: ${one.rule} of ${one.engine}.`);
  return [...came, ...went].join(" ");
}
