"use strict";

for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}

/* Sort a table by a column, and the other way round if it is sorted by that; what has no value stays last. */
function sort(header) {
  const table = header.closest("table");
  const opposite = { ascending: "descending", descending: "ascending" };
  const order = opposite[header.getAttribute("aria-sort")] || header.dataset.first;
  const way = order === "ascending" ? 1 : -1;
  const value = (row) => row.cells[header.cellIndex].dataset.value;
  const compare =
    header.dataset.kind === "number" ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en", { numeric: true });
  for (const body of table.tBodies) {
    // The heading of a group stays where it is, and its rows below it.
    const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
    rows.sort((first, second) => {
      const [a, b] = [value(first), value(second)];
      return a === "" || b === "" ? (a === "") - (b === "") : way * compare(a, b);
    });
    body.append(...rows);
  }
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) {
    other.setAttribute("aria-sort", other === header ? order : "none");
  }
}

for (const form of document.querySelectorAll("form.filter")) {
  const update = () => filter(form);
  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update)); // after the fields are
  update(); // a browser may have kept what was chosen before
}

/* Show the items that have what is chosen in every field, and say how many these are. */
function filter(form) {
  const items = document.querySelectorAll(form.dataset.items);
  const fields = [...form.querySelectorAll("select")].filter((field) => field.value);
  let shown = 0;
  for (const item of items) {
    item.hidden = !fields.every((field) => item.dataset[field.name].split(" ").includes(field.value));
    shown += !item.hidden;
  }
  form.querySelector("output").textContent = `${shown} of ${items.length} shown`;
}
