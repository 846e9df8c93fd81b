// Charts as SVG, redrawn when their figures or their width change. A pointer or the arrow keys read their values.

import { announce, at, cell, el, say, shape, show } from "./dom.js";
import { clock, count, number } from "./words.js";

const HEIGHT = 200;
const EDGE = { left: 52, right: 18, top: 26, bottom: 24 };
const COLOURS = 8;
const STEPS_S = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200];
/** So much of the width a value may be away from where the pointer is. */
const NEAR = 1 / 40;

const views = [];
/** Of subjects: the same colour and shape in every chart, for as long as the subject is there. */
const numbers = new Map();

/** Draw `course.charts`; what is there stays where it is. */
export function showCharts(course) {
  const left = course.left_out;
  say(at("left-out"), left ? `${count(left, "engine or GPU", "engines and GPUs")} without lines, for want of room.` : "");
  giveNumbers(new Set(course.charts.flatMap((chart) => chart.lines.map((line) => line.subject))));
  const host = at("charts");
  while (views.length > course.charts.length) views.pop().figure.remove();
  course.charts.forEach((chart, place) => {
    if (views[place] === undefined) {
      views[place] = makeView();
      host.append(views[place].figure);
    }
    views[place].update(chart, course);
  });
  if (course.charts.length === 0) show(host, [el("p", { class: "quiet" }, "Nothing was seen in this time.")]);
  else host.querySelector(":scope > p")?.remove();
}

function giveNumbers(subjects) {
  for (const gone of [...numbers.keys()].filter((one) => !subjects.has(one))) numbers.delete(gone);
  for (const kind of [(one) => one.startsWith("GPU "), (one) => !one.startsWith("GPU ")]) {
    for (const subject of [...subjects].filter((one) => kind(one) && !numbers.has(one))) {
      const taken = new Set([...numbers].filter(([one]) => kind(one)).map(([, its]) => its));
      let free = 0;
      while (taken.has(free)) free += 1;
      numbers.set(subject, free);
    }
  }
}

const resized = new ResizeObserver((entries) => {
  for (const entry of entries) views.find((view) => view.plot === entry.target)?.draw();
});

/** The same moment in every chart; null: none. */
function pointAll(seconds) {
  for (const view of views) view.point(seconds);
}

function makeView() {
  const title = el("h3", {});
  const plot = el("div", { class: "plot", tabindex: 0, role: "group" });
  const [caption, head, body] = [el("caption", { class: "unseen" }), el("thead", {}), el("tbody", {})];
  const legend = el("table", { class: "legend" }, caption, head, body);
  const figure = el("figure", {}, el("figcaption", {}, title), plot, legend);
  const view = { figure, plot, update, draw, point };
  let chart;
  let course;
  let cursor = null;

  function update(newChart, newCourse) {
    [chart, course] = [newChart, newCourse];
    title.textContent = chart.title;
    caption.textContent = `${chart.title}, ${chart.unit}`;
    plot.setAttribute("aria-label", `${chart.title}: the left and right arrow keys read the values`);
    draw();
  }

  function draw() {
    if (chart === undefined) return;
    const width = Math.max(240, plot.clientWidth);
    show(plot, [picture(chart, course, width)]);
    point(cursor);
  }

  function point(seconds) {
    cursor = seconds;
    const line = plot.querySelector(".cursor");
    const span = course.end_s - course.begin_s;
    if (seconds !== null) line.setAttribute("transform", `translate(${placeOf(seconds / span, plot.clientWidth)})`);
    line.classList.toggle("on", seconds !== null);
    const value = (one) => (seconds === null ? one.now : valueAt(one, seconds, span));
    const when = seconds === null ? "now" : clock(course.begin_s + seconds);
    const subjects = [...Map.groupBy(chart.lines, (one) => one.subject).values()];
    const parts = subjects[0].length > 1 ? subjects[0] : [];
    show(head, [legendHead(when, parts)]);
    show(body, subjects.map((lines) => legendRow(lines, value)));
  }

  function read(seconds) {
    const span = course.end_s - course.begin_s;
    const told = chart.lines.map((one) => `${nameOf(one)} ${spoken(valueAt(one, seconds, span), chart.unit)}`);
    announce("reading", `${clock(course.begin_s + seconds)}: ${told.join(", ")}`);
  }

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
    pointAll(share >= 0 && share <= 1 ? share * (course.end_s - course.begin_s) : null);
  });
  plot.addEventListener("pointerleave", () => pointAll(null));
  plot.addEventListener("blur", () => pointAll(null));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) {
      if (event.key === "Escape") pointAll(null);
      return;
    }
    event.preventDefault();
    const span = course.end_s - course.begin_s;
    const next = Math.min(span, Math.max(0, (cursor ?? span) + (step * span) / 60));
    pointAll(next);
    read(next);
  });
  resized.observe(plot);
  return view;
}

const nameOf = (line) => `${line.subject} ${line.part}`.trimEnd();
const spoken = (value, unit) => (value === null ? "not measured" : `${number(value)} ${unit}`);
const placeOf = (share, width) => EDGE.left + share * (width - EDGE.left - EDGE.right);

/** The value nearest to a moment, or null where there is a gap. */
function valueAt(line, seconds, span) {
  let found = null;
  let nearest = span * NEAR;
  line.times.forEach((time, place) => {
    const away = Math.abs(time - seconds);
    if (away <= nearest) [nearest, found] = [away, line.values[place]];
  });
  return found;
}

/** Of subjects with one line: now, least, most; of those with two: each of them now. */
function legendHead(when, parts) {
  const column = (...words) => el("th", { scope: "col" }, ...words);
  if (parts.length === 0) return el("tr", {}, el("td", {}), column(when), column("least"), column("most"));
  return el("tr", {}, column(when), ...parts.map((one) => column(swatch({ ...one, subject: null }), one.part)));
}

function legendRow(lines, value) {
  const [first] = lines;
  const cells = lines.length > 1 ? lines.map(value) : [value(first), first.low, first.high];
  return el("tr", {}, el("th", { scope: "row" }, swatch(first), first.subject), ...cells.map((one) => cell(number(one))));
}

const classOf = (line) => `line ${colourOf(line)}${line.dashed ? " dashed" : ""}`;
const colourOf = ({ subject }) => (subject === null ? "any-line" : `line-${numbers.get(subject) % COLOURS}`);

function swatch(line) {
  return shape(
    "svg",
    { viewBox: "0 0 28 12", class: "swatch", "aria-hidden": "true" },
    shape("path", { d: "M0 6H28", class: classOf(line) }),
    line.dashed || line.subject === null ? null : dot(line, 14, 6),
  );
}

/** Each subject has a shape of its own beside its colour. */
function dot(line, x, y) {
  const [r, d] = [4, 5];
  const shapes = [
    () => shape("circle", { cx: x, cy: y, r }),
    () => shape("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r }),
    () => shape("path", { d: `M${x} ${y - d}L${x + d} ${y + r}H${x - d}Z` }),
    () => shape("path", { d: `M${x} ${y - d}L${x + d} ${y}L${x} ${y + d}L${x - d} ${y}Z` }),
  ];
  const made = shapes[numbers.get(line.subject) % shapes.length]();
  made.setAttribute("class", `dot ${colourOf(line)}`);
  return made;
}

function picture(chart, course, width) {
  const [low, high] = chart.axis;
  const span = course.end_s - course.begin_s;
  const x = (seconds) => placeOf(seconds / span, width);
  const y = (value) => EDGE.top + (1 - (value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const isEmpty = chart.lines.every((line) => line.low === null);
  return shape(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": chart.summary },
    shape("text", { class: "tick", x: 4, y: 14 }, chart.unit),
    ...valueMarks(low, high).flatMap((value) => [
      shape("path", { class: "grid", d: `M${EDGE.left} ${y(value).toFixed(1)}H${width - EDGE.right}` }),
      shape("text", { class: "tick", x: EDGE.left - 8, y: (y(value) + 4).toFixed(1), "text-anchor": "end" }, number(value)),
    ]),
    ...timeMarks(course.begin_s, course.end_s, width).map(([at_s, label]) =>
      shape("text", { class: "tick", x: x(at_s - course.begin_s).toFixed(1), y: HEIGHT - 6, "text-anchor": "middle" }, label),
    ),
    isEmpty ? shape("text", { class: "tick", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "not measured in this time") : null,
    ...chart.lines.flatMap((line) => drawn(line, x, y)),
    shape("path", { class: "cursor", d: `M0 ${EDGE.top}V${HEIGHT - EDGE.bottom}` }),
  );
}

/** A path that is interrupted where nothing was measured; a point between two gaps is a dot, and so is the last one. */
function drawn(line, x, y) {
  const parts = [];
  let isOn = false;
  line.values.forEach((value, place) => {
    if (value === null) isOn = false;
    else {
      const isAlone = !isOn && (line.values[place + 1] ?? null) === null;
      const point = `${x(line.times[place]).toFixed(1)} ${y(value).toFixed(1)}`;
      parts.push(`${isOn ? "L" : "M"}${point}${isAlone ? "h0.1" : ""}`);
      isOn = true;
    }
  });
  const last = line.values.length - 1;
  return [
    shape("path", { class: classOf(line), d: parts.join("") }),
    line.now === null || line.dashed ? null : dot(line, x(line.times[last]), y(line.now)),
  ];
}

/** Three to six round values. */
function valueMarks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const marks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) marks.push(Number((n * step).toPrecision(12)));
  return marks;
}

/** Round times of the clock on the wall where the browser is. */
function timeMarks(begin_s, end_s, width) {
  const most = Math.max(2, Math.floor(width / 80));
  const step = STEPS_S.find((one) => (end_s - begin_s) / one <= most) ?? STEPS_S.at(-1);
  const ahead_s = -60 * new Date(end_s * 1000).getTimezoneOffset();
  const marks = [];
  for (let at_s = Math.ceil((begin_s + ahead_s) / step) * step - ahead_s; at_s <= end_s; at_s += step) {
    marks.push([at_s, clock(at_s, "minutes")]);
  }
  return marks;
}
