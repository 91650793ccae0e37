// A clip in the viewer: a place on its plot is a moment, and the frame that is shown then is the picture. `cards` and
// `open` are those of page.js, which asks for this where the page is about clips, and tells it what the viewer shows.
function filmOf(cards, open) {
  const viewer = $("viewer"), plot = $("plot"), play = $("play");
  const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
  let shown = null; // { card, entry, target, … }: what the viewer shows
  let wanted = null; // [card, frame]: what it shall show next
  let busy = false;
  let run = null; // an object for each time that it plays

  for (const card of cards) {
    const scripts = [...card.element.querySelectorAll(":scope > script")];
    Object.assign(card, { frames: scripts.slice(0, -1), last: scripts.at(-1), drawing: card.element.querySelector("svg") });
    card.times = card.frames.map((frame) => Number(frame.dataset.time));
    card.drawing.addEventListener("click", (event) => choose(card, pointed(card, card.drawing, event)));
  }

  const within = (card, n) => Math.min(card.frames.length - 1, Math.max(0, n));
  // The last frame of the page that is there at a time.
  function at(card, time) {
    const next = card.times.findIndex((start) => start > time + 1e-9);
    return within(card, (next < 0 ? card.times.length : next) - 1);
  }
  function pointed(card, drawing, event) {
    const frame = drawing.getBoundingClientRect(), { start, end } = card.drawing.dataset;
    const share = Math.min(1, Math.max(0, (event.clientX - frame.left) / frame.width));
    return at(card, Number(start) + share * (end - start));
  }

  // While one frame is made ready only the last that was asked for waits, so that a drag shows what it can.
  async function choose(card, n) {
    wanted = [card, n];
    if (busy) return;
    busy = true;
    try {
      while (wanted) {
        const [next, frame] = wanted;
        wanted = null;
        next.script = next.frames[frame];
        await open(next, shown && shown.card === next ? shown.target : 0);
      }
    } finally {
      busy = false;
    }
  }

  function tell(now) {
    const { card, entry, target } = now, n = card.frames.indexOf(card.script);
    if (!shown || shown.card !== card) {
      stop();
      plot.replaceChildren(card.drawing.cloneNode(true));
      plot.firstChild.setAttribute("aria-hidden", "true");
      $("names").replaceChildren(card.element.querySelector(".names").cloneNode(true));
      $("clip-record").textContent = JSON.stringify(JSON.parse(card.last.textContent), null, 1);
    }
    shown = now;
    const { start, end } = card.drawing.dataset, line = plot.querySelector(".now");
    const place = `${(100 * (card.times[n] - start)) / (end - start)}%`;
    line.setAttribute("x1", place);
    line.setAttribute("x2", place);
    plot.querySelectorAll(".curve").forEach((curve, k) => curve.classList.toggle("chosen", k === target));
    const { record } = entry, part = record.explained[target], [leader] = record.top;
    const words = `${card.times[n].toFixed(2)} s, frame ${record.frame}: ${leader.name}, p ${leader.probability.toFixed(3)}`;
    const logit = `logit of ${entry.said[target].title} ${part.logit.toFixed(2).replace("-", MINUS)}`;
    $("moment").textContent = `${words}; ${logit}`;
    $("moment").dataset.frame = record.frame;
    for (const [name, value] of [["max", card.frames.length], ["now", n + 1], ["text", `${words}; ${logit}`]]) {
      plot.setAttribute(`aria-value${name}`, value);
    }
  }

  // ---- playing ------------------------------------------------------------------------------------------------------

  function stop() {
    run = null;
    play.textContent = "Play";
  }
  async function start() {
    const { card } = shown, mine = {};
    let n = card.frames.indexOf(card.script);
    if (n === card.frames.length - 1) await choose(card, (n = 0));
    run = mine;
    play.textContent = "Pause";
    const from = card.times[n] * 1000 - performance.now(); // a frame that takes too long leaves out others
    while (run === mine && n < card.frames.length - 1) {
      const next = Math.max(n + 1, at(card, (from + performance.now()) / 1000));
      await new Promise((resume) => setTimeout(resume, card.times[next] * 1000 - from - performance.now()));
      if (run !== mine) return;
      await choose(card, (n = next));
    }
    if (run === mine) stop();
  }
  const toggle = () => (run ? stop() : start());
  play.addEventListener("click", toggle);
  viewer.addEventListener("close", () => {
    stop();
    wanted = shown = null;
  });

  // ---- choosing -----------------------------------------------------------------------------------------------------

  let held = false;
  plot.addEventListener("pointerdown", (event) => {
    if (!shown || event.button !== 0) return;
    plot.setPointerCapture(event.pointerId);
    held = true;
    stop();
    choose(shown.card, pointed(shown.card, plot, event));
  });
  plot.addEventListener("pointermove", (event) => { if (held && shown) choose(shown.card, pointed(shown.card, plot, event)); });
  for (const kind of ["pointerup", "pointercancel"]) plot.addEventListener(kind, () => { held = false; });
  viewer.addEventListener("keydown", (event) => {
    if (!shown || event.ctrlKey || event.altKey || event.metaKey || event.target.closest("#stage, input, select, pre")) return;
    if (event.key === " " && !event.target.closest("button, summary")) toggle();
    else if (event.key in STEPS) {
      stop();
      const { card } = wanted ? { card: wanted[0] } : shown;
      choose(card, within(card, (wanted ? wanted[1] : card.frames.indexOf(card.script)) + STEPS[event.key]));
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }, true);

  return { tell };
}
