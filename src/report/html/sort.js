// Makes the heads of sortable tables into buttons. Without JavaScript the tables stay as they are.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[place].dataset.key;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const difference = x !== "" && y !== "" ? x - y : NaN;
        return Number.isNaN(difference) ? x.localeCompare(y) : difference;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b))));
    });
  });
}
