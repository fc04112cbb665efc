"use strict";
// Tables that sort by a click on a column's head. Without this script the page reads the same.
const SECONDS = { s: 1, min: 60, h: 3600 };
const NOTHING = new Set(["", "–", "-"]);
const LEADS = /^([≤<≥>×]?)\s*([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)/i;

// "≤ 0.01 to 3" → [0.01, -1, 3]: its numbers, the sign after the first; null where no number leads the cell.
function numbers(text) {
  const plain = text.replaceAll("−", "-");
  const found = plain.match(LEADS);
  if (!found) return null;
  const value = (word) => Number(word.replaceAll(",", ""));
  const rest = plain.slice(found[0].length).trim();
  const sign = { "≤": -1, "<": -1, "≥": 1, ">": 1 }[found[1]] ?? 0;
  const others = rest.match(/[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?/gi) ?? [];
  return [value(found[2]) * (SECONDS[rest] ?? 1), sign, ...others.map(Number)];
}

function compareLists(a, b) {
  for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) return a[i] - b[i];
  return a.length - b.length;
}

function sortBy(table, column, down) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
  const empty = rows.filter(({ text }) => NOTHING.has(text));
  const full = rows.filter(({ text }) => !NOTHING.has(text)).map((entry) => ({ ...entry, key: numbers(entry.text) }));
  const numeric = full.every(({ key }) => key !== null);
  const order = numeric
    ? (a, b) => compareLists(a.key, b.key)
    : (a, b) => a.text.localeCompare(b.text, undefined, { numeric: true });
  full.sort((a, b) => (down ? order(b, a) : order(a, b)));
  body.append(...[...full, ...empty].map(({ row }) => row));
}

for (const table of document.querySelectorAll("main table")) {
  if (!table.tHead || table.tBodies[0].rows.length < 2) continue;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortBy(table, column, down);
    });
  });
}

// What is folded is printed all the same.
const printing = window.matchMedia("print");
const folded = new Set();
printing.addEventListener("change", () => {
  for (const part of document.querySelectorAll("main details")) {
    if (printing.matches && !part.open) folded.add(part);
    if (folded.has(part)) part.open = printing.matches;
  }
  if (!printing.matches) folded.clear();
});

// A link to a folded section, or into one, unfolds it.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const part = target?.closest("details.fold");
  if (!part || part.open) return;
  part.open = true;
  target.scrollIntoView();
}
window.addEventListener("hashchange", unfold);
unfold();

// Contents on a narrow screen fold away once a section is chosen.
for (const link of document.querySelectorAll("nav.within a")) {
  link.addEventListener("click", () => { link.closest("details").open = false; });
}
