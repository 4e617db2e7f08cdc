for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => heading.querySelector("button").addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") === "descending" || !heading.hasAttribute("aria-sort")
      && heading.classList.contains("text");
    headings.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => {
      const cell = row.cells[place], given = cell.dataset.v;
      return given !== undefined ? (given === "" ? null : Number(given)) : cell.textContent.trim();
    };
    for (const body of table.tBodies) {
      const rows = [...body.rows].map(row => [value(row), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true});
        return up ? order : -order;
      });
      body.append(...rows.map(([, row]) => row));
    }
  }));
}
const chooser = document.querySelector("#ranking");
if (chooser) {
  const bodies = [...document.querySelectorAll("#images tbody")];
  const choose = () => bodies.forEach(body => { body.hidden = body.dataset.ranking !== chooser.value; });
  chooser.addEventListener("change", choose);
  choose();
}
for (const section of document.querySelectorAll(".comparison")) {
  const sides = JSON.parse(section.querySelector("script").textContent);
  const range = section.querySelector("input");
  const show = () => {
    for (const [side, place] of [["right", 0], ["left", 1]]) {
      const chosen = sides[section.querySelector("select." + side).value];
      for (const part of ["whole", "zoom"]) {
        const image = section.querySelectorAll("." + part + " img")[place];
        if (image.getAttribute("src") !== chosen[part]) image.src = chosen[part];
        if (place) image.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`;
      }
    }
  };
  section.addEventListener("input", show);
  for (const image of section.querySelectorAll(".whole img")) {
    image.addEventListener("error", () => { section.querySelector(".missing").hidden = false; });
  }
  show();
}
