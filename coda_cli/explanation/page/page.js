"use strict";
// The page's only script. Everything that a user named is set as text, never as HTML. Numbers of a record are shown as
// they are; sums over a rectangle are computed here from the map, in the same way as coda does for a box.
(() => {
  const $ = (id) => document.getElementById(id);
  const config = JSON.parse($("config").textContent);
  const SHEET_PIXELS = 320; // longer side of the overlays of the sheet
  const STAGE_PIXELS = 480; // a smaller picture is enlarged by a whole factor to about this side
  const MINUS = "\u2212";

  const cards = [...document.querySelectorAll(".card")].map((element, order) => ({
    element, order, data: element.dataset, button: element.querySelector(".open"), script: element.querySelector("script"),
    image: element.querySelector("img"), canvas: element.querySelector("canvas"), painted: false,
  }));
  let shown = cards; // in the order of the sheet, less those that are filtered out
  const entryOf = (script) => JSON.parse(script.textContent);
  const about = (entry) => entry.place ?? entry.record; // of a clip, source and view are not those of a frame's record
  const film = globalThis.filmOf?.(cards, open); // of clips: it chooses the frame, which is the card's script

  // ---- maps ---------------------------------------------------------------------------------------------------------

  // A map is a grid of positions, [rows, columns]; of most networks each is a pixel of the view. Where a network has a
  // cut, a position stands for several pixels, and its contribution is spread evenly over them.
  async function unpacked(packed, record) {
    const bytes = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const count = packed.rows * packed.columns;
    const integers = new Int32Array(count); // from the differences that `pack` in maps.py keeps
    for (let n = 0, change = 0; n < count; n++) {
      const folded = (planes[n] << 8) | planes[count + n];
      change = ((folded >> 1) ^ -(folded & 1)) + (n % packed.columns ? change : 0); // from the row above
      integers[n] = change + (n < packed.columns ? 0 : integers[n - packed.columns]);
    }
    const values = Float64Array.from(integers, (integer) => integer * packed.step);
    const peak = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const { width, height, box } = record.view;
    return {
      ...packed, values, width, height, box, source: [record.source.width, record.source.height],
      perPixel: count / (width * height), // what a pixel of the view has of its position, about
      peak: (peak * count) / (width * height),
      across: pixelsOf(packed.columns, width), down: pixelsOf(packed.rows, height),
    };
  }

  // How many of `length` pixels each of `count` positions stands for.
  function pixelsOf(count, length) {
    const pixels = new Float64Array(count);
    for (let n = 0; n < length; n++) pixels[Math.floor((n * count) / length)]++;
    return pixels;
  }

  // The contribution of pixel (row, column) of the view.
  function contribution(map, row, column) {
    const r = Math.floor((row * map.rows) / map.height), c = Math.floor((column * map.columns) / map.width);
    const share = 1 / (map.down[r] * map.across[c]);
    return { value: map.values[r * map.columns + c] * share, off: (map.step / 2) * share };
  }

  // How far [from, to], in pixels of the view, covers each position: 1 is all of it.
  function covered(from, to, length, pixels) {
    const shares = new Float64Array(pixels.length);
    const first = Math.max(0, Math.floor(from)), end = Math.min(length, Math.ceil(to));
    for (let n = first; n < end; n++) {
      const share = Math.min(to, n + 1) - Math.max(from, n);
      const position = Math.floor((n * pixels.length) / length);
      if (share > 0) shares[position] += share / pixels[position];
    }
    return shares;
  }

  // Sums over a rectangle in pixels of the original; a pixel that its border cuts counts by its covered area.
  function sums(map, [x0, y0, x1, y1]) {
    const [bx0, by0, bx1, by1] = map.box;
    const kx = map.width / (bx1 - bx0), ky = map.height / (by1 - by0);
    const across = covered((x0 - bx0) * kx, (x1 - bx0) * kx, map.width, map.across);
    const down = covered((y0 - by0) * ky, (y1 - by0) * ky, map.height, map.down);
    let plus = 0, minus = 0, positions = 0;
    for (let r = 0; r < map.rows; r++) {
      if (!down[r]) continue;
      for (let c = 0; c < map.columns; c++) {
        if (!across[c]) continue;
        const share = down[r] * across[c], value = map.values[r * map.columns + c] * share;
        if (value > 0) plus += value; else minus += value;
        positions += share;
      }
    }
    const wide = Math.min(x1, bx1) - Math.max(x0, bx0), tall = Math.min(y1, by1) - Math.max(y0, by0);
    const area = Math.max(0, wide) * Math.max(0, tall);
    return {
      plus, minus, off: map.off.map((most) => Math.min(most, (positions * map.step) / 2)),
      area: area / ((bx1 - bx0) * (by1 - by0)), outside: 1 - area / ((x1 - x0) * (y1 - y0)),
    };
  }

  // ---- drawing ------------------------------------------------------------------------------------------------------

  // For each of `drawn` pixels that share out `length` pixels of the original: the two positions between whose middles
  // it lies, and how far towards the second; null outside the view.
  function between(drawn, length, from, to, count) {
    return Array.from({ length: drawn }, (_, n) => {
      const at = ((n + 0.5) * length) / drawn;
      if (at < from || at > to) return null;
      const place = Math.min(count - 1, Math.max(0, ((at - from) * count) / (to - from) - 0.5));
      const first = Math.floor(place);
      return [first, Math.min(count - 1, first + 1), place - first];
    });
  }

  // The picture in grey, red where the map is positive and blue where it is negative; the same as coda's overlay.
  function paint(canvas, image, size, map, scale) {
    const [wide, tall] = size;
    canvas.width = wide;
    canvas.height = tall;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = wide < image.naturalWidth;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, wide, tall);
    const pixels = context.getImageData(0, 0, wide, tall), rgba = pixels.data;
    const [x0, y0, x1, y1] = map.box;
    const columns = between(wide, map.source[0], x0, x1, map.columns);
    const rows = between(tall, map.source[1], y0, y1, map.rows);
    const strength = scale > 0 ? map.perPixel / scale : 0;
    for (let y = 0, n = 0; y < tall; y++) {
      const row = rows[y];
      for (let x = 0; x < wide; x++, n += 4) {
        const column = columns[x];
        const bright = Math.round(0.299 * rgba[n] + 0.587 * rgba[n + 1] + 0.114 * rgba[n + 2]);
        const grey = Math.round(config.faded + (bright * (255 - config.faded)) / 255);
        if (!row || !column) {
          rgba[n] = rgba[n + 1] = rgba[n + 2] = Math.round(config.dimmed * grey);
          continue;
        }
        const above = row[0] * map.columns, below = row[1] * map.columns, [left, right, part] = column;
        const upper = map.values[above + left] * (1 - part) + map.values[above + right] * part;
        const lower = map.values[below + left] * (1 - part) + map.values[below + right] * part;
        const share = Math.max(-1, Math.min(1, (upper * (1 - row[2]) + lower * row[2]) * strength));
        const colour = share > 0 ? config.positive : config.negative, opacity = config.alpha * Math.abs(share);
        for (let c = 0; c < 3; c++) rgba[n + c] = Math.round(grey * (1 - opacity) + colour[c] * opacity);
      }
    }
    context.putImageData(pixels, 0, 0);
  }

  // ---- the sheet ----------------------------------------------------------------------------------------------------

  const queue = []; // cards that are to be painted, the next one last
  let painting = false;
  async function paintQueued() {
    if (painting) return;
    painting = true;
    for (let card; (card = queue.pop()); ) {
      if (card.painted) continue;
      card.painted = true;
      const entry = entryOf(card.element.querySelector("script"));
      await card.image.decode();
      const map = await unpacked(entry.maps[0], about(entry));
      const factor = SHEET_PIXELS / Math.max(...entry.size);
      const size = entry.size.map((side) => Math.max(1, Math.round(side * (factor < 1 ? factor : Math.floor(factor)))));
      paint(card.canvas, card.image, size, map, entry.record.explained[0].scale);
      await new Promise((resume) => setTimeout(resume)); // the page answers between two pictures
    }
    painting = false;
    document.documentElement.dataset.painted = "all";
  }
  queue.push(...[...cards].reverse());
  const seen = new IntersectionObserver((changes) => {
    const here = changes.filter((change) => change.isIntersecting).map((change) => change.target);
    queue.push(...cards.filter((card) => !card.painted && here.includes(card.element)).reverse());
    paintQueued();
  });
  for (const card of cards) seen.observe(card.element);

  const numbers = { p: 1, logit: 1, against: 1, outside: 1 };
  function keyOf(card, by) {
    if (by === "order") return card.order;
    const text = card.data[by];
    return by in numbers ? (text === undefined ? NaN : Number(text)) : text;
  }
  function arrange() {
    const by = $("sort").value, sign = $("falling").checked ? -1 : 1, sheet = $("sheet");
    const compare = (a, b) => {
      const [one, other] = [keyOf(a, by), keyOf(b, by)];
      if (typeof one === "string") return sign * one.localeCompare(other, undefined, { numeric: true });
      if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other); // those without, last
      return sign * (one - other);
    };
    const most = Number($("most").value), least = Number($("least").value);
    const wanted = $("name").value.trim().toLowerCase();
    const fits = ({ data }) =>
      (!$("class").value || data.class === $("class").value) &&
      (!wanted || data.name.toLowerCase().includes(wanted)) &&
      (most === 1 || Number(data.p) <= most) &&
      (least === 0 || Number(data.outside) >= least) &&
      (!$("wrong").checked || "wrong" in data);
    const sorted = [...cards].sort((a, b) => compare(a, b) || a.order - b.order);
    for (const card of sorted) card.element.hidden = !fits(card);
    sheet.append(...sorted.map((card) => card.element));
    shown = sorted.filter((card) => !card.element.hidden);
    $("most-said").textContent = most.toFixed(2);
    $("least-said").textContent = `${Math.round(100 * least)} %`;
    $("shown").textContent = shown.length === cards.length ? `${cards.length} shown` : `${shown.length} of ${cards.length} shown`;
  }
  function prepareTools() {
    document.documentElement.classList.add("scripted");
    $("tools").hidden = cards.length < 2;
    const classes = [...new Set(cards.map((card) => card.data.class))].sort((a, b) => a.localeCompare(b));
    for (const name of classes) $("class").append(new Option(name, name));
    if (!cards.some((card) => "outside" in card.data)) {
      $("outside-label").hidden = true;
      $("sort").querySelector("[value=outside]").remove();
    }
    $("wrong-label").hidden = !cards.some((card) => "truth" in card.data);
    $("tools").addEventListener("input", arrange);
    $("tools").addEventListener("submit", (event) => event.preventDefault());
    $("sheet-opacity").addEventListener("input", (event) => {
      document.documentElement.style.setProperty("--over", event.target.value);
    });
    for (const card of cards) card.button.addEventListener("click", () => open(card));
    $("sheet").addEventListener("keydown", moveFocus);
    arrange();
  }
  function moveFocus(event) {
    const at = shown.findIndex((card) => card.button === document.activeElement);
    const columns = getComputedStyle($("sheet")).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (at < 0 || !step || !shown[at + step]) return;
    event.preventDefault();
    shown[at + step].button.focus();
  }

  // ---- numbers as text ----------------------------------------------------------------------------------------------

  const signed = (text) => (text.startsWith("-") ? MINUS + text.slice(1) : `+${text}`);
  // With four digits, or as many as rounding leaves certain, and at most so many places.
  function number(value, off, most = 6) {
    if (value && Math.abs(value) < 1e-4) return signed(value.toExponential(1));
    const certain = off > 0 ? Math.ceil(-Math.log10(off)) : 4;
    const wanted = 3 - Math.floor(Math.log10(Math.abs(value) || 1));
    return signed(value.toFixed(Math.max(0, Math.min(most, certain, wanted))));
  }
  // Rounded up to one digit.
  function limit(off) {
    if (!(off > 0)) return "±0";
    const unit = 10 ** Math.floor(Math.log10(off));
    return `±${Number((Math.ceil(off / unit - 1e-9) * unit).toPrecision(1))}`;
  }
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  const plain = (value) => Number(value.toPrecision(2)).toString();

  // ---- one picture --------------------------------------------------------------------------------------------------

  const viewer = $("viewer"), stage = $("stage"), original = $("original");
  let now = null; // { card, entry, target, map, scale }: what the viewer shows
  let asked = 0; // counts what was asked for: a map that comes too late is left out
  let kept = null; // the scale for every picture
  let pointer = null; // [row, column] of the view
  let rectangle = null; // in pixels of the original

  async function open(card, target = 0) {
    const mine = ++asked, { script } = card, entry = now && now.script === script ? now.entry : entryOf(script);
    const chosen = Math.min(target, entry.maps.length - 1), image = entry.image ?? card.image.src;
    const map = await unpacked(entry.maps[chosen], about(entry));
    if (original.src !== image) original.src = image;
    await original.decode();
    if (mine !== asked) return;
    const before = now && now.card === card ? now : null; // of a clip, another frame
    if (!before) { pointer = rectangle = null; }
    now = { card, script, entry, target: chosen, map, part: entry.record.explained[chosen] };
    now.scale = kept ?? now.part.scale;
    if (before && before.script !== script && before.scale !== before.part.scale) now.scale = before.scale;
    if (!viewer.open) viewer.showModal();
    tell();
    film?.tell(now);
    place();
    if (!before) remember(`#${card.order + 1}`);
  }
  function remember(hash) {
    try { history.replaceState(null, "", hash || location.pathname + location.search); } catch { /* not in every viewer */ }
  }
  function tell() {
    const { card, entry, part, target } = now, at = shown.indexOf(card);
    const fullName = card.data.name;
    $("title").firstChild.textContent = about(entry).source.path.split("/").pop();
    $("title").title = fullName;
    $("place").textContent = at < 0 ? "" : `${at + 1} of ${shown.length}`;
    $("before").disabled = at <= 0;
    $("after").disabled = at < 0 || at + 1 >= shown.length;
    $("standing").textContent = entry.said[target].standing + (card.data.truth ? `; the folder says ${card.data.truth}` : "");
    $("regions").textContent = entry.said[target].regions;
    $("record").textContent = JSON.stringify(entry.record, null, 1);
    original.alt = `${entry.said[target].title}: ${entry.said[target].equation}`;
    tellTargets();
    tellEquation(part);
  }
  function tellTargets() {
    const { entry, target } = now, box = $("targets"), focused = box.contains(document.activeElement);
    box.hidden = entry.maps.length < 2;
    box.replaceChildren(...entry.said.map((said, n) => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "target", checked: n === target });
      input.addEventListener("change", () => open(now.card, n));
      label.append(input, said.title);
      return label;
    }));
    if (focused) box.querySelector(":checked").focus();
  }
  function tellEquation(part) {
    const constants = part.constants.filter((one) => one.kind !== "positional").length > 1 ? "constants" : "bias";
    const lines = [["evidence for", signed(part.positive.toFixed(3)), "plus"], ["evidence against", signed(part.negative.toFixed(3)).replace("+0", "0"), "minus"]];
    lines.push([constants, signed(part.bias.toFixed(3)), ""]);
    if (part.positional) lines.push(["positional", signed(part.positional.toFixed(3)), ""]);
    const logit = part.versus ? `logit less that of ${part.versus.name}` : "logit";
    lines.push([logit, part.logit.toFixed(3).replace("-", MINUS), "sum"]);
    if (part.probability !== null) lines.push(["p", part.probability.toFixed(3), ""]);
    const proof = `${part.residual.toExponential(1).replace("-", MINUS)}${part.exact ? "" : " ABOVE ITS TOLERANCE"}`;
    lines.push(["residual", proof, part.exact ? "small" : "wrong"]);
    $("equation").replaceChildren(...lines.flatMap(([name, value, kind]) => [name, value].map((text) => {
      const cell = document.createElement("span");
      cell.className = kind;
      cell.textContent = text;
      return cell;
    })));
  }

  // The picture as large as there is room for, and everything on it.
  function place() {
    if (!now) return;
    const [width, height] = now.entry.size;
    const below = 230 + ($("film")?.offsetHeight ?? 0);
    const room = [stage.parentElement.clientWidth, Math.max(240, window.innerHeight - below)];
    const factor = Math.min(room[0] / width, room[1] / height, 1400 / Math.max(width, height));
    original.style.width = `${Math.round(width * factor)}px`;
    original.style.height = `${Math.round(height * factor)}px`;
    viewer.style.setProperty("--wide", original.style.width);
    stage.classList.toggle("coarse", factor >= 3);
    draw();
  }
  function draw() {
    const { entry, map, scale } = now, side = Math.max(...entry.size);
    const factor = Math.max(1, Math.floor(STAGE_PIXELS / side));
    paint($("over"), original, entry.size.map((length) => length * factor), map, scale);
    const top = Math.max(map.peak, now.part.scale, scale);
    $("scale").disabled = !(top > 0);
    $("scale").value = top > 0 ? 1 + Math.log10(Math.max(scale, top / 1000) / top) / 3 : 1;
    $("scale").setAttribute("aria-valuetext", `±${plain(scale)} logit a pixel`);
    $("scale-said").textContent = `±${plain(scale)} logit a pixel`;
    $("low").textContent = scale > 0 ? `${MINUS}${plain(scale)}` : "";
    $("high").textContent = scale > 0 ? `+${plain(scale)}` : "";
    mark();
    read();
  }
  function mark() {
    const canvas = $("marks"), dense = window.devicePixelRatio || 1;
    const wide = original.clientWidth, tall = original.clientHeight;
    canvas.width = Math.round(wide * dense);
    canvas.height = Math.round(tall * dense);
    const context = canvas.getContext("2d"), { map } = now;
    context.scale(dense, dense);
    const x = (u) => (u / map.source[0]) * wide, y = (v) => (v / map.source[1]) * tall;
    const stroke = (path, dashes = []) => {
      for (const [ink, thick] of [["rgb(0 0 0 / .6)", 2.5], ["#fff", 1]]) {
        context.setLineDash(ink === "#fff" ? dashes : []);
        Object.assign(context, { strokeStyle: ink, lineWidth: thick });
        context.stroke(path);
      }
    };
    for (const [name, rings] of now.entry.regions) {
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
      const [u0, v0, u1, v1] = pixelBox(...pointer), path = new Path2D();
      path.rect(x(u0) - 1, y(v0) - 1, Math.max(2, x(u1) - x(u0)) + 2, Math.max(2, y(v1) - y(v0)) + 2);
      stroke(path);
    }
  }

  // ---- reading ------------------------------------------------------------------------------------------------------

  // The part of the original that pixel (row, column) of the view covers.
  function pixelBox(row, column) {
    const { box: [x0, y0, x1, y1], width, height } = now.map;
    const kx = (x1 - x0) / width, ky = (y1 - y0) / height;
    return [x0 + column * kx, y0 + row * ky, x0 + (column + 1) * kx, y0 + (row + 1) * ky];
  }
  // Where an event is, in pixels of the original.
  function placeOf(event) {
    const frame = original.getBoundingClientRect();
    const within = (value) => Math.min(1, Math.max(0, value));
    return [
      within((event.clientX - frame.left) / frame.width) * now.map.source[0],
      within((event.clientY - frame.top) / frame.height) * now.map.source[1],
    ];
  }
  function pixelAt([u, v]) {
    const { box: [x0, y0, x1, y1], width, height } = now.map;
    const column = Math.floor(((u - x0) / (x1 - x0)) * width), row = Math.floor(((v - y0) / (y1 - y0)) * height);
    return row >= 0 && column >= 0 && row < height && column < width ? [row, column] : null;
  }
  function rectangleOf([a, b], [c, d]) {
    const [wide, tall] = now.map.source;
    const box = [Math.floor(Math.min(a, c)), Math.floor(Math.min(b, d)), Math.ceil(Math.max(a, c)), Math.ceil(Math.max(b, d))];
    box[0] = Math.max(0, box[0]); box[1] = Math.max(0, box[1]);
    box[2] = Math.min(wide, Math.max(box[2], box[0] + 1)); box[3] = Math.min(tall, Math.max(box[3], box[1] + 1));
    return box[2] > box[0] && box[3] > box[1] ? box : null;
  }
  function read() {
    const { map, part } = now, pixel = $("pixel"), sum = $("rectangle");
    delete pixel.dataset.value;
    delete sum.dataset.box;
    if (pointer) {
      const { value, off } = contribution(map, ...pointer), [row, column] = pointer;
      pixel.textContent = `Pixel ${column}, ${row}: ${number(value, off)} logit (${limit(off)})`;
      Object.assign(pixel.dataset, { row, column, value, off });
    } else {
      pixel.textContent = rectangle ? "" : "\u00a0";
    }
    sum.replaceChildren();
    if (!rectangle) return;
    const found = sums(map, rectangle), share = part.positive > 0 ? found.plus / part.positive : null;
    const cells = [
      ["for", number(found.plus, found.off[0], 4), limit(found.off[0]), "plus"],
      ["against", found.minus ? number(found.minus, found.off[1], 4) : "0", limit(found.off[1]), "minus"],
      ["together", number(found.plus + found.minus, found.off[2], 4), limit(found.off[2]), ""],
    ];
    if (found.area > 0 && share !== null) {
      cells.push(["of the evidence for it", percent(share), `on ${percent(found.area)} of the area: ${(share / found.area).toFixed(1)} times`, ""]);
    }
    const said = found.outside > 0.001 ? `The network did not see ${percent(found.outside)} of it. ` : "";
    const last = document.createElement("p"), command = document.createElement("code");
    const [dx, dy] = now.entry.place?.origin ?? [0, 0]; // of a part of a clip, in pixels of the clip
    const asBox = rectangle.map((side, n) => side + (n % 2 ? dy : dx)).join(",");
    command.textContent = `${now.entry.place ? "--region" : "--box"} ${asBox}`;
    last.append(`${said}The same from coda: `, command);
    sum.append(...cells.map(cellOf), last);
    Object.assign(sum.dataset, {
      box: asBox, plus: found.plus, minus: found.minus, off: found.off.join(","), area: found.area, outside: found.outside,
    });
  }
  function cellOf([name, value, more, kind]) {
    const cell = document.createElement("span");
    cell.append(...[["small", `${name} `], ["b", `${value} `], ["small", more]].map(([tag, text]) => {
      const part = document.createElement(tag);
      part.textContent = text;
      if (tag === "b") part.className = kind;
      return part;
    }));
    return cell;
  }

  let start = null; // where a drag began, in pixels of the original and of the window
  stage.addEventListener("pointerdown", (event) => {
    if (!now || event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    start = { at: placeOf(event), x: event.clientX, y: event.clientY };
    pointer = pixelAt(start.at);
    rectangle = null;
    draw0();
  });
  stage.addEventListener("pointermove", (event) => {
    if (!now) return;
    pointer = pixelAt(placeOf(event));
    if (start && (rectangle || Math.hypot(event.clientX - start.x, event.clientY - start.y) > 3)) {
      rectangle = rectangleOf(start.at, placeOf(event));
    }
    draw0();
  });
  for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, () => { start = null; });
  stage.addEventListener("pointerleave", () => {
    if (start || !now) return;
    pointer = null;
    draw0();
  });
  function draw0() { mark(); read(); } // what lies on the overlay, which stays

  let anchor = null; // the pixel at which a rectangle of the keyboard began
  stage.addEventListener("keydown", (event) => {
    const [down, across] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [0, 0];
    if (!now || (!down && !across)) return;
    event.preventDefault();
    event.stopPropagation();
    const { width, height } = now.map, step = event.ctrlKey ? 10 : 1;
    const [row, column] = pointer || [height >> 1, width >> 1];
    if (!event.shiftKey) anchor = null;
    else if (!anchor || !rectangle) anchor = [row, column];
    pointer = [
      Math.min(height - 1, Math.max(0, row + down * step)), Math.min(width - 1, Math.max(0, column + across * step)),
    ];
    if (anchor) {
      const [a, b] = [pixelBox(...anchor), pixelBox(...pointer)];
      rectangle = rectangleOf([Math.min(a[0], b[0]), Math.min(a[1], b[1])], [Math.max(a[2], b[2]), Math.max(a[3], b[3])]);
    }
    draw0();
  });

  // ---- the viewer's controls ----------------------------------------------------------------------------------------

  function turn(step) {
    const next = shown[shown.indexOf(now.card) + step];
    if (next) open(next);
  }
  $("before").addEventListener("click", () => turn(-1));
  $("after").addEventListener("click", () => turn(1));
  $("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (!now || event.target.matches("input, select, pre")) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && !event.ctrlKey && !event.altKey && !event.metaKey) turn(step);
  });
  viewer.addEventListener("cancel", (event) => {
    if (!rectangle) return;
    event.preventDefault(); // Escape removes the rectangle first
    rectangle = anchor = null;
    draw0();
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => {
    const { card } = now;
    asked++;
    now = pointer = rectangle = anchor = start = null;
    remember("");
    card.button.focus();
  });
  $("opacity").addEventListener("input", (event) => stage.style.setProperty("--mix", event.target.value));
  $("scale").addEventListener("input", (event) => {
    const top = Math.max(now.map.peak, now.part.scale, now.scale);
    now.scale = top * 10 ** (3 * (Number(event.target.value) - 1));
    if ($("keep").checked) kept = now.scale;
    draw();
  });
  $("reset").addEventListener("click", () => {
    now.scale = now.part.scale;
    if ($("keep").checked) kept = now.scale;
    draw();
  });
  $("keep").addEventListener("change", (event) => { kept = event.target.checked ? now.scale : null; });
  window.addEventListener("resize", place);

  const ramp = document.querySelector(".ramp");
  const half = (colour) => `rgb(${colour.map((c) => Math.round(128 * (1 - config.alpha) + c * config.alpha)).join(" ")})`;
  ramp.style.background = `linear-gradient(90deg, ${half(config.negative)}, #808080, ${half(config.positive)})`;
  prepareTools();
  const linked = cards[Number(location.hash.slice(1)) - 1];
  if (linked) open(linked);
})();
