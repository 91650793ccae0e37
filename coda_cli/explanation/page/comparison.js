// The page of compared methods: one pixel and one rectangle are read in the maps of all methods of a picture.
(async () => {
  const DRAWN_PIXELS = 480; // a smaller picture is enlarged by a whole factor to about this side

  // A map of positive values alone is drawn from its least value on; it is read as it is.
  const drawnFrom = (map, white) => (white ? { ...map, values: map.values.map((value) => value - white) } : map);

  async function prepare(section) {
    const entry = JSON.parse(section.querySelector("script").textContent), { record, size, units } = entry;
    const image = section.querySelector("img");
    await image.decode();
    const factor = Math.max(1, Math.floor(DRAWN_PIXELS / Math.max(...size)));
    section.classList.toggle("coarse", factor >= 2);
    const at = { map: null, pointer: null, rectangle: null, anchor: null, start: null };
    const panels = [...section.querySelectorAll(".panel")];
    const methods = [];
    for (const [n, panel] of panels.slice(1).entries()) {
      const map = await unpacked(entry.maps[n], record), part = record.methods[n];
      paint(panel.querySelector(".over"), image, size.map((side) => side * factor), drawnFrom(map, part.white), part.scale - part.white);
      methods.push({ map, unit: units[n], pixel: panel.querySelector(".pixel"), sum: panel.querySelector(".sum") });
    }
    at.map = methods[0].map;
    const marks = panels.map((panel) => [panel.querySelector(".marks"), panel.querySelector("img, .over")]);
    const changed = () => {
      for (const [canvas, picture] of marks) mark(canvas, picture, at, []);
      for (const method of methods) read(method, at);
      section.querySelector(".where").textContent = told(at);
    };
    for (const panel of panels) listen(panel.querySelector(".stage"), panel.querySelector("img, .over"), at, changed);
    section.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      at.rectangle = at.anchor = null;
      changed();
    });
    window.addEventListener("resize", changed);
    section.querySelector("pre").textContent = JSON.stringify(record, null, 1);
  }

  // With the unit, and what rounding can do to the number.
  const measured = (value, off, unit) => `${number(value, off)}${unit && ` ${unit}`} (${limit(off)})`;

  function read({ map, unit, pixel, sum }, { pointer, rectangle }) {
    delete pixel.dataset.value;
    delete sum.dataset.value;
    pixel.textContent = sum.textContent = "";
    if (pointer) {
      const { value, off } = contribution(map, ...pointer);
      pixel.textContent = `pixel ${measured(value, off, unit.pixel)}`;
      Object.assign(pixel.dataset, { value, off });
    }
    if (rectangle) {
      const { plus, minus, off } = sums(map, rectangle), value = plus + minus;
      sum.textContent = `rectangle ${measured(value, off[2], unit.sum)}`;
      Object.assign(sum.dataset, { value, plus, minus, off: off[2] });
    }
  }
  function told({ map, pointer, rectangle }) {
    const said = pointer ? [`Pixel ${pointer[1]}, ${pointer[0]}.`] : [];
    if (rectangle) {
      const { area, outside } = sums(map, rectangle);
      said.push(`Rectangle ${rectangle.join(",")}, ${percent(area)} of the area.`);
      if (outside > 0.001) said.push(`The network did not see ${percent(outside)} of it.`);
    }
    return said.join(" ");
  }

  document.documentElement.classList.add("scripted");
  for (const section of document.querySelectorAll(".compared")) {
    await prepare(section);
    await new Promise((resume) => setTimeout(resume)); // the page answers between two pictures
  }
  document.documentElement.dataset.painted = "all";
})();
