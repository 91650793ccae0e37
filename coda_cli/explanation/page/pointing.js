// Point at a picture with a mouse, a finger or the keyboard: at a pixel of the view, and with a drag at a rectangle. Where
// one points is `at`: { map, pointer: [row, column] of the view, rectangle: in pixels of the original, anchor, start }.

// The part of the original that pixel (row, column) of the view covers.
function pixelBox(map, row, column) {
  const { box: [x0, y0, x1, y1], width, height } = map;
  const kx = (x1 - x0) / width, ky = (y1 - y0) / height;
  return [x0 + column * kx, y0 + row * ky, x0 + (column + 1) * kx, y0 + (row + 1) * ky];
}
// Where an event is on a picture, in pixels of the original.
function placeOf(event, picture, map) {
  const frame = picture.getBoundingClientRect();
  const within = (value) => Math.min(1, Math.max(0, value));
  return [
    within((event.clientX - frame.left) / frame.width) * map.source[0],
    within((event.clientY - frame.top) / frame.height) * map.source[1],
  ];
}
function pixelAt(map, [u, v]) {
  const { box: [x0, y0, x1, y1], width, height } = map;
  const column = Math.floor(((u - x0) / (x1 - x0)) * width), row = Math.floor(((v - y0) / (y1 - y0)) * height);
  return row >= 0 && column >= 0 && row < height && column < width ? [row, column] : null;
}
function rectangleOf(map, [a, b], [c, d]) {
  const [wide, tall] = map.source;
  const box = [Math.floor(Math.min(a, c)), Math.floor(Math.min(b, d)), Math.ceil(Math.max(a, c)), Math.ceil(Math.max(b, d))];
  box[0] = Math.max(0, box[0]); box[1] = Math.max(0, box[1]);
  box[2] = Math.min(wide, Math.max(box[2], box[0] + 1)); box[3] = Math.min(tall, Math.max(box[3], box[1] + 1));
  return box[2] > box[0] && box[3] > box[1] ? box : null;
}

// Keep `at` where one points on `stage`, which shows `picture`, and call `changed` whenever that is elsewhere.
function listen(stage, picture, at, changed) {
  stage.addEventListener("pointerdown", (event) => {
    if (!at.map || event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    at.start = { at: placeOf(event, picture, at.map), x: event.clientX, y: event.clientY };
    at.pointer = pixelAt(at.map, at.start.at);
    at.rectangle = null;
    changed();
  });
  stage.addEventListener("pointermove", (event) => {
    if (!at.map) return;
    const place = placeOf(event, picture, at.map), { start } = at;
    at.pointer = pixelAt(at.map, place);
    if (start && (at.rectangle || Math.hypot(event.clientX - start.x, event.clientY - start.y) > 3)) {
      at.rectangle = rectangleOf(at.map, start.at, place);
    }
    changed();
  });
  for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, () => { at.start = null; });
  stage.addEventListener("pointerleave", () => {
    if (at.start || !at.map) return;
    at.pointer = null;
    changed();
  });
  stage.addEventListener("keydown", (event) => {
    const [down, across] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [0, 0];
    if (!at.map || (!down && !across)) return;
    event.preventDefault();
    event.stopPropagation();
    const { width, height } = at.map, step = event.ctrlKey ? 10 : 1;
    const [row, column] = at.pointer || [height >> 1, width >> 1];
    if (!event.shiftKey) at.anchor = null;
    else if (!at.anchor || !at.rectangle) at.anchor = [row, column];
    at.pointer = [
      Math.min(height - 1, Math.max(0, row + down * step)), Math.min(width - 1, Math.max(0, column + across * step)),
    ];
    if (at.anchor) {
      const [a, b] = [pixelBox(at.map, ...at.anchor), pixelBox(at.map, ...at.pointer)];
      at.rectangle = rectangleOf(at.map, [Math.min(a[0], b[0]), Math.min(a[1], b[1])], [Math.max(a[2], b[2]), Math.max(a[3], b[3])]);
    }
    changed();
  });
}

// Draw where one points, and the outlines of regions, [name, rings], on a canvas that lies over a picture.
function mark(canvas, picture, at, regions) {
  const dense = window.devicePixelRatio || 1, wide = picture.clientWidth, tall = picture.clientHeight;
  canvas.width = Math.round(wide * dense);
  canvas.height = Math.round(tall * dense);
  const context = canvas.getContext("2d"), { map, pointer, rectangle } = at;
  context.scale(dense, dense);
  const x = (u) => (u / map.source[0]) * wide, y = (v) => (v / map.source[1]) * tall;
  const stroke = (path, dashes = []) => {
    for (const [ink, thick] of [["rgb(0 0 0 / .6)", 2.5], ["#fff", 1]]) {
      context.setLineDash(ink === "#fff" ? dashes : []);
      Object.assign(context, { strokeStyle: ink, lineWidth: thick });
      context.stroke(path);
    }
  };
  for (const [name, rings] of regions) {
    const path = new Path2D();
    for (const ring of rings) {
      ring.forEach(([u, v], n) => (n ? path.lineTo(x(u), y(v)) : path.moveTo(x(u), y(v))));
      path.closePath();
    }
    stroke(path);
    if (!rings.length || !rings[0].length) continue;
    const left = Math.max(0, x(Math.min(...rings[0].map((point) => point[0])))) + 4;
    const top = Math.max(0, y(Math.min(...rings[0].map((point) => point[1])))) + 15;
    context.font = "12px system-ui, sans-serif";
    context.setLineDash([]);
    Object.assign(context, { strokeStyle: "#000", lineWidth: 3, fillStyle: "#fff", lineJoin: "round" });
    context.strokeText(name, left, top);
    context.fillText(name, left, top);
  }
  if (rectangle) {
    const path = new Path2D(), [x0, y0, x1, y1] = rectangle;
    path.rect(x(x0), y(y0), x(x1) - x(x0), y(y1) - y(y0));
    stroke(path, [5, 4]);
  }
  if (pointer) {
    const [u0, v0, u1, v1] = pixelBox(map, ...pointer), path = new Path2D();
    path.rect(x(u0) - 1, y(v0) - 1, Math.max(2, x(u1) - x(u0)) + 2, Math.max(2, y(v1) - y(v0)) + 2);
    stroke(path);
  }
}
