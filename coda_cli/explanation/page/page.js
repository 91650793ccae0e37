// One page: its sheet, and the picture that is opened. Numbers of a record are shown as they are; sums over a rectangle are
// computed from the map.
(() => {
  const SHEET_PIXELS = 320; // longer side of the overlays of the sheet
  const STAGE_PIXELS = 480; // a smaller picture is enlarged by a whole factor to about this side

  const cards = [...document.querySelectorAll(".card")].map((element, order) => ({
    element, order, data: element.dataset, button: element.querySelector(".open"), script: element.querySelector("script"),
    image: element.querySelector("img"), canvas: element.querySelector("canvas"), painted: false,
  }));
  let shown = cards; // in the order of the sheet, less those that are filtered out
  const entryOf = (script) => JSON.parse(script.textContent);
  const about = (entry) => entry.place ?? entry.record; // of a clip, source and view are not those of a frame's record
  const film = globalThis.filmOf?.(cards, open); // of clips: it chooses the frame, which is the card's script

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

  function arrange() {
    const { sorted, shown: fitting } = arranged(cards), wanted = new Set(fitting);
    for (const card of sorted) card.element.hidden = !wanted.has(card);
    $("sheet").append(...sorted.map((card) => card.element));
    shown = fitting;
  }
  function prepare() {
    $("sheet-opacity").addEventListener("input", (event) => {
      document.documentElement.style.setProperty("--over", event.target.value);
    });
    for (const card of cards) card.button.addEventListener("click", () => open(card));
    $("sheet").addEventListener("keydown", moveFocus);
    prepareTools(cards, arrange);
  }
  function moveFocus(event) {
    const at = shown.findIndex((card) => card.button === document.activeElement);
    const columns = getComputedStyle($("sheet")).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (at < 0 || !step || !shown[at + step]) return;
    event.preventDefault();
    shown[at + step].button.focus();
  }

  // ---- one picture --------------------------------------------------------------------------------------------------

  const viewer = $("viewer"), stage = $("stage"), original = $("original");
  let now = null; // { card, entry, target, map, scale }: what the viewer shows
  let asked = 0; // counts what was asked for: a map that comes too late is left out
  let kept = null; // the scale for every picture
  const at = { map: null, pointer: null, rectangle: null, anchor: null, start: null }; // where one points

  async function open(card, target = 0) {
    const mine = ++asked, { script } = card, entry = now && now.script === script ? now.entry : entryOf(script);
    const chosen = Math.min(target, entry.maps.length - 1), image = entry.image ?? card.image.src;
    const map = await unpacked(entry.maps[chosen], about(entry));
    if (original.src !== image) original.src = image;
    await original.decode();
    if (mine !== asked) return;
    const before = now && now.card === card ? now : null; // of a clip, another frame
    if (!before) { at.pointer = at.rectangle = null; }
    now = { card, script, entry, target: chosen, map, part: entry.record.explained[chosen] };
    at.map = map;
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
    drawMarks();
  }

  // ---- reading ------------------------------------------------------------------------------------------------------

  function read() {
    const { map, part } = now, { pointer, rectangle } = at, pixel = $("pixel"), sum = $("rectangle");
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

  function drawMarks() { // what lies on the overlay, which stays
    mark($("marks"), original, at, now.entry.regions);
    read();
  }
  listen(stage, original, at, drawMarks);

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
    if (!at.rectangle) return;
    event.preventDefault(); // Escape removes the rectangle first
    at.rectangle = at.anchor = null;
    drawMarks();
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => {
    const { card } = now;
    asked++;
    now = at.map = at.pointer = at.rectangle = at.anchor = at.start = null;
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
  prepare();
  const linked = cards[Number(location.hash.slice(1)) - 1];
  if (linked) open(linked);
})();
