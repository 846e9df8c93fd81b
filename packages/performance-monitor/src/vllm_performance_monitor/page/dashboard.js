// The page: asks for the figures as often as the hub looks, and shows them. Nothing leaves this origin.

import { showCharts } from "./charts.js";
import { announce, at, say } from "./dom.js";
import { newsOf, showTables } from "./tables.js";
import { clock, duration } from "./words.js";

const RETRY_S = 2;
const LEAST_S = 1;
const LIMIT_MS = 20_000;

let token = tokenOfAddress();
let alerts = null;
let next = null;
let asking = null;

/** `#token=…` is not sent to any server; taken out of the address, it is in no history and on no screen either. */
function tokenOfAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
  if (given) history.replaceState(null, "", location.pathname);
  return given;
}

async function look() {
  clearTimeout(next);
  asking?.abort();
  const mine = (asking = new AbortController());
  const wait_s = await shown(AbortSignal.any([mine.signal, AbortSignal.timeout(LIMIT_MS)])).catch((error) =>
    mine.signal.aborted ? null : lost(wordsOf(error)),
  );
  if (asking !== mine || wait_s === null) return;
  asking = null;
  if (!document.hidden) next = setTimeout(look, wait_s * 1000);
}

/** Ask and show; the seconds until the next look, or null to wait for the user. */
async function shown(signal) {
  const range = document.querySelector("input[name=range]:checked").value;
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(`figures?seconds=${range}`, { headers, signal, cache: "no-store" });
  if (answer.status === 401) return askForToken();
  const page = await answer.json();
  if (!answer.ok) return lost(page.problem);
  at("door").hidden = true;
  at("figures").hidden = false;
  showTables(page);
  showCharts(page.course);
  const news = newsOf(alerts, page.alerts);
  if (news) announce("news", news);
  alerts = page.alerts;
  document.title = alerts.length ? `(${alerts.length}) vLLM engines` : "vLLM engines";
  state("live", `Live, every ${duration(page.interval_s)}`, `as of ${clock(page.at_s, "zoned")}`);
  say(at("problem"), "");
  return Math.max(LEAST_S, page.interval_s);
}

function askForToken() {
  say(at("problem"), token ? "That token is not the right one." : "");
  token = "";
  at("figures").hidden = true;
  at("door").hidden = false;
  at("token").focus();
  state("lost", "Locked", "");
  return null;
}

/** What is shown stays, with a word that it is old. */
function lost(why) {
  const old = at("figures").hidden ? "" : "What is shown below is what was seen last. ";
  say(at("problem"), `${why.replace(/\.$/, "")}. ${old}This page goes on by itself.`);
  state("lost", "Not connected", at("link-time").textContent);
  return RETRY_S;
}

const wordsOf = (error) =>
  error.name === "TimeoutError" ? "The dashboard did not answer in time." : "The dashboard does not answer: is it still running?";

function state(name, words, time) {
  at("link").dataset.state = name;
  announce("link-state", words);
  at("link-time").textContent = time;
}

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token").value = "";
  look();
});
at("ranges").addEventListener("change", look);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && at("door").hidden) look();
});
look();
