// The sorting and filtering of a sheet of pictures, in the page itself and in the sheet of many pages. What is known of a
// picture is `data`, as in the attributes of a card: numbers may be texts, and what is not known is missing.
const OF_NUMBERS = ["p", "logit", "against", "outside"];

// Compare two texts or two numbers; what is not known (NaN) comes last, whatever the sign.
function inOrder(one, other, sign) {
  if (typeof one === "string") return sign * one.localeCompare(other, undefined, { numeric: true });
  if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other);
  return sign * (one - other);
}
// The pictures in the order that is asked for, and which of them are.
function arranged(cards) {
  const by = $("sort").value, sign = $("falling").checked ? -1 : 1;
  const keyOf = ({ order, data }) => (by === "order" ? order : OF_NUMBERS.includes(by) ? Number(data[by] ?? NaN) : data[by]);
  const most = Number($("most").value), least = Number($("least").value);
  const wanted = $("name").value.trim().toLowerCase();
  const fits = ({ data }) =>
    (!$("class").value || data.class === $("class").value) &&
    (!wanted || data.name.toLowerCase().includes(wanted)) &&
    (most === 1 || Number(data.p) <= most) &&
    (least === 0 || Number(data.outside) >= least) &&
    (!$("wrong").checked || "wrong" in data);
  const sorted = [...cards].sort((a, b) => inOrder(keyOf(a), keyOf(b), sign) || a.order - b.order);
  const shown = sorted.filter(fits);
  $("most-said").textContent = most.toFixed(2);
  $("least-said").textContent = `${Math.round(100 * least)} %`;
  $("shown").textContent = shown.length === cards.length ? `${cards.length} shown` : `${shown.length} of ${cards.length} shown`;
  return { sorted, shown };
}
// Show the controls that these pictures have a use for.
function prepareTools(cards, arrange) {
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
  arrange();
}
