// Sort a table by a column; go to a tensor's line from its square.
"use strict";
document.documentElement.classList.add("js");
const table = document.querySelector("table.sortable");
const heads = [...table.tHead.rows[0].cells];
const key = (row, column) => {
  const text = row.cells[column].dataset.key;
  return text === undefined ? null : Number.isNaN(Number(text)) ? text : Number(text);
};
heads.forEach((head, column) => {
  head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row, column) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return (a.key < b.key ? -1 : a.key > b.key ? 1 : 0) * (up ? 1 : -1);
    });
    rows.forEach(({ row }) => table.tBodies[0].append(row));
  });
});
