// A slide at full resolution with its objects drawn on it.
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.module.js";
import * as acts from "./acts.js";
import { cropUrl, get, slideUrl } from "./api.js";
import { go } from "./app.js";
import { colourOf, KINDS, shown, statesOf } from "./names.js";
import { Picker } from "./picker.js";
import { Specimen } from "./specimen.js";

const DOTS_BELOW_PX = 3;
const number = new Intl.NumberFormat("en");

let library = /** @type {Promise<any>|null} */ (null);
/** @returns {Promise<any>} OpenSeadragon, fetched at the first slide */
function openSeadragon() {
  library ??= new Promise((resolve, reject) => {
    // The library adds a style element unless there is one, and the content security policy refuses it. An element of
    // that name in no namespace of HTML is none to the browser; style.css has the rule.
    const inert = document.createElementNS("urn:fossilray", "style");
    inert.setAttribute("data-openseadragon-mobile-css", "true");
    document.head.append(inert);
    const script = document.createElement("script");
    script.src = "/static/vendor/openseadragon.min.js";
    script.onload = () => resolve(/** @type {any} */ (window).OpenSeadragon);
    script.onerror = () => reject(new Error("the viewer could not be loaded"));
    document.head.append(script);
  });
  return library;
}

/** @param {{run: string, slideId: string, values: URLSearchParams, session: import("./api.js").Session}} props */
export function SlidePage({ run, slideId, values, session }) {
  const base = `/runs/${encodeURIComponent(run)}/slides/${encodeURIComponent(slideId)}`;
  const [slide, setSlide] = useState(/** @type {any} */ (null));
  const [objects, setObjects] = useState(/** @type {any} */ (null));
  const [problem, setProblem] = useState("");
  const [picked, setPicked] = useState(/** @type {number|null} */ (values.has("object") ? Number(values.get("object")) : null));
  const [hovered, setHovered] = useState(/** @type {{row: number, x: number, y: number}|null} */ (null));
  const [shows, setShows] = useState(true);
  const [colouring, setColouring] = useState("taxon");
  const [light, setLight] = useState({ brightness: 1, contrast: 1 });
  const [scale, setScale] = useState({ px: 0, um: 0 });
  const [pointer, setPointer] = useState("");
  const picker = /** @type {{current: import("./picker.js").PickerHandle|null}} */ (useRef(null));
  const missed = /** @type {{current: number[]|null}} */ (useRef(null));
  const [isDrawing, setIsDrawing] = useState(false);
  const [taxa, setTaxa] = useState(/** @type {string[]} */ ([]));
  const [waitsForKind, setWaitsForKind] = useState(false);
  const stage = /** @type {{current: HTMLElement|null}} */ (useRef(null));
  const viewer = /** @type {{current: any}} */ (useRef(null));
  const drawn = /** @type {{current: any}} */ (useRef({}));
  drawn.current = { objects, slide, picked, shows, colouring };

  useEffect(() => {
    get(base).then(setSlide, (error) => setProblem(error.message));
    get(`${base}/objects`).then(setObjects, (error) => setProblem(error.message));
    get(`/runs/${encodeURIComponent(run)}/taxa`).then((found) => setTaxa(found.map((/** @type {any} */ one) => one.name).filter((/** @type {string} */ name) => !KINDS.includes(name))), () => {});
  }, [base]);

  useEffect(() => {
    if (!slide || !stage.current) return undefined;
    let isGone = false;
    const element = stage.current;
    openSeadragon().then((library_) => {
      if (isGone) return;
      const [left, top, right, bottom] = slide.bounds;
      const made = library_({
        element, drawer: "canvas", showNavigationControl: false, showNavigator: true, navigatorPosition: "BOTTOM_RIGHT", navigatorAutoFade: false,
        maxZoomPixelRatio: 4, minZoomImageRatio: 0.8, animationTime: 0.4, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, crossOriginPolicy: false,
        tileSources: {
          width: right - left, height: bottom - top, tileSize: slide.tile_px, minLevel: 6, maxLevel: slide.top_level,
          getTileUrl: (/** @type {number} */ level, /** @type {number} */ x, /** @type {number} */ y) => `/api${base}/${slide.attempt}/tiles/${level}/${x}_${y}.jpg`,
        },
      });
      viewer.current = made;
      const canvas = document.createElement("canvas");
      canvas.className = "boxes";
      canvas.setAttribute("aria-hidden", "true");
      made.canvas.append(canvas);
      const draw = () => paint(made, canvas, drawn.current, library_);
      made.addHandler("update-viewport", draw);
      made.addHandler("resize", draw);
      drawn.current.draw = draw;
      made.addHandler("open", () => showAddress(made, library_, slide, drawn.current, values));
      made.addHandler("animation-finish", () => { setScale(scaleOf(made, slide, library_)); keep(made, slide, library_); });
      made.addHandler("open-failed", () => setProblem("the slide could not be opened"));
      made.addHandler("tile-load-failed", (/** @type {any} */ event) => {
        if (!drawn.current.complained) { drawn.current.complained = true; explain(event.tile?.getUrl?.(), setProblem); }
      });
      made.addHandler("canvas-click", (/** @type {any} */ event) => {
        if (!event.quick) return;
        const row = rowAt(made, library_, drawn.current, event.position);
        setPicked(row === null ? null : drawn.current.objects.object_id[row]);
      });
      // The library's mouse tracker stops no native events.
      made.canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
        const area = made.canvas.getBoundingClientRect();
        const position = new library_.Point(event.clientX - area.left, event.clientY - area.top);
        const at = imagePoint(made, library_, position);
        setPointer(`${((at.x * slide.mpp) / 1000).toFixed(2)}, ${((at.y * slide.mpp) / 1000).toFixed(2)} mm`);
        const row = rowAt(made, library_, drawn.current, position);
        setHovered(row === null ? null : { row, x: position.x, y: position.y });
      });
      made.canvas.addEventListener("pointerleave", () => setHovered(null));
    }, (error) => setProblem(error.message));
    return () => { isGone = true; viewer.current?.destroy(); viewer.current = null; };
  }, [slide]);

  useEffect(() => { viewer.current?.forceRedraw(); }, [objects, picked, shows, colouring]);
  useEffect(() => {
    const made = viewer.current;
    if (!made) return;
    for (const canvas of made.canvas.querySelectorAll("canvas:not(.boxes)")) canvas.style.filter = `brightness(${light.brightness}) contrast(${light.contrast})`;
  }, [light, slide]);
  useEffect(() => { viewer.current?.setMouseNavEnabled(!isDrawing); }, [isDrawing]);

  const row = objects && picked !== null ? objects.object_id.indexOf(picked) : -1;
  const crop = slide && row >= 0 ? cropOf(slide, objects, row) : null;
  const before = () => {
    const label = row >= 0 ? objects.labels[objects.object_id[row]] : null;
    return label?.who === session.name ? label.states : null;
  };

  /** @param {import("./api.js").States|null} states @param {number[]|null} [box] */
  async function give(states, box = null) {
    if (!session.may_label) { setProblem("You may look, not label."); return; }
    const object = box ? { slide_id: slideId, object_id: null, box, attempt: slide.attempt, before: null } : crop && { ...crop, before: before() };
    if (!object || (!states && !object.before)) return;
    setObjects((/** @type {any} */ old) => {
      if (box) return states ? { ...old, missed: [...old.missed, { box, name: shown(states), who: session.name }] } : old;
      const labels = { ...old.labels };
      if (states) labels[/** @type {number} */ (object.object_id)] = { states, who: session.name, at: new Date().toISOString() };
      else delete labels[/** @type {number} */ (object.object_id)];
      return { ...old, labels };
    });
    try {
      await acts.label(run, [object], () => states);
    } catch (error) {
      setProblem(`This browser keeps no label (${error instanceof Error ? error.message : error}); nothing was recorded.`);
    }
  }
  async function undo() {
    const undone = await acts.undo();
    if (undone) get(`${base}/objects`).then(setObjects, (error) => setProblem(error.message));
  }

  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.altKey || event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
    if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); void undo(); return; }
    if (event.ctrlKey || event.metaKey) return;
    const made = viewer.current, key = event.key;
    if (waitsForKind) {
      setWaitsForKind(false);
      const kind = /** @type {Record<string, string>} */ ({ w: "wood", c: "cuticle", a: "amorphous matter", m: "mineral", b: "bubble", d: "dirt", s: "several objects", p: "part of an object", n: "no object" })[key];
      if (kind && crop) void give(statesOf(kind));
      return;
    }
    if (key === "+" || key === "=") made?.viewport.zoomBy(1.5);
    else if (key === "-") made?.viewport.zoomBy(1 / 1.5);
    else if (key === "0") made?.viewport.goHome();
    else if (key === "b") setShows(!shows);
    else if (key === "m") setIsDrawing(!isDrawing);
    else if (key === "Escape") { setIsDrawing(false); setPicked(null); }
    else if (key === "x" && crop) setWaitsForKind(true);
    else if (key === "ArrowRight" || key === "ArrowLeft") { event.preventDefault(); step(key === "ArrowRight" ? 1 : -1); }
    else if (crop && key === "Enter" && crop.taxon) void give(statesOf(crop.taxon));
    else if (crop && key === ".") { const last = acts.lastStates(); if (last) void give(last); }
    else if (crop && key >= "1" && key <= "9") { const name = acts.lastNames()[Number(key) - 1]; if (name) void give(statesOf(name)); }
    else if (crop && (key === "Backspace" || key === "Delete")) void give(null);
    else if (crop && /^\p{L}$/u.test(key)) { missed.current = null; picker.current?.open(); } // which takes the letter
    else return;
  };
  const latest = useRef(onKey);
  latest.current = onKey;
  useEffect(() => {
    const key = (/** @type {KeyboardEvent} */ event) => latest.current(event);
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);

  /** @param {number} by */
  function step(by) {
    if (!objects?.object_id.length) return;
    const next = (row + by + objects.object_id.length) % objects.object_id.length;
    setPicked(objects.object_id[next]);
    centre(viewer.current, slide, objects, next);
  }

  return html`<main class="slide">
    <section class="stage">
      <div class="conditions" role="toolbar" aria-label="View">
        <b>${slideId}</b>
        ${slide && html`<span class="note">${[slide.well, slide.depth_m === null ? "" : `${slide.depth_m} m`, `${number.format(slide.objects)} objects`].filter(Boolean).join(" · ")}</span>`}
        <span class="grow"></span>
        <label>Colour <select value=${colouring} onChange=${(/** @type {any} */ event) => { setColouring(event.target.value); event.target.blur(); }}>
          ${[["taxon", "by name"], ["confidence", "by confidence"], ["score", "by detector's score"]].map(([key, text]) => html`<option value=${key}>${text}</option>`)}</select></label>
        <label>Brightness <input type="range" min="0.5" max="2" step="0.05" value=${light.brightness} onInput=${(/** @type {any} */ e) => setLight({ ...light, brightness: Number(e.target.value) })} /></label>
        <label>Contrast <input type="range" min="0.5" max="3" step="0.05" value=${light.contrast} onInput=${(/** @type {any} */ e) => setLight({ ...light, contrast: Number(e.target.value) })} /></label>
        <button aria-pressed=${shows} onClick=${() => setShows(!shows)} title="Boxes on or off (b)">boxes</button>
        <button aria-pressed=${isDrawing} onClick=${() => setIsDrawing(!isDrawing)} title="Draw a fossil that the detector missed (m)">draw missed</button>
        ${slide?.previous && html`<a class="button" href=${slideUrl(run, slide.previous)} title=${slide.previous}>‹ slide</a>`}
        ${slide?.next && html`<a class="button" href=${slideUrl(run, slide.next)} title=${slide.next}>slide ›</a>`}
      </div>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="viewer">
        <div class="osd" ref=${stage} role="application" aria-label="Slide; plus and minus zoom, arrows go from object to object"></div>
        ${isDrawing && html`<${Draw} viewer=${viewer.current} slide=${slide} onBox=${(/** @type {number[]} */ box) => { setIsDrawing(false); missed.current = box; picker.current?.open(); }} />`}
        ${hovered && objects && slide && html`<${Hover} run=${run} slide=${slide} objects=${objects} ...${hovered} />`}
        ${scale.px > 0 && html`<div class="scale" style=${{ width: `${scale.px}px` }}>${scale.um >= 1000 ? `${scale.um / 1000} mm` : `${scale.um} µm`}</div>`}
        <div class="pointer" title="From the left and upper side of the scanned area">${pointer}</div>
        <${Picker} handle=${picker} names=${taxa} onChoose=${(/** @type {string} */ name) => void give(statesOf(name), missed.current)} />
        ${waitsForKind && html`<div class="prompt over">Not a fossil: <kbd>n</kbd> no object <kbd>w</kbd> wood <kbd>c</kbd> cuticle <kbd>a</kbd> amorphous <kbd>m</kbd> mineral <kbd>b</kbd> bubble <kbd>d</kbd> dirt <kbd>s</kbd> several <kbd>p</kbd> part</div>`}
      </div>
    </section>
    <aside class="right" aria-label="Selected object">
      ${crop ? html`<${Specimen} key=${crop.object_id} run=${run} crop=${{ ...crop, label: objects.labels[crop.object_id] ? { states: objects.states?.[crop.object_id] } : null }} />
        <p><a href=${`/label?run=${encodeURIComponent(run)}&slide=${encodeURIComponent(slideId)}`}>all crops of this slide</a></p>`
        : html`<p class="note">Click an object to see it here. Type a name to label it.</p><p><a href=${`/label?run=${encodeURIComponent(run)}&slide=${encodeURIComponent(slideId)}`}>all crops of this slide</a></p>
        ${slide?.doubts.map((/** @type {string} */ text) => html`<p class="problem">${text}</p>`)}`}
    </aside>
  </main>`;
}

/** @param {{run: string, slide: any, objects: any, row: number, x: number, y: number}} props */
function Hover({ run, slide, objects, row, x, y }) {
  const id = objects.object_id[row], taxon = objects.taxa[objects.taxon[row]], label = objects.labels[id], confidence = objects.confidence[row];
  const width = (objects.x_max[row] - objects.x_min[row]) * slide.mpp, height = (objects.y_max[row] - objects.y_min[row]) * slide.mpp, longest = Math.max(width, height);
  return html`<div class="hover" style=${{ left: `${x + 16}px`, top: `${y + 16}px` }}>
    <img alt="" src=${cropUrl(run, slide, id)} style=${{ width: `${(120 * width) / longest}px`, height: `${(120 * height) / longest}px` }} />
    <div>${label ? html`<b>${shown(label.states)}</b>` : taxon ? html`<i>${taxon}</i>${confidence === null ? "" : ` ${Math.round(confidence * 100)} %`}` : "not named"}<br />${Math.round(width)} × ${Math.round(height)} µm · #${id}</div></div>`;
}

/** @param {{viewer: any, slide: any, onBox: (box: number[]) => void}} props a veil on which a box is drawn */
function Draw({ viewer, slide, onBox }) {
  const [from, setFrom] = useState(/** @type {number[]|null} */ (null));
  const [to, setTo] = useState([0, 0]);
  const at = (/** @type {PointerEvent} */ event) => {
    const area = /** @type {HTMLElement} */ (event.currentTarget).getBoundingClientRect();
    return [event.clientX - area.left, event.clientY - area.top];
  };
  const end = (/** @type {PointerEvent} */ event) => {
    if (!from) return;
    const library_ = /** @type {any} */ (window).OpenSeadragon;
    const corners = [from, at(event)].map(([x, y]) => imagePoint(viewer, library_, new library_.Point(x, y)));
    setFrom(null);
    const [left, top, right, bottom] = slide.bounds;
    const within = (/** @type {number} */ value, /** @type {number} */ low, /** @type {number} */ high) => Math.min(Math.max(Math.round(value), low), high);
    const xs = corners.map((corner) => within(corner.x + left, left, right)).sort((a, b) => a - b), ys = corners.map((corner) => within(corner.y + top, top, bottom)).sort((a, b) => a - b);
    if (xs[1] - xs[0] >= 4 && ys[1] - ys[0] >= 4) onBox([xs[0], ys[0], xs[1], ys[1]]);
  };
  const box = from && { left: `${Math.min(from[0], to[0])}px`, top: `${Math.min(from[1], to[1])}px`, width: `${Math.abs(from[0] - to[0])}px`, height: `${Math.abs(from[1] - to[1])}px` };
  return html`<div class="draw" onPointerDown=${(/** @type {PointerEvent} */ event) => { setFrom(at(event)); setTo(at(event)); }} onPointerMove=${(/** @type {PointerEvent} */ event) => from && setTo(at(event))} onPointerUp=${end}>
    <span class="prompt">drag a box around the fossil, then type its name · Escape ends</span>${box && html`<div class="drawn" style=${box}></div>`}</div>`;
}

/** @param {any} viewer @param {any} library_ @param {any} position @returns {any} px of the scanned area */
const imagePoint = (viewer, library_, position) => viewer.viewport.viewerElementToImageCoordinates(position);

/** Draws the boxes that lie in view; dots where they would be smaller than DOTS_BELOW_PX.
 * @param {any} viewer @param {HTMLCanvasElement} canvas @param {any} state @param {any} library_ */
function paint(viewer, canvas, state, library_) {
  const size = viewer.viewport.getContainerSize(), ratio = devicePixelRatio || 1;
  if (canvas.width !== size.x * ratio || canvas.height !== size.y * ratio) {
    canvas.width = size.x * ratio;
    canvas.height = size.y * ratio;
    canvas.style.width = `${size.x}px`;
    canvas.style.height = `${size.y}px`;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, size.x, size.y);
  const { objects, slide, shows, picked, colouring } = state;
  if (!objects || !slide) return;
  const origin = viewer.viewport.imageToViewerElementCoordinates(new library_.Point(0, 0));
  const zoom = viewer.viewport.imageToViewerElementCoordinates(new library_.Point(1000, 0)).x / 1000 - origin.x / 1000;
  const [left, top] = slide.bounds;
  const onScreen = (/** @type {number} */ x, /** @type {number} */ y) => [origin.x + (x - left) * zoom, origin.y + (y - top) * zoom];
  const groups = new Map();
  for (let row = 0; row < objects.object_id.length; row += 1) {
    const [x0, y0] = onScreen(objects.x_min[row], objects.y_min[row]), [x1, y1] = onScreen(objects.x_max[row], objects.y_max[row]);
    if (x1 < 0 || y1 < 0 || x0 > size.x || y0 > size.y) continue;
    const id = objects.object_id[row];
    if (!shows && id !== picked) continue;
    const colour = colourFor(objects, row, colouring);
    const key = `${colour}|${objects.labels[id] ? 1 : 0}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(x0, y0, Math.max(x1 - x0, DOTS_BELOW_PX), Math.max(y1 - y0, DOTS_BELOW_PX), x1 - x0);
  }
  for (const [key, boxes] of groups) {
    const [colour, isLabelled] = key.split("|");
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = isLabelled === "1" ? 2.5 : 1.25;
    context.beginPath();
    for (let i = 0; i < boxes.length; i += 5)
      if (boxes[i + 4] < DOTS_BELOW_PX) context.fillRect(boxes[i], boxes[i + 1], DOTS_BELOW_PX, DOTS_BELOW_PX);
      else context.rect(boxes[i], boxes[i + 1], boxes[i + 2], boxes[i + 3]);
    context.stroke();
  }
  context.setLineDash([5, 3]);
  context.strokeStyle = "#0a7d3c";
  context.lineWidth = 2;
  for (const missed of shows ? objects.missed : []) {
    const [x0, y0] = onScreen(missed.box[0], missed.box[1]), [x1, y1] = onScreen(missed.box[2], missed.box[3]);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  context.setLineDash([]);
  const row = picked === null ? -1 : objects.object_id.indexOf(picked);
  if (row >= 0) {
    const [x0, y0] = onScreen(objects.x_min[row], objects.y_min[row]), [x1, y1] = onScreen(objects.x_max[row], objects.y_max[row]);
    for (const [colour, width] of /** @type {[string, number][]} */ ([["#ffffff", 5], ["#111111", 2]])) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(x0 - 3, y0 - 3, x1 - x0 + 6, y1 - y0 + 6);
    }
  }
}

/** @param {any} objects @param {number} row @param {string} colouring */
function colourFor(objects, row, colouring) {
  if (colouring === "score" || colouring === "confidence") {
    const value = colouring === "score" ? objects.score[row] : objects.confidence[row];
    return value === null ? "#808080" : `hsl(${Math.round(10 + 200 * value)} 75% 42%)`;
  }
  const states = objects.labels[objects.object_id[row]]?.states;
  return colourOf(states ? states.name || states.kind : objects.taxa[objects.taxon[row]]);
}

/** @param {any} viewer @param {any} library_ @param {any} state @param {any} position @returns {number|null} the smallest box there */
function rowAt(viewer, library_, state, position) {
  const { objects, slide } = state;
  if (!objects || !slide) return null;
  const at = imagePoint(viewer, library_, position), x = at.x + slide.bounds[0], y = at.y + slide.bounds[1];
  let found = null, least = Infinity;
  for (let row = 0; row < objects.object_id.length; row += 1) {
    if (x < objects.x_min[row] || x > objects.x_max[row] || y < objects.y_min[row] || y > objects.y_max[row]) continue;
    const area = (objects.x_max[row] - objects.x_min[row]) * (objects.y_max[row] - objects.y_min[row]);
    if (area < least) { least = area; found = row; }
  }
  return found;
}

/** @param {any} viewer @param {any} slide @param {any} objects @param {number} row */
function centre(viewer, slide, objects, row) {
  const library_ = /** @type {any} */ (window).OpenSeadragon;
  if (!viewer || row < 0) return;
  const width = objects.x_max[row] - objects.x_min[row], height = objects.y_max[row] - objects.y_min[row], margin = 3 * Math.max(width, height, 60);
  const rect = viewer.viewport.imageToViewportRectangle(new library_.Rect(objects.x_min[row] - slide.bounds[0] - margin, objects.y_min[row] - slide.bounds[1] - margin, width + 2 * margin, height + 2 * margin));
  viewer.viewport.fitBounds(rect);
}

/** Shows what the address names: an object, or a point and a zoom.
 * @param {any} viewer @param {any} library_ @param {any} slide @param {any} state @param {URLSearchParams} values */
function showAddress(viewer, library_, slide, state, values) {
  if (values.has("x") && values.has("y")) {
    const point = viewer.viewport.imageToViewportCoordinates(new library_.Point(Number(values.get("x")) - slide.bounds[0], Number(values.get("y")) - slide.bounds[1]));
    viewer.viewport.panTo(point, true);
    if (values.has("zoom")) viewer.viewport.zoomTo(viewer.viewport.imageToViewportZoom(Number(values.get("zoom"))), point, true);
  } else if (values.has("object")) {
    const wait = () => {
      const { objects } = state.objects ? state : { objects: null };
      if (objects) centre(viewer, slide, objects, objects.object_id.indexOf(Number(values.get("object"))));
      else setTimeout(wait, 50);
    };
    wait();
  }
}

/** Keeps the position in the address, so that a link leads to it.
 * @param {any} viewer @param {any} slide @param {any} library_ */
function keep(viewer, slide, library_) {
  const middle = viewer.viewport.viewportToImageCoordinates(viewer.viewport.getCenter(true));
  const values = new URLSearchParams(location.search);
  values.delete("object");
  values.set("x", String(Math.round(middle.x + slide.bounds[0])));
  values.set("y", String(Math.round(middle.y + slide.bounds[1])));
  values.set("zoom", viewer.viewport.viewportToImageZoom(viewer.viewport.getZoom(true)).toPrecision(3));
  history.replaceState(null, "", `${location.pathname}?${values}`);
}

/** @param {any} viewer @param {any} slide @param {any} library_ @returns {{px: number, um: number}} a round length of at most 160 px */
function scaleOf(viewer, slide, library_) {
  const umPerPx = slide.mpp / viewer.viewport.viewportToImageZoom(viewer.viewport.getZoom(true));
  const most = 160 * umPerPx, power = 10 ** Math.floor(Math.log10(most));
  const um = [5, 2, 1].map((step) => step * power).find((length) => length <= most) ?? power;
  return { um, px: um / umPerPx };
}

/** @param {any} slide @param {any} objects @param {number} row @returns {import("./api.js").Crop} */
function cropOf(slide, objects, row) {
  return {
    slide_id: slide.slide_id, object_id: objects.object_id[row], attempt: slide.attempt,
    box: [objects.x_min[row], objects.y_min[row], objects.x_max[row], objects.y_max[row]],
    width_um: (objects.x_max[row] - objects.x_min[row]) * slide.mpp, height_um: (objects.y_max[row] - objects.y_min[row]) * slide.mpp,
    taxon: objects.taxa[objects.taxon[row]] ?? null, confidence: objects.confidence[row], label: objects.labels[objects.object_id[row]] ?? null, conflict: false,
  };
}

/** @param {string|undefined} url @param {(text: string) => void} tell shows why a tile failed, in the server's words */
function explain(url, tell) {
  if (url) fetch(url).then((response) => (response.ok ? null : response.json().then((body) => tell(body.detail))), () => tell("the server cannot be reached"));
}
