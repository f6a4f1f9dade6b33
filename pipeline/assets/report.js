"use strict";
(() => {
  const table = document.getElementById("class-table");
  if (table) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [Number(a), Number(b)];
      return a !== "" && b !== "" && !Number.isNaN(x - y) ? x - y : String(a).localeCompare(String(b), undefined, { numeric: true });
    };
    for (const button of table.querySelectorAll("th button")) {
      button.addEventListener("click", () => {
        const header = button.closest("th");
        const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
        header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const column = header.cellIndex;
        rows.sort((a, b) => {
          const [x, y] = [key(a, column), key(b, column)];
          if ((x === "") !== (y === "")) return x === "" ? 1 : -1; // what has no number comes last
          return sign * compare(x, y);
        });
        body.append(...rows);
      });
    }
    const form = document.getElementById("class-search");
    const input = form.querySelector("input");
    const count = form.querySelector("output");
    const search = () => {
      const words = input.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLocaleLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      count.textContent = words.length ? `${shown} of ${rows.length} classes` : "";
    };
    input.addEventListener("input", search);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
  }
  const matrix = document.querySelector(".matrix");
  const readout = document.getElementById("matrix-cell");
  if (matrix && readout) {
    const show = (event) => {
      const title = event.target.closest(".cell")?.querySelector("title");
      if (title) readout.textContent = title.textContent;
    };
    matrix.addEventListener("pointerover", show);
    matrix.addEventListener("click", show);
  }
})();
