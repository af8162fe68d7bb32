"use strict";
// The grid of a cohort: filters and sorts the columns of cases.js, and holds only the cards that are in sight.

const TEXT_HEIGHT = 84, GAP = 14, OVERSCAN = 2, FEW_VALUES = 24, SETTLED_MS = 70;
const STOPS = { score: "score", cap: "cap", empty: "nothing to inpaint" };
const data = window.CASES, count = data.ids.length;
const version = document.body.dataset.version;
const form = document.getElementById("filters"), field = name => form.elements[name];
const main = document.getElementById("cases"), cards = document.getElementById("cards");
const template = document.getElementById("card").content.firstElementChild;

// ── columns ────────────────────────────────────────────────────────────────────────────────────────────────────────
const numbers = data.columns.map(typed);
const column = place => place === null || place === undefined ? null : numbers[place];
const caseNumber = at => data.cases ? data.cases[at] : at;
const label = name => data.labels.find(one => one.name === name) || null;
const shortNumber = value => Number.isNaN(value) ? "–" : String(Number(value.toPrecision(3)));
const percent = value => value === 0 ? "0 %" : value < 0.0005 ? "< 0.1 %" : (100 * value).toFixed(1) + " %";

function typed(values) {
  const made = new Float64Array(values.length);
  for (let at = 0; at < values.length; at++) made[at] = values[at] === null ? NaN : values[at];
  return made;
}

let words = null;
function wordsOf(at) {  // made at the first search
  words = words || data.ids.map((id, at) => (data.patients ? id + "\n" + data.patients[at] : id).toLowerCase());
  return words[at];
}

let set = null, target = null, load = null, span = [0, 1], order = null, found = new Uint32Array(0);

function takeSet() {
  set = data.sets.find(one => one.slug === field("set").value) || data.sets[0] || {};
  target = label(set.target) || data.labels[0] || null;
  load = column(set.load) || column(data.truthLoad);
  span = extent([target && column(target.values), column(set.score)]);
}

function extent(columns) {
  let low = Infinity, high = -Infinity;
  for (const values of columns) {
    if (values) for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  }
  return low < high ? [low, high] : [low - 1 || 0, low + 1 || 1];
}

// ── filter and sort ────────────────────────────────────────────────────────────────────────────────────────────────
const KEYS = {
  case: { title: "Case", values: () => null },
  id: { title: "Case id", values: idRanks },
  score: { title: "Score", values: () => column(set.score) },
  error: { title: "|label − score|", values: () => difference(target && column(target.values), column(set.score)) },
  load: { title: "Lesion load", values: () => load },
  iterations: { title: "Iterations", values: () => column(set.iterations) },
  label: { title: "Label", values: () => target && column(target.values) },
};
const sorted = new Map();

function difference(one, other) {
  return one && other ? one.map((value, at) => Math.abs(value - other[at])) : null;
}

function idRanks() {
  const keys = data.ids.map(id => id.replace(/\d+/g, digits => digits.padStart(12, "0")));
  const places = keys.map((_, at) => at);
  places.sort((a, b) => keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b);
  const ranks = new Float64Array(count);
  places.forEach((at, rank) => { ranks[at] = rank; });
  return ranks;
}

function sortedBy(key, down) {
  const name = [key, down, set.slug].join(" ");
  if (!sorted.has(name)) {
    const values = KEYS[key].values(), places = new Uint32Array(count);
    for (let at = 0; at < count; at++) places[at] = at;
    if (values) sortPlaces(places, values, down ? -1 : 1); else if (down) places.reverse();
    sorted.set(name, places);
  }
  return sorted.get(name);
}

function sortPlaces(places, values, sign) {  // what is unknown comes last, whichever way round
  const keys = values.map(value => Number.isNaN(value) ? Infinity : sign * value);
  places.sort((a, b) => keys[a] - keys[b] || a - b);
}

function tests() {
  const made = [], text = field("q").value.trim().toLowerCase();
  const coded = (codes, value) => { const code = Number(value); made.push(at => codes[at] === code); };
  if (field("split").value) coded(data.split.codes, field("split").value);
  if (field("stop").value && set.stop) coded(set.stop.codes, field("stop").value);
  if (field("truth").value) coded(data.truth, field("truth").value);
  if (field("label").value) made.push(labelTest(field("label").value));
  if (text) made.push(at => wordsOf(at).includes(text));
  return made;
}

function labelTest(choice) {
  const split = choice.lastIndexOf(":"), values = column(label(choice.slice(0, split)).values);
  const [low, high] = choice.slice(split + 1).split("..").map(text => text === "" ? NaN : Number(text));
  if (Number.isNaN(low)) return at => Number.isNaN(values[at]);
  return high === undefined ? at => values[at] === low : at => values[at] >= low && values[at] <= high;
}

function refresh(keepPlace) {
  const passes = tests(), down = field("sort").dataset.down === "1";
  order = sortedBy(field("sort").value, down);
  const kept = new Uint32Array(count);
  let length = 0;
  for (const at of order) {
    let passed = true;
    for (const test of passes) if (!test(at)) { passed = false; break; }
    if (passed) kept[length++] = at;
  }
  found = kept.subarray(0, length);
  document.getElementById("shown").textContent = length.toLocaleString("en");
  document.getElementById("none").hidden = length > 0;
  document.getElementById("clear").hidden = !passes.length;
  document.getElementById("direction").textContent = down ? "↓" : "↑";
  remember();
  if (!keepPlace) window.scrollTo(0, 0);
  lay();
}

// ── the cards in sight ─────────────────────────────────────────────────────────────────────────────────────────────
const alive = new Map();
let columns = 1, width = 200, rowHeight = 300, settling = 0;

function lay() {
  const room = main.clientWidth, wanted = Math.min(Number(field("size").value), (room - GAP) / 2);
  columns = Math.max(1, Math.floor((room + GAP) / (wanted + GAP)));
  width = Math.floor((room - GAP * (columns - 1)) / columns);
  rowHeight = width + TEXT_HEIGHT + GAP;
  main.style.height = Math.max(0, Math.ceil(found.length / columns) * rowHeight - GAP) + "px";
  for (const card of alive.values()) card.remove();
  alive.clear();
  show(true);
}

function show(atOnce) {
  const top = window.scrollY - main.offsetTop;
  const first = Math.max(0, (Math.floor(top / rowHeight) - OVERSCAN) * columns);
  const last = Math.min(found.length, (Math.ceil((top + window.innerHeight) / rowHeight) + OVERSCAN) * columns);
  for (const [place, card] of alive) {
    if (place < first || place >= last) { card.remove(); alive.delete(place); }
  }
  for (let place = first; place < last; place++) {
    if (!alive.has(place)) alive.set(place, cards.appendChild(cardAt(place)));
  }
  clearTimeout(settling);
  if (atOnce) loadPictures(); else settling = setTimeout(loadPictures, SETTLED_MS);
}

function loadPictures() {  // not while one scrolls past
  const heat = field("heat").checked && Boolean(set.slug);
  for (const card of alive.values()) {
    const at = Number(card.dataset.at), number = caseNumber(at);
    const [image, overlay] = card.querySelectorAll("img");
    if (!image.src) fetchInto(image, `thumbnails/${number}.jpg${version}`);
    const has = heat && (set.has === null || column(set.has)[at] === 1);
    overlay.hidden = !has;
    if (has) fetchInto(overlay, `maps/${set.slug}/${number}/small.png${version}`);
  }
}

function fetchInto(image, address) {
  image.onload = () => image.classList.add("there");
  image.src = address;
}

function cardAt(place) {
  const at = found[place], card = template.cloneNode(true), id = data.ids[at];
  const put = (name, text) => { card.querySelector("." + name).textContent = text; };
  const score = column(set.score), truth = target && column(target.values)[at];
  card.href = `cases/${caseNumber(at)}.html` + caseState();
  card.dataset.at = at;
  card.dataset.place = place;
  card.title = data.patients ? `${id}\npatient ${data.patients[at]}` : id;
  card.tabIndex = place === focusPlace ? 0 : -1;
  card.style.cssText = `left:${(place % columns) * (width + GAP)}px;top:${Math.floor(place / columns) * rowHeight}px;`
    + `width:${width}px;height:${width + TEXT_HEIGHT}px`;
  put("id", id);
  put("split", data.split.names[data.split.codes[at]] || "");
  put("label", target ? `${target.name} ${shortNumber(truth)}` : "");
  put("score", score ? `score ${shortNumber(score[at])}` : "");
  put("stop", stopText(at));
  put("load", load && !Number.isNaN(load[at]) ? `load ${percent(load[at])}` : "load –");
  mark(card.querySelector(".truth"), truth);
  mark(card.querySelector(".dot"), score && score[at]);
  return card;
}

function mark(element, value) {
  const known = typeof value === "number" && !Number.isNaN(value);
  element.hidden = !known;
  if (known) element.style.left = 100 * (value - span[0]) / (span[1] - span[0]) + "%";
}

function stopText(at) {
  if (!set.stop || set.stop.codes[at] < 0) return "";
  const name = set.stop.names[set.stop.codes[at]], iterations = column(set.iterations);
  return (STOPS[name] || name) + (iterations && !Number.isNaN(iterations[at]) ? ` · ${iterations[at]} it.` : "");
}

// ── the address keeps the state ────────────────────────────────────────────────────────────────────────────────────
const STATE = ["q", "set", "split", "label", "stop", "truth", "sort", "size"];
const DEFAULTS = { sort: "case", size: "190" };

function remember() {
  const state = new URLSearchParams();
  for (const name of STATE) {
    const value = field(name).value;
    if (value && value !== (DEFAULTS[name] || "") && !(name === "set" && set === data.sets[0])) state.set(name, spelled(name, value));
  }
  if (field("sort").dataset.down === "1") state.set("down", "1");
  if (field("heat").checked) state.set("heat", "1");
  const hash = state.toString();
  history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
}

function spelled(name, value) {  // names, since a number may mean another one tomorrow
  if (name === "split") return data.split.names[value];
  return name === "stop" && set.stop ? set.stop.names[value] : value;
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  field("set").value = state.get("set") || (data.sets[0] || {}).slug || "";
  takeSet();
  fillStops();
  for (const name of STATE) {
    if (name !== "set") field(name).value = codeOf(name, state.get(name) || DEFAULTS[name] || "");
    if (field(name).selectedIndex === -1) field(name).selectedIndex = 0;
  }
  field("sort").dataset.down = state.get("down") || "0";
  field("heat").checked = state.get("heat") === "1";
  main.classList.toggle("with-heat", field("heat").checked);
}

function codeOf(name, value) {
  const names = name === "split" ? data.split.names : name === "stop" && set.stop ? set.stop.names : null;
  return names && value ? String(names.indexOf(value)) : value;
}

function caseState() {
  return set.slug && set !== data.sets[0] ? "#" + new URLSearchParams({ set: set.slug }) : "";
}

// ── choices ────────────────────────────────────────────────────────────────────────────────────────────────────────
function option(parent, value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  parent.append(made);
}

function fillCoded(select, coded, spell) {
  select.replaceChildren();
  option(select, "", "any");
  if (!coded) return;
  const totals = coded.names.map(() => 0);
  for (const code of coded.codes) totals[code]++;
  coded.names.forEach((name, code) => option(select, code, `${spell(name)} (${totals[code].toLocaleString("en")})`));
}

function fillStops() {
  fillCoded(field("stop"), set.stop, name => STOPS[name] || name);
  field("stop").parentElement.hidden = !set.stop;
}

function fillLabels() {
  option(field("label"), "", "any");
  for (const one of data.labels) {
    const group = document.createElement("optgroup");
    group.label = one.name;
    for (const [value, text] of labelChoices(column(one.values))) option(group, `${one.name}:${value}`, text);
    field("label").append(group);
  }
  field("label").parentElement.hidden = !data.labels.length;
}

function labelChoices(values) {  // its values where they are few, else fifths
  const totals = new Map();
  let unknown = 0;
  for (const value of values) {
    if (Number.isNaN(value)) unknown++; else if (totals.size <= FEW_VALUES) totals.set(value, (totals.get(value) || 0) + 1);
  }
  const missing = unknown ? [["", `unknown (${unknown.toLocaleString("en")})`]] : [];
  if (totals.size <= FEW_VALUES) {
    return [...totals].sort((a, b) => a[0] - b[0]).map(([value, n]) => [value, `${value} (${n.toLocaleString("en")})`]).concat(missing);
  }
  const known = values.filter(value => !Number.isNaN(value)).sort();
  const cut = share => known[Math.round(share * (known.length - 1))];
  return [0, 1, 2, 3, 4].map(part => [cut(part / 5), cut((part + 1) / 5)])
    .map(([low, high]) => [`${low}..${high}`, `${shortNumber(low)} to ${shortNumber(high)}`]).concat(missing);
}

function fill() {
  for (const one of data.sets) option(field("set"), one.slug, one.slug);
  field("set").parentElement.hidden = !data.sets.length;
  field("heat").parentElement.hidden = !data.sets.length;
  fillCoded(field("split"), data.split, name => name);
  fillLabels();
  for (const [key, { title }] of Object.entries(KEYS)) option(field("sort"), key, title);
}

// ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────────
let focusPlace = 0, typing = 0;

function clear() {
  for (const name of ["q", "split", "label", "stop", "truth"]) field(name).value = "";
  refresh();
}

form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("input", event => {
  const name = event.target.name;
  if (name === "q") { clearTimeout(typing); typing = setTimeout(refresh, 60); return; }
  if (name === "size") { remember(); lay(); return; }
  if (name === "heat") { main.classList.toggle("with-heat", event.target.checked); remember(); loadPictures(); return; }
  if (name === "set") { takeSet(); fillStops(); }
  if (name === "sort") field("sort").dataset.down = ["case", "id", "label"].includes(field("sort").value) ? "0" : "1";
  refresh();
});
document.getElementById("direction").addEventListener("click", () => {
  field("sort").dataset.down = field("sort").dataset.down === "1" ? "0" : "1";
  refresh();
});
document.getElementById("clear").addEventListener("click", clear);
document.getElementById("clear-too").addEventListener("click", clear);
window.addEventListener("scroll", () => requestAnimationFrame(() => show(false)), { passive: true });
let resizing = 0;
window.addEventListener("resize", () => { cancelAnimationFrame(resizing); resizing = requestAnimationFrame(lay); });
window.addEventListener("hashchange", () => { recall(); refresh(); });

document.addEventListener("keydown", event => {
  const typed = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typed) { event.preventDefault(); field("q").focus(); }
  if (event.key === "Escape" && typed) event.target.blur();
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -found.length, End: found.length }[event.key];
  if (step && !typed && !event.altKey && !event.ctrlKey && !event.metaKey && found.length) { event.preventDefault(); focusBy(step); }
});

function focusBy(step) {
  const focused = document.activeElement.closest(".card");
  focusPlace = focused ? Math.min(found.length - 1, Math.max(0, Number(focused.dataset.place) + step)) : firstInSight();
  const top = main.offsetTop + Math.floor(focusPlace / columns) * rowHeight;
  const bar = document.querySelector(".bar").getBoundingClientRect().bottom + GAP;
  if (top < window.scrollY + bar) window.scrollTo(0, top - bar);
  else if (top + rowHeight > window.scrollY + window.innerHeight) window.scrollTo(0, top + rowHeight - window.innerHeight);
  show(false);
  const card = alive.get(focusPlace);
  if (card) { card.tabIndex = 0; card.focus({ preventScroll: true }); }
}

function firstInSight() {
  return Math.min(found.length - 1, Math.max(0, Math.ceil((window.scrollY - main.offsetTop) / rowHeight) * columns));
}

const placeKey = "grid " + location.pathname;
window.addEventListener("pagehide", () => {
  try { sessionStorage.setItem(placeKey, JSON.stringify([location.hash, window.scrollY])); } catch { /* private window */ }
});

function comeBack() {  // the height is only known now, too late for the browser's own memory
  try {
    const [hash, top] = JSON.parse(sessionStorage.getItem(placeKey) || "[]");
    const came = performance.getEntriesByType("navigation")[0], left = sessionStorage.getItem("return") === location.pathname;
    sessionStorage.removeItem("return");
    if ((left || (came && came.type === "back_forward")) && hash === location.hash) window.scrollTo(0, top);
  } catch { /* private window */ }
}

fill();
recall();
refresh(true);
comeBack();
