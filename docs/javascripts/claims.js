// Buttons above the claims' tables that show only the sentences of one verdict.
document.addEventListener("DOMContentLoaded", () => {
  const heading = [...document.querySelectorAll("h1")].find((h) => h.textContent.startsWith("Claims, one by one"));
  if (!heading) return;
  const tables = [...document.querySelectorAll("article table")].filter((t) => t.rows[0].cells[1]?.textContent.trim() === "verdict");
  const rows = tables.flatMap((t) => [...t.tBodies[0].rows]);
  const verdict = (row) => row.cells[1].textContent.replace("†", "").trim();
  const bar = document.createElement("p");
  const show = (word, button) => {
    rows.forEach((row) => { row.hidden = word !== "all" && verdict(row) !== word; });
    bar.querySelectorAll("button").forEach((b) => {
      b.setAttribute("aria-pressed", String(b === button));
      b.classList.toggle("md-button--primary", b === button);
    });
  };
  for (const word of ["all", "supported", "not supported", "undecided", "not tested"]) {
    const button = document.createElement("button");
    const count = word === "all" ? rows.length : rows.filter((row) => verdict(row) === word).length;
    button.textContent = `${word} (${count})`;
    button.className = "md-button claims-filter";
    button.addEventListener("click", () => show(word, button));
    bar.append(button, " ");
  }
  tables[0].closest(".md-typeset__scrollwrap, table").before(bar);
  show("all", bar.firstChild);
});
