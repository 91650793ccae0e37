// The page of a summary: tables that can be sorted, and the one of all pictures, which is drawn as one comes to it.
(() => {
  const AT_ONCE = 200; // rows
  const valueOf = (cell) => (cell.matches("th, .text") ? cell.textContent : Number.parseFloat(cell.textContent));

  // Make the headings of a table buttons; `sort(column, sign)` is called when one is pressed.
  function sortable(table, sort) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const falling = heading.ariaSort === "ascending" || (!heading.ariaSort && !heading.classList.contains("text") && column > 0);
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.ariaSort = falling ? "descending" : "ascending";
        sort(column, falling ? -1 : 1);
      });
    });
  }
  // Texts and numbers in one column: what is not known is last.
  function ordered(rows, keyOf, sign) {
    return [...rows].sort((a, b) => {
      const [one, other] = [keyOf(a), keyOf(b)];
      if (typeof one !== typeof other) return (typeof one === "number") - (typeof other === "number");
      return inOrder(one, other, sign);
    });
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const [body] = table.tBodies;
    const given = [...body.rows];
    sortable(table, (column, sign) => {
      body.append(...ordered(given, (row) => valueOf(row.cells[column]), sign));
    });
  }

  const COLUMNS = [ // of what stands in the page about each picture
    ["path", "text path"], ["label", "text"], ["predicted", "text"], ["right", "text"], ["p", 3], ["logit", 2], ["for", 2],
    ["against", 2], ["half in", "%1"], ["inside", "%0"], ["ratio", 1],
  ];
  const [PATH, LABEL, PREDICTED, RIGHT] = [0, 1, 2, 3];
  if (!$("pictures")) return;
  const lines = JSON.parse($("lines").textContent);
  const columns = COLUMNS.map((column, n) => [...column, n]).filter(([, , n]) => lines.some((line) => line[n] !== null));
  let sorted = lines, shown = lines, drawn = 0;

  function said(value, kind) {
    if (value === null) return "";
    if (value === true || value === false) return value ? "yes" : "no";
    if (typeof kind === "number") return value.toFixed(kind).replace("-", MINUS);
    return kind.startsWith("%") ? `${(100 * value).toFixed(Number(kind[1]))}%` : value;
  }
  function rowOf(line) {
    const row = document.createElement("tr");
    for (const [, kind, n] of columns) {
      const cell = row.insertCell(), text = document.createElement("bdi");
      text.textContent = said(line[n], kind);
      cell.append(text);
      if (String(kind).startsWith("text")) cell.className = kind;
      if (n === RIGHT && line[n] === false) cell.classList.add("wrong");
    }
    return row;
  }
  function more() {
    $("pictures").tBodies[0].append(...shown.slice(drawn, drawn + AT_ONCE).map(rowOf));
    drawn = Math.min(shown.length, drawn + AT_ONCE);
    $("more").hidden = drawn === shown.length;
  }
  function draw() {
    const wanted = $("path").value.trim().toLowerCase(), label = $("label").value, predicted = $("predicted").value;
    shown = sorted.filter((line) =>
      (!wanted || line[PATH].toLowerCase().includes(wanted)) && (!label || line[LABEL] === label) &&
      (!predicted || line[PREDICTED] === predicted) && (!$("wrong").checked || line[RIGHT] === false));
    $("pictures").tBodies[0].replaceChildren();
    drawn = 0;
    more();
    $("shown").textContent = shown.length === lines.length ? `${lines.length} shown` : `${shown.length} of ${lines.length} shown`;
  }
  function options(select, n) {
    const names = [...new Set(lines.map((line) => line[n]))].filter((name) => name !== null);
    select.append(...names.sort((a, b) => a.localeCompare(b)).map((name) => new Option(name, name)));
    select.parentElement.hidden = !names.length;
  }
  const head = $("pictures").tHead.insertRow();
  for (const [name, kind] of columns) {
    const heading = document.createElement("th");
    Object.assign(heading, { scope: "col", textContent: name, className: String(kind).startsWith("text") ? "text" : "" });
    head.append(heading);
  }
  sortable($("pictures"), (column, sign) => {
    const n = columns[column][2];
    sorted = ordered(lines, (line) => (line[n] === null ? NaN : typeof line[n] === "boolean" ? Number(line[n]) : line[n]), sign);
    draw();
  });
  options($("label"), LABEL);
  options($("predicted"), PREDICTED);
  $("wrong").parentElement.hidden = !lines.some((line) => line[RIGHT] !== null);
  $("filter").hidden = lines.length < 2;
  $("filter").addEventListener("input", draw);
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  $("more").firstChild.addEventListener("click", more);
  draw();
})();
