"use strict";
// The page of a case: which map lies over the picture and how strongly, at which iteration, with which outlines.

const viewer = JSON.parse(document.getElementById("viewer").textContent);
const version = document.body.dataset.version;
const form = document.getElementById("controls"), field = name => form.elements[name];
const planes = [...document.querySelectorAll(".plane")];
const DEFAULTS = { opacity: "75", map: "1", grey: "1", truth: "all" };
const wanted = new URLSearchParams(location.hash.slice(1));
const strips = new Map();

const chosen = () => viewer.sets.find(set => field("set") && set.slug === field("set").value) || null;
const isOn = name => Boolean(field(name) && field(name).checked);
const each = (selector, visit) => document.querySelectorAll(selector).forEach(visit);
const pictureOf = name => `../pictures/${viewer.case}/${name}${version}`;
const mapOf = (set, name) => `../maps/${set.slug}/${viewer.case}/${name}${version}`;

function source(image, address) {
  if (image.dataset.address !== address) { image.dataset.address = address; image.src = address; }
}

// ── drawing ────────────────────────────────────────────────────────────────────────────────────────────────────────
function draw() {
  const set = chosen(), step = set ? Number(field("step").value) : 0;
  const inpainted = Boolean(set && set.inpainted && isOn("inpainted")), overlaid = Boolean(set && set.has && isOn("map"));
  const growing = overlaid && Boolean(set.strip) && step < set.strip.count - 1;
  for (const plane of planes) drawPlane(plane, set, { step, inpainted, overlaid, growing });
  each(".of-set", element => { element.hidden = !set || element.dataset.set !== set.slug; });
  each(".path .marker", marker => moveMarker(marker, step));
  if (set) drawControls(set, step);
  remember();
}

function drawPlane(plane, set, { step, inpainted, overlaid, growing }) {
  const name = plane.dataset.plane, stack = plane.querySelector(".stack");
  const suffix = field("channel") ? field("channel").value : Object.values(viewer.channels)[0];
  const whole = plane.querySelector(".whole"), canvas = plane.querySelector(".steps");
  source(plane.querySelector(".base"), inpainted ? mapOf(set, "inpainted.jpg") : pictureOf(name + suffix + ".jpg"));
  stack.classList.toggle("is-grey", isOn("grey"));
  whole.hidden = !overlaid || growing;
  if (!whole.hidden) source(whole, mapOf(set, name + ".png"));
  if (canvas) {
    canvas.hidden = !growing;
    if (growing) drawStep(canvas, set, step);
  }
  if (set) stack.style.setProperty("--opacity", field("opacity").value / 100);
  for (const image of plane.querySelectorAll("img.truth")) drawTruth(image, name);
}

function drawStep(canvas, set, step) {  // a frame of the strip; the browser smooths it as it stretches the canvas
  const strip = stripOf(set), { height, width } = set.strip;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const paint = () => {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    pen.drawImage(strip, 0, step * height, width, height, 0, 0, width, height);
    canvas.dataset.step = step;
  };
  if (strip.complete && strip.naturalWidth) paint(); else strip.onload = draw;
}

function stripOf(set) {
  if (!strips.has(set.slug)) {
    const image = new Image();
    image.src = mapOf(set, "steps.png");
    strips.set(set.slug, image);
  }
  return strips.get(set.slug);
}

function drawTruth(image, plane) {
  const number = image.dataset.lesion, there = (viewer.marked[number] || []).includes(plane);
  const box = form.querySelector(`input[name="truth"][value="${number}"]`);
  image.hidden = !(there && box && box.checked);
  if (!image.hidden) source(image, pictureOf(`${plane}-lesion-${number}.png`));
}

function moveMarker(marker, step) {
  const path = marker.ownerSVGElement, point = path.querySelector(`.point[data-step="${step}"]`);
  if (!point) return;
  marker.setAttribute("cx", point.getAttribute("cx"));
  marker.setAttribute("cy", point.getAttribute("cy"));
  marker.dataset.step = step;
}

function drawControls(set, step) {
  const slider = document.querySelector(".steps-row"), last = set.iterations;
  slider.hidden = !last;
  document.getElementById("at").textContent = `${step} / ${last}`;
  document.getElementById("opacity-shown").textContent = field("opacity").value + " %";
  document.querySelector(".inpainted-switch").hidden = !set.inpainted;
}

// ── state ──────────────────────────────────────────────────────────────────────────────────────────────────────────
function takeSet(step) {
  const set = chosen();
  if (!set) return;
  field("step").max = set.iterations;
  field("step").value = step === null || step === undefined || step === "" ? set.iterations : step;
}

function remember() {
  const state = new URLSearchParams(), put = (name, value) => { if (value !== (DEFAULTS[name] || "")) state.set(name, value); };
  const set = chosen();
  if (set) {
    put("set", set === viewer.sets[0] ? "" : set.slug);
    put("opacity", field("opacity").value);
    put("map", isOn("map") ? "1" : "0");
    put("inpainted", isOn("inpainted") ? "1" : "");
    if (Number(field("step").value) !== set.iterations) put("step", field("step").value);
  }
  put("grey", isOn("grey") ? "1" : "0");
  put("truth", truthState());
  const hash = state.toString();
  history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
  state.delete("step");
  const kept = state.toString();
  for (const id of ["previous", "next"]) {
    const link = document.getElementById(id);
    if (link) link.hash = kept;
  }
}

function truthState() {  // classes that this case lacks stay as they were
  const boxes = [...form.querySelectorAll('input[name="truth"]')];
  const off = boxes.filter(box => !box.checked).map(box => box.value);
  return off.length === 0 ? "all" : off.length === boxes.length ? "none" : "without " + off.join(" ");
}

function recall() {
  const get = name => wanted.get(name) ?? DEFAULTS[name] ?? "";
  if (field("set")) {
    const known = viewer.sets.some(set => set.slug === get("set"));
    field("set").value = known ? get("set") : (viewer.sets.find(set => set.has) || viewer.sets[0]).slug;
    field("opacity").value = get("opacity");
    field("map").checked = get("map") === "1";
    takeSet(wanted.get("step"));
  }
  field("grey").checked = get("grey") === "1";
  field("inpainted").checked = get("inpainted") === "1";
  const off = get("truth").split(" ").slice(1);
  each('input[name="truth"]', box => { box.checked = get("truth") !== "none" && !off.includes(box.value); });
}

// ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────────
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("input", event => {
  if (event.target.name === "set") takeSet();
  draw();
});
each(".path .point", point => point.addEventListener("click", () => { field("step").value = point.dataset.step; draw(); }));

const slices = document.querySelector('input[name="slice"]');
if (slices) slices.addEventListener("input", () => {
  const plane = slices.closest(".plane");
  plane.dataset.plane = "axial-" + slices.value;
  plane.querySelector("output").textContent = Number(slices.value) + 1;
  draw();
});

each("tr[data-y]", row => {
  const ring = document.querySelector('.plane[data-plane="image"] .ring');
  if (!ring) return;
  const point = () => { ring.hidden = false; ring.style.top = 100 * row.dataset.y + "%"; ring.style.left = 100 * row.dataset.x + "%"; };
  const leave = () => { ring.hidden = true; };
  row.addEventListener("mouseenter", point);
  row.addEventListener("focus", point);
  row.addEventListener("mouseleave", leave);
  row.addEventListener("blur", leave);
});

function stepBy(change) {
  const slider = slices || field("step");
  if (!slider) return;
  slider.value = Number(slider.value) + change;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
}

function toggle(name) {
  const boxes = [...form.querySelectorAll(`input[name="${name}"]:not(:disabled)`)], all = boxes.some(box => box.checked);
  boxes.forEach(box => { box.checked = !all; });
  draw();
}

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) location.href = link.href;
}

const KEYS = {
  ArrowLeft: () => follow("#previous"), ArrowRight: () => follow("#next"), Escape: () => back.click(),
  ",": () => stepBy(-1), ".": () => stepBy(1),
  m: () => toggle("map"), t: () => toggle("truth"), i: () => toggle("inpainted"), g: () => toggle("grey"),
};
document.addEventListener("keydown", event => {
  const held = event.altKey || event.ctrlKey || event.metaKey, sliding = event.target.matches('input[type="range"], select');
  if (held || !(event.key in KEYS) || (sliding && event.key.startsWith("Arrow"))) return;
  event.preventDefault();
  KEYS[event.key]();
});

const back = document.querySelector(".back");
try {  // to the grid as one left it
  back.hash = JSON.parse(sessionStorage.getItem("grid " + back.pathname) || '[""]')[0];
  back.addEventListener("click", () => sessionStorage.setItem("return", back.pathname));
} catch { /* private window */ }

recall();
draw();
