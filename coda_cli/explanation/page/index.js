// The sheet of many pages: of ten thousand pictures only those that one has come to are drawn.
(() => {
  const AT_ONCE = 240; // pictures
  const { addresses, most } = JSON.parse($("config").textContent);
  const cards = JSON.parse($("pictures").textContent).map((data, order) => ({
    data, order, address: `${addresses[Math.floor(order / most)]}#${(order % most) + 1}`,
  }));
  let shown = [], drawn = 0;

  function element(tag, className, ...content) {
    const made = document.createElement(tag);
    made.className = className;
    made.append(...content);
    return made;
  }
  function made({ data, address }) {
    const card = element("a", "card"), picture = element("img", ""), name = document.createElement("bdi");
    card.href = address;
    card.title = data.name;
    Object.assign(picture, { alt: "", src: `data:image/jpeg;base64,${data.thumbnail}` });
    name.textContent = data.name.slice(data.name.indexOf("/") + 1);
    const title = document.createElement("bdi");
    title.textContent = data.class;
    card.append(
      element("span", "frame", picture), element("span", "name", name),
      element("span", "class", title, " ", element("span", "p", data.p.toFixed(3))),
    );
    const notes = [
      ["wrong", "wrong" in data, () => `not ${data.truth}`], ["wrong", "inexact" in data, () => "NOT EXACT"],
      ["note", "outside" in data, () => `${Math.round(100 * data.outside)} % outside`],
    ];
    for (const [kind, is, said] of notes) if (is) card.append(element("span", kind, said()));
    return card;
  }
  function more() {
    $("sheet").append(...shown.slice(drawn, drawn + AT_ONCE).map(made));
    drawn = Math.min(shown.length, drawn + AT_ONCE);
    $("more").hidden = drawn === shown.length;
  }
  function arrange() {
    ({ shown } = arranged(cards));
    drawn = 0;
    $("sheet").replaceChildren();
    more();
  }
  $("more").firstChild.addEventListener("click", more);
  const end = new IntersectionObserver((changes) => {
    if (!changes.some((change) => change.isIntersecting)) return;
    more();
    end.unobserve($("more"));
    end.observe($("more")); // it may still be near: then it is told once more
  }, { rootMargin: "1000px" });
  end.observe($("more"));
  prepareTools(cards, arrange);
})();
