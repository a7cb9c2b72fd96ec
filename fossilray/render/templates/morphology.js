"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const sheet = document.getElementById("sheet");
  const canvas = document.getElementById("map");
  const pen = canvas.getContext("2d");
  const tip = document.getElementById("tip");
  const count = data.label.length;
  const hue = (c) => `hsl(${Math.round((c * 137.508) % 360)} ${c % 2 ? 62 : 78}% ${c % 3 ? 42 : 54}%)`;
  const colours = data.classes.map((_, c) => hue(c));
  const picked = new Set();
  let layout = Object.keys(data.layouts)[0];
  let scale = 1, left = 0, top = 0, pointed = -1, moved = false;
  const side = () => Math.min(canvas.clientWidth, canvas.clientHeight);

  function reset() {
    moved = false;
    scale = side() * 0.92;
    left = (canvas.clientWidth - scale) / 2;
    top = (canvas.clientHeight - scale) / 2;
    draw();
  }
  const locate = (i) => [left + scale * data.layouts[layout][i][0], top + scale * data.layouts[layout][i][1]];
  // Crops grow with the zoom up to their own size, then move apart; many crops begin as dots.
  const size = () => Math.max(5, Math.min(data.thumb * 1.6, (scale / side()) * (7 + 320 / Math.sqrt(count))));

  function draw() {
    const dots = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * dots;
    canvas.height = canvas.clientHeight * dots;
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    const own = size();
    const order = [...Array(count).keys()];
    if (picked.size) order.sort((a, b) => picked.has(data.label[a]) - picked.has(data.label[b]));
    for (const i of order) {
      const [x, y] = locate(i);
      if (x < -own || y < -own || x > canvas.clientWidth + own || y > canvas.clientHeight + own) continue;
      const c = data.label[i];
      pen.globalAlpha = picked.size && !picked.has(c) ? 0.12 : 1;
      drawCrop(i, x, y, own);
    }
    pen.globalAlpha = 1;
    if (pointed >= 0) { const [x, y] = locate(pointed); drawCrop(pointed, x, y, Math.max(own, data.thumb) * 1.5); }
  }

  function drawCrop(i, x, y, own) {
    const c = data.label[i];
    if (own < 13) {
      pen.fillStyle = colours[c];
      pen.beginPath();
      if (data.withheld[c]) { pen.rect(x - own / 2, y - own / 2, own, own); } else { pen.arc(x, y, own / 2, 0, 7); }
      pen.fill();
      return;
    }
    const w = own * data.shape[i][0], h = own * data.shape[i][1];
    const t = data.thumb, sx = (i % data.across) * t, sy = Math.floor(i / data.across) * t;
    pen.drawImage(sheet, sx, sy, t, t, x - w / 2, y - h / 2, w, h);
    pen.lineWidth = Math.max(1.5, own / 22);
    pen.strokeStyle = colours[c];
    pen.setLineDash(data.withheld[c] ? [4, 3] : []);
    pen.strokeRect(x - w / 2, y - h / 2, w, h);
    pen.setLineDash([]);
  }

  function nearest(x, y) {
    let best = -1, least = Math.max(10, size() / 2) ** 2;
    for (let i = 0; i < count; i++) {
      if (picked.size && !picked.has(data.label[i])) continue;
      const [px, py] = locate(i), d = (px - x) ** 2 + (py - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  function zoom(factor, x, y) {
    const to = Math.max(side() * 0.5, Math.min(side() * 60, scale * factor)), by = to / scale;
    moved = true;
    left = x - (x - left) * by; top = y - (y - top) * by; scale = to;
    draw();
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.0016), ...at(event));
  }, { passive: false });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => { held = at(event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (held) { moved = true; left += x - held[0]; top += y - held[1]; held = [x, y]; draw(); return; }
    const found = nearest(x, y);
    if (found !== pointed) { pointed = found; draw(); }
    tip.textContent = found < 0 ? "" :
      `${data.classes[data.label[found]]}${data.withheld[data.label[found]] ? " (withheld)" : ""} · ${data.names[found]}`;
  });
  canvas.addEventListener("keydown", (event) => {
    const middle = [canvas.clientWidth / 2, canvas.clientHeight / 2];
    if (event.key === "+" || event.key === "=") zoom(1.3, ...middle);
    else if (event.key === "-") zoom(1 / 1.3, ...middle);
    else if (event.key === "0") reset();
    else if (event.key.startsWith("Arrow")) {
      moved = true;
      left += { ArrowLeft: 60, ArrowRight: -60 }[event.key] || 0;
      top += { ArrowUp: 60, ArrowDown: -60 }[event.key] || 0;
      event.preventDefault(); draw();
    }
  });
  document.getElementById("whole").addEventListener("click", reset);
  for (const button of document.querySelectorAll("[data-layout]")) {
    button.addEventListener("click", () => {
      layout = button.dataset.layout;
      for (const other of document.querySelectorAll("[data-layout]")) other.ariaPressed = String(other === button);
      draw();
    });
  }
  const legend = document.getElementById("legend");
  data.classes.forEach((name, c) => {
    const button = document.createElement("button");
    const mark = document.createElement("i");
    mark.style.background = colours[c];
    if (!data.withheld[c]) mark.style.borderRadius = "50%";
    button.append(mark, name + (data.withheld[c] ? " (withheld)" : ""));
    button.ariaPressed = "false";
    button.addEventListener("click", () => {
      if (picked.has(c)) picked.delete(c); else picked.add(c);
      button.ariaPressed = String(picked.has(c));
      draw();
    });
    legend.append(button);
  });
  // A resized window keeps its view; before the first zoom it shows the whole map.
  const ready = () => { new ResizeObserver(() => { if (moved) draw(); else reset(); }).observe(canvas); };
  if (sheet.complete) ready(); else sheet.addEventListener("load", ready);
})();
